"""The plots of the model cards and of training, as SVG. Needs matplotlib (`pip install -e ".[evaluate]"`)."""

import json
import textwrap
from pathlib import Path

CURVES = {
    "smaller": ("size of objects, share of training's", 1.0),
    "noise": ("noise, standard deviation of 255", 0.0),
}
CURVES |= {"blur": ("blur, radius in pixels", 0.0)}
BLUE, ORANGE, GREY = "#1f5fbf", "#d55e00", "#8a94a0"


def _figure(columns: int, width: float, height: float = 2.6, rows: int = 1):
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install -e ".[evaluate]"') from error
    matplotlib.use("svg")
    # Same figures, same bytes.
    matplotlib.rcParams.update({"svg.hashsalt": "qformer-viz", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "legend.frameon": False, "svg.fonttype": "none"})
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).flatten()


def _save(figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    return path


def draw(metrics: dict, folder: Path) -> list[Path]:
    """Every plot that these figures allow."""
    paths = [calibration(metrics["calibration"], folder / "calibration.svg")]
    if "smaller" in metrics:
        paths.append(curves(metrics, folder / "curves.svg"))
    if "attention" in metrics:
        paths.append(attention_on_objects(metrics["attention"], folder / "attention.svg"))
    if "winners" in metrics:
        paths.append(winners(metrics["winners"], folder / "winners.svg"))
    return paths


def curves(metrics: dict, path: Path) -> Path:
    """Caption F1 and exact answers against smaller objects, noise and blur; the left end is the scene as it is."""
    figure, axes = _figure(len(CURVES), 9)
    for axis, (name, (label, start)) in zip(axes, CURVES.items(), strict=True):
        levels = [start, *map(float, metrics[name])]
        for key, colour, title in (
            ("noun_f1", BLUE, "caption nouns, F1"),
            ("exact", ORANGE, "answers exact"),
        ):
            values = [metrics["undisturbed"][key], *(at[key] for at in metrics[name].values())]
            axis.plot(levels, values, "o-", color=colour, label=title, markersize=3)
        axis.set(xlabel=label, ylim=(0, 1.02))
        if start:
            axis.invert_xaxis()
    axes[0].legend(loc="lower left")
    return _save(figure, path)


def calibration(found: dict, path: Path) -> Path:
    """Share right against stated probability; the area of a dot is the number of answers."""
    figure, (axis,) = _figure(1, 3.2)
    sure, right, count = zip(*found["bins"], strict=True)
    axis.plot((0, 1), (0, 1), color=GREY, linewidth=1)
    axis.scatter(sure, right, [4 + 120 * n / max(count) for n in count], color=BLUE)
    axis.set(xlabel="stated probability", ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.02))
    return _save(figure, path)


def attention_on_objects(attention: dict, path: Path) -> Path:
    """Each query's share of attention on objects, one line a cross-attention layer."""
    figure, (axis,) = _figure(1, 7)
    for colour, (number, layer) in zip((BLUE, ORANGE, GREY) * 4, attention["layers"].items(), strict=False):
        axis.plot(layer["per_query"], "o-", color=colour, label=f"layer {number}", markersize=3, linewidth=1)
    axis.axhline(attention["area_of_objects"], color="black", linewidth=0.8, linestyle=":")
    axis.set(xlabel="query", ylabel="attention on objects", ylim=(0, 1))
    axis.legend(ncols=3)
    return _save(figure, path)


def bottleneck(found: dict, path: Path) -> Path:
    """What `python -m qformer_viz bottleneck --out` wrote: shares of each label's bits read off patches and queries,
    and off each query alone."""
    names = list(found["each"])
    figure, (left, right) = _figure(2, 11, 3)
    for shift, side, colour in ((-0.18, "patches", GREY), (0.18, "queries", BLUE)):
        for y, name in enumerate(names):
            one = found[side]["attention"][name]
            share, *ends = (one[key] / one["entropy"] for key in ("bits", "low", "high"))
            left.barh(y + shift, max(0, share), 0.34, color=colour, label=None if y else side)
            left.plot(ends, (y + shift,) * 2, color="black", linewidth=1)
    left.set(xlabel="share of the label's bits, attention probe", xlim=(0, 1), yticks=range(len(names)))
    left.set_yticklabels(names)
    left.invert_yaxis()
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    whole = {name: one["entropy"] for name, one in found["queries"]["attention"].items()}
    shares = [[max(0, bits) / whole[name] for bits in found["each"][name]] for name in names]
    shown = right.imshow(shares, cmap="viridis", aspect="auto", vmin=0)
    right.set(xlabel="query, alone", yticks=range(len(names)))
    right.set_yticklabels(names)
    figure.colorbar(shown, ax=right, label="share of bits, linear probe")
    return _save(figure, path)


