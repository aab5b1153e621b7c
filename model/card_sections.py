"""Sections of a model card from what other commands measured, and left as files beside the weights."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from model import card_plots
from model.recipe import SCHEDULES

LEARNED = "training.json"
PASSED = "bottleneck.json"
WITHIN = "inside.json"
PARTS = "ablation.md"
TRUTH = "faithfulness.json"
MEANING = "faithfulness.md"

# The labels of `ground_truth.labels`, in words.
LABELS = {
    "nouns": "which of 64 nouns are there",
    "number": "how many objects",
    "places": "in which ninths of the picture they are",
    "first": "the noun of the leftmost object",
    "size": "its size",
    "artwork": "the artwork sets of the drawings",
    "background": "the kind of background",
}


def keep_training(run: Path, folder: Path) -> None:
    """Keep the curves and gates of the training below `run` beside the weights."""
    names = [name for stage in SCHEDULES.values() for name in stage]
    learned = {"curves": {name: _read(run / f"{name}_curve.json") for name in names}}
    learned["gates"] = {stage: _read(run / f"{stage}_gate.json") for stage in ("lm", "vit")}
    (folder / LEARNED).write_text(json.dumps(learned) + "\n")


def draw(folder: Path) -> None:
    """The plot of every file that is there."""
    for name, plot in (
        (LEARNED, card_plots.learned),
        (PASSED, card_plots.bottleneck),
        (TRUTH, card_plots.truth),
    ):
        if (folder / name).exists():
            plot(_read(folder / name), folder / "figures" / Path(name).with_suffix(".svg"))


def sections(folder: Path) -> str:
    """A section for every file that is there."""
    parts = ""
    if (folder / LEARNED).exists():
        parts += _learned(_read(folder / LEARNED))
    if (folder / PASSED).exists():
        parts += _passed(_read(folder / PASSED), folder.name)
    if (folder / WITHIN).exists():
        parts += _within(_read(folder / WITHIN), folder.name)
    if (folder / PARTS).exists():
        parts += f"## What each part contributes\n\n{(folder / PARTS).read_text(encoding='utf-8')}\n\n"
    if (folder / TRUTH).exists():
        parts += _truth(_read(folder / TRUTH), folder.name)
        if (folder / MEANING).exists():
            parts += f"{(folder / MEANING).read_text(encoding='utf-8')}\n\n"
    return parts


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def _learned(found: dict) -> str:
    """The run that the weights come from: its curves and gates."""
    words, patches = (found["gates"][stage] for stage in ("lm", "vit"))
    rows = (
        [
            stage,
            f"{last['step']}",
            f"{last['minutes']:.0f}",
            f"{last['loss']:.3f}",
            ", ".join(f"{name.replace('_', ' ')} {last[name]:.3f}" for name in card_plots.shares(curve)),
        ]
        for stage, curve in found["curves"].items()
        for last in curve[-1:]
    )
    table = _table(["stage", "steps", "minutes", "loss", ""], rows)
    unseen = " and ".join(f"{share:.3f}" for name, share in patches.items() if name.startswith("noun, "))
    return f"""## How it was trained

One run of `python -m model train`, as it is, from nothing, on two cores made all three bundled models (its stages were started by
hand, each with `--stage`). Minutes by each stage's own clock; other work ran beside it. Loss and the rest are means of the last steps, on what the stage trains on:
"geometry" is an error, "winners" the evenness of the queries that win the comparison (1 is even), the others are shares.

{table}

![loss and the first share counted, by step, for every stage](figures/training.svg)

Before the Q-Former is trained, the ceilings of all that follows: a linear probe reads the noun off the ViT's patches in {patches["noun"]:.3f}
(unseen artwork {unseen}) of cases and the position in {patches["position"]:.3f}; the language model answers
{words["piled"]["all"]:.3f} of questions about written descriptions, one object a slot.

