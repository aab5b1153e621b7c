"""Names of version 0.1. Each works for one release and says the new one in a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

LIBRARY = "qformer_viz"
NAMES = {
    "Across": "ImageSetStatistics",
    "Apart": "ModelComparison",
    "Case": "ExplanationContext",
    "IncompleteCase": "IncompleteContext",
    "across": "image_set_statistics",
    "apart": "compare_models",
    "export": "archive",
    "heads": "head_ablation",
    "interplay": "query_sets",
    "verdict": "assessment",
}
"""Public names of `qformer_viz`, old to new."""

MODULES = {
    "qformer_viz.across": "qformer_viz.analysis.image_sets",
    "qformer_viz.apart": "qformer_viz.analysis.model_comparison",
    "qformer_viz.attention": "qformer_viz.attention_maps",
    "qformer_viz.attribution.case": "qformer_viz.attribution.context",
    "qformer_viz.benchmark": "qformer_viz.evaluation.benchmark",
    "qformer_viz.bottleneck": "qformer_viz.analysis.bottleneck",
    "qformer_viz.doctor": "qformer_viz.evaluation.doctor",
    "qformer_viz.export": "qformer_viz.view.archive",
    "qformer_viz.faithfulness": "qformer_viz.evaluation.faithfulness",
    "qformer_viz.fidelity": "qformer_viz.analysis.precision_comparison",
    "qformer_viz.files": "qformer_viz.atomic_files",
    "qformer_viz.heads": "qformer_viz.analysis.head_ablation",
    "qformer_viz.information": "qformer_viz.analysis.information",
    "qformer_viz.inside": "qformer_viz.analysis.ablation_study",
    "qformer_viz.interplay": "qformer_viz.analysis.query_sets",
    "qformer_viz.locate": "qformer_viz.hooks.qformer_modules",
    "qformer_viz.npz": "qformer_viz.view.npz_reader",
    "qformer_viz.similarity": "qformer_viz.analysis.query_similarity",
    "qformer_viz.statistics": "qformer_viz.analysis.attention_statistics",
    "qformer_viz.verdict": "qformer_viz.evaluation.assessment",
    "model.checkpoints": "qformer_viz.runtime.checkpoints",
    "model.errors": "qformer_viz.errors",
    "model.images": "qformer_viz.media.image_decoder",
    "model.loading": "qformer_viz.runtime.loading",
    "model.matching": "qformer_viz.runtime.matcher",
    "model.memory": "qformer_viz.runtime.device_memory",
    "model.pipeline": "qformer_viz.runtime.pipeline",
    "model.scoring": "qformer_viz.attribution.scorer",
    "model.types": "qformer_viz.types",
}
"""Modules, old to new. `explain`, `capture` and `show` are functions of the package, as they were."""

MEMBERS = {
    "qformer_viz.analysis.image_sets": {"Across": "ImageSetStatistics", "across": "image_set_statistics"},
    "qformer_viz.analysis.model_comparison": {"Apart": "ModelComparison", "apart": "compare_models"},
    "qformer_viz.analysis.precision_comparison": {
        "Fidelity": "PrecisionComparison",
        "compare": "compare_precisions",
    },
    "qformer_viz.analysis.head_ablation": {
        "Heads": "HeadAblation",
        "Talk": "MessageAblation",
        "heads": "ablate_heads",
        "talk": "ablate_query_messages",
    },
    "qformer_viz.analysis.query_sets": {
        "Shapley": "ShapleyValues",
        "lost": "ablation_loss",
        "pairs": "pairwise_interactions",
        "shapley": "shapley_values",
        "smallest": "minimal_sufficient_set",
    },
    "qformer_viz.attribution.context": {"Case": "ExplanationContext"},
    "qformer_viz.evaluation.assessment": {"Verdict": "Assessment", "judge": "assess"},
    "qformer_viz.hooks.qformer_modules": {"Site": "QFormerModules", "find": "find_qformer"},
    "qformer_viz.attribution.scorer": {"Slopes": "Gradients"},
    "qformer_viz.errors": {
        "IncompleteCase": "IncompleteContext",
        "MemoryError_": "OutOfDeviceMemory",
        "ModelError": "UserError",
    },
}
"""Members of modules, old to new."""


METHODS = {"difference": "baseline_corrected", "valued": "norm_based"}
"""Keys of methods, old to new."""


def method(name: str) -> str:
    """The key of a method, also by its name of 0.1."""
    if name not in METHODS:
        return name
    warn(f"method {name!r}", repr(METHODS[name]))
    return METHODS[name]


def warn(old: str, new: str) -> None:
    """One warning at the line that used the old name."""
    warnings.warn(
        f"{old} is now {new}; the old name goes with version 0.3.", DeprecationWarning, stacklevel=3
    )


def renamed(name: str) -> object:
    """What a name of 0.1 stands for in the package. Raises KeyError for any other."""
    new = NAMES[name]
    warn(f"qformer_viz.{name}", f"qformer_viz.{new}")
    return getattr(sys.modules[LIBRARY], new)


class _OldModule(ModuleType):
    """A module under its old name: everything of the new one, and the old names of its members."""

    def __getattr__(self, name: str) -> object:
        home = MODULES[self.__name__]
        new = MEMBERS.get(home, {}).get(name, name)
        return getattr(importlib.import_module(home), new)


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of 0.1 under their new names."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        home = MODULES[module.__name__]
        module.__doc__ = importlib.import_module(home).__doc__
        warn(module.__name__, home)


def install() -> None:
    """Let the old modules be imported."""
    if not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.append(_Finder())