def winners(counts: list[int], path: Path) -> Path:
    """How often each query is the most similar one to its image's caption."""
    figure, (axis,) = _figure(1, 7)
    axis.bar(range(len(counts)), counts, color=BLUE)
    axis.set(xlabel="query", ylabel="images won")
    return _save(figure, path)


def truth(found: dict, path: Path) -> Path:
    """What `python -m qformer_viz faithfulness --out` wrote: a dot and its interval for every map and measure."""
    rows = list(found["summary"])
    figure, axes = _figure(len(found["measures"]), 13, 0.9 + 0.24 * len(rows))
    for axis, (measure, label) in zip(axes, found["measures"].items(), strict=True):
        for y, title in enumerate(rows):
            mean, low, high = found["summary"][title][measure]
            colour = GREY if title.startswith("control") else BLUE
            axis.plot((low, high), (y, y), color=colour, linewidth=2)
            axis.plot(mean, y, "o", color=colour, markersize=4)
        axis.set(xlabel="\n".join(textwrap.wrap(label, 26)), yticks=range(len(rows)), yticklabels=[])
        axis.grid(axis="x", color="#e4e7eb", linewidth=0.6)
        axis.invert_yaxis()
    axes[0].set_yticklabels(rows)
    return _save(figure, path)


def learned(found: dict, path: Path) -> Path:
    """A panel for every stage of a run: its loss, and on a scale of its own the first share it counted, by step."""
    stages, columns = found["curves"], 5
    rows = -(-len(stages) // columns)
    figure, axes = _figure(columns, 13, 2.1 * rows, rows)
    for axis in axes[len(stages) :]:
        axis.set_axis_off()
    for axis, (stage, curve) in zip(axes, stages.items(), strict=False):
        steps, share = [point["step"] for point in curve], shares(curve)[0]
        axis.plot(steps, [point["loss"] for point in curve], color=BLUE, linewidth=1)
        axis.tick_params(axis="y", labelcolor=BLUE)
        axis.set_title(f"{stage}\nloss, {share.replace('_', ' ')}", fontsize=8)
        right = axis.twinx()
        counted = [(point["step"], point[share]) for point in curve if share in point]
        right.plot(*zip(*counted, strict=True), color=ORANGE, linewidth=1)
        right.tick_params(axis="y", labelcolor=ORANGE)
        right.set(ylim=(0, 1.02))
        right.spines["right"].set_visible(True)
    return _save(figure, path)


def shares(curve: list[dict]) -> list[str]:
    """What a stage counted beside its loss."""
    return [name for name in curve[-1] if name not in ("step", "minutes", "loss")]


def training(out: Path) -> list[Path]:
    """One plot a stage found under `out`: loss on the left, the other figures on the right, against the step."""
    paths = []
    for file in sorted(out.glob("*_curve.json")):
        curve = json.loads(file.read_text())
        if not curve:
            continue
        figure, (left, right) = _figure(2, 8)
        steps = [point["step"] for point in curve]
        left.plot(steps, [point["loss"] for point in curve], color=BLUE)
        left.set(xlabel="step", ylabel="loss", title=file.stem.removesuffix("_curve"))
        names = dict.fromkeys(
            name for point in curve for name in point if name not in ("step", "minutes", "loss")
        )
        for name in names:
            found = [(point["step"], point[name]) for point in curve if name in point]
            right.plot(*zip(*found, strict=True), label=name.replace("_", " "), linewidth=1)
        right.set(xlabel="step")
        if names:
            right.legend(fontsize=7)
        paths.append(_save(figure, file.with_suffix(".svg")))
    return paths