"""


def _passed(found: dict, folder: str) -> str:
    """What `python -m qformer_viz bottleneck --out` wrote."""
    (patches, width), (queries, narrow) = found["sizes"]["patches"], found["sizes"]["queries"]
    both = [found[side][kind] for side in ("patches", "queries") for kind in ("linear", "attention")]
    heads = ("patches, linear", "patches, attention", "queries, linear", "queries, attention")
    rows = {name: [f"{both[3][name]['entropy']:.2f}", *(_bits(one[name]) for one in both)] for name in LABELS}
    for name, kept in found["retention"].items():
        rows[name].append("–" if kept is None else f"**{kept:.2f}**")
    read = _by_label(["", "bits there are", *heads, "retention"], rows)
    most = {name: max(bits) for name, bits in found["each"].items()}
    alone = "; ".join(
        f"{title} {most[name]:.2f} (query {found['each'][name].index(most[name])})"
        for name, title in LABELS.items()
    )
    asked = questions = ""
    if found["asked"]:
        questions = " --questions" + "".join(f' "{question}"' for question in found["asked"])
        quoted = (f"“{question}”" for question in found["asked"])
        columns = [found["queries"]["attention"], *found["asked"].values()]
        table = _by_label(
            ["", "the caption's prompt", *quoted],
            {name: [_bits(one[name]) for one in columns] for name in LABELS},
        )
        asked = (
            f"\nThe same off the queries, by attention, for what the Q-Former reads meanwhile:\n\n{table}\n"
        )
    return f"""## What passes the queries

`python -m qformer_viz bottleneck --model {folder} --scenes {found["images"]}{questions}`: usable information (Xu et al. 2020), the bits of a label that a
probe reads off the ViT's {patches} vectors of {width}, and off the {queries} of {narrow} that the language model gets, {patches * width / (queries * narrow):.1f} times fewer
numbers. The probes learn from seven tenths of the scenes, a fifth that they never saw measures; 95 % bootstrap intervals
over it. "Linear" reads off the mean of the vectors, "attention" off eight weighted means whose weights it learns;
retention compares the two by attention, where it reads more than a tenth of the label off the patches. Above one, reading is
easier after the Q-Former than before: it cannot add information, but does part of the work.

{read}

![bits read off patches and queries, and off each query alone](figures/bottleneck.svg)

The most that a linear probe reads off a single query: {alone}.
{asked}
"""


def _within(found: dict, folder: str) -> str:
    """What `python -m qformer_viz inside --out` wrote."""
    asked = " ".join(f'"{question}"' for question in found["asked"] if question)
    return f"""## Inside the Q-Former

`python -m qformer_viz inside --model {folder} --images {found["images"]} --questions {asked} --out assets/{folder}/{WITHIN}`:
nats that the words which came from the image lose when a part of the Q-Former is replaced by its mean over other images (mean
and bootstrap interval of 95 % over images). "One head": the head of cross- or self-attention that costs a word most, alone;
"queries apart": in self-attention every query sees the means of all other queries; "one query unheard": the others see the mean of
the one query that costs the word most; "one query unread": the language model reads the mean of that query; "strongest layer":
all its heads together; "need the talk": words that lose a nat or more with queries apart; "heard most": the query whose mean costs
the others most, with the share of words. Then, for pairs of images with different answers: how often the answer to the second
becomes the likelier one for the first when the keys and values of the queries in self-attention, or the output of all heads of a
layer, is replaced by what it was with the second.

{found["table"]}

"""


def _truth(found: dict, folder: str) -> str:
    """What `python -m qformer_viz faithfulness --out` wrote."""
    measures = found["measures"]
    rows = (
        [title, *("{:.3f} ({:.2f} to {:.2f})".format(*figures[measure]) for measure in measures)]
        for title, figures in found["summary"].items()
    )
    table = _table(["map", *measures.values()], rows)
    return f"""## Which explanations are true

`python -m qformer_viz faithfulness --scenes {found["scenes"]} --out assets/{folder}/{TRUTH}`: {found["cases"]} certified words (the word falls by more
than one nat when its object is re-rendered away, and not when another object is). Mean and bootstrap interval of 95 % over
scenes; {found["counted"]["deletion"]} of the words for deletion and insertion, where hiding every patch from the Q-Former costs the word more than one nat.
Zero on those two scales is no patch, one the whole image; below zero the word is less probable than without an image.

![Every map and measure with its interval](figures/faithfulness.svg)

{table}

"""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _by_label(heads: Sequence[str], rows: dict[str, list[str]]) -> str:
    """A table with a row for every label."""
    return _table(heads, ([title, *rows[name]] for name, title in LABELS.items()))


def _bits(found: dict) -> str:
    return f"{found['bits']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
