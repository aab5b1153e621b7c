"""Does a checkpoint work here? Loads it, looks at a photograph, checks what can be checked, and reports."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from qformer_viz.attribution.explanation import attribute, captured, prepare
from qformer_viz.evaluation.library_maps import library_attention

if TYPE_CHECKING:
    from PIL import Image

    from qformer_viz.runtime.pipeline import Pipeline
    from qformer_viz.types import Answer, EncodedImage

FACTS = (
    *("model", "family", "revision", "precision", "quantization", "adapter"),
    *("device", "reason", "prompt", "verified"),
)
CLOSE = {"torch.float32": 1e-4, "torch.bfloat16": 2e-2, "torch.float16": 5e-3}
"""How far the two routes to one number may differ, by the language model's precision."""


@dataclass
class Report:
    """`checks`: (what, whether it holds, detail); `times` in seconds; `facts` name to value."""

    facts: dict[str, str] = field(default_factory=dict)
    checks: list[tuple[str, bool, str]] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        return all(holds for _, holds, _ in self.checks)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.times[what] = round(time.perf_counter() - start, 3)

    def check(self, what: str, holds: bool, detail: str) -> None:
        self.checks.append((what, bool(holds), detail))

    def text(self) -> str:
        """Markdown to paste into an issue."""
        lines = [
            "## QFormer-Viz doctor",
            "",
            f"**{'All checks hold.' if self.healthy else 'Some checks FAIL.'}**",
            "",
        ]
        lines += ["| check | | detail |", "|---|---|---|"]
        lines += [
            f"| {what} | {'ok' if holds else 'FAIL'} | {detail} |" for what, holds, detail in self.checks
        ]
        lines += ["", "| time of | seconds |", "|---|---|"]
        lines += [f"| {what} | {seconds:.3f} |" for what, seconds in self.times.items()]
        lines += ["", "| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in self.facts.items()]
        return "\n".join(lines)


def examine(
    load: Callable[[], Pipeline], image: Image.Image, question: str = "What is in the picture?"
) -> Report:
    """load() -> a pipeline that observes with `qformer_viz.capture`; image: a picture, decoded."""
    report = Report()
    with report.timed("loading"):
        pipe = load()
    about = pipe.describe()
    report.facts |= {name: str(about.get(name)) for name in FACTS}
    report.facts["versions"] = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    report.facts["machine"] = f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"
    with report.timed("checks of the files"):
        for what, holds, detail in pipe.self_check():
            report.check(what, holds, detail)
    with report.timed("ViT and Q-Former"):
        encoded = pipe.encode(image)
    with report.timed("caption"):
        caption = pipe.caption(encoded)
    report.facts["caption of the photograph"] = caption.text
    report.check("the caption has words", bool(caption.text), caption.finish or "")
    with report.timed("answer"):
        answer = pipe.ask(encoded, question)
    report.facts[question] = answer.text
    _capture(report, pipe, encoded)
    if caption.token_ids:
        _words(report, pipe, encoded, caption)
    report.facts["peak memory"] = _peak(pipe.device)
    return report


def _capture(report: Report, pipe: Pipeline, encoded: EncodedImage) -> None:
    maps = captured(encoded).cross_attention[:, 0]
    with report.timed("Q-Former with eager attention"):
        own = library_attention(pipe, encoded)
    elsewhere = ((maps - own).abs().sum(-1).mean() / 2).item()
    # Under reduced precision the two routes round differently in every layer.
    limit = 1e-5 if str(pipe.dtype) == "torch.float32" else 2e-2
    report.check(
        "recorded maps are the library's own",
        elsewhere < limit,
        f"{elsewhere:.1e} of the attention lies elsewhere, mean over maps (limit {limit:.0e})",
    )
    sums = (maps.sum(-1) - 1).abs().max().item()
    report.check("every map sums to one", sums < 1e-3, f"at most {sums:.1e} off; {list(maps.shape)}")
    finite = all(t.isfinite().all() for t in (maps, encoded.queries))
    report.check("maps and queries are finite", finite, f"queries {list(encoded.queries.shape)}")


def _words(report: Report, pipe: Pipeline, encoded: EncodedImage, caption: Answer) -> None:
    context = prepare(pipe, encoded, caption)
    with report.timed("all query knock-outs"):
        found = attribute(context)
    apart = abs(found.logprobs.sum().item() - sum(caption.logprobs)) / max(1, len(caption.token_ids))
    limit = 10 * CLOSE.get(str(pipe.dtype), 2e-2)
    report.check(
        "words score as they were said",
        apart < limit,
        f"{apart:.1e} nats a token between generating and reading (limit {limit:.0e})",
    )
    report.check(
        "the image matters",
        bool(found.image_gain.max() > 0.5),
        f"greatest visual gain {found.image_gain.max():.2f} nats, “{found.words[int(found.image_gain.argmax())]}”",
    )


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB on the GPU"
    try:
        import resource
    except ImportError:  # Windows has none
        import psutil  # comes with accelerate

        memory = psutil.Process().memory_info()
        return f"{getattr(memory, 'peak_wset', memory.rss) / 1e9:.2f} GB of main memory"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9:.2f} GB of main memory"
