"""Arrows point one way, and the library is light to import."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"gradio", "plotly", "transformers"}
LIGHT = (
    "types",
    "errors",
    "atomic_files",
    "attention_maps",
    "hooks",
    "hooks.qformer_modules",
    "hooks.recording",
    "hooks.compiled_modules",
    "attribution",
    "attribution.explanation",
    "analysis.ablation_study",
    "analysis.bottleneck",
    "analysis.model_comparison",
    "analysis.head_ablation",
    "analysis.image_sets",
    "analysis.information",
    "analysis.query_sets",
    "analysis.query_similarity",
    "analysis.attention_statistics",
    "evaluation.assessment",
    "evaluation.benchmark",
    "evaluation.faithfulness",
    "view.archive",
    "view.notebook",
    "view.npz_reader",
    "cli.inputs",
    "cli.terminal",
)
ORDER = (
    "media",
    "domains",
    "hooks",
    "runtime",
    "attribution",
    "analysis",
    "evaluation",
    "view",
    "ui",
    "cli",
)
"""The packages of the library; each may import those before it, and all the modules beside them."""

PROBE = """
import sys
for name in sys.argv[1:]:
    __import__(name)
print(*sorted({module.partition(".")[0] for module in sys.modules}))
"""


def loaded_by(names: list[str]) -> set[str]:
    """The packages that an interpreter holds after importing these modules."""
    command = [sys.executable, "-W", "ignore", "-c", PROBE, *names]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split())


def test_pure_modules_load_nothing_heavy():
    """All in one interpreter; where it holds something heavy, one for each says which module loads it."""
    names = ["qformer_viz", *(f"qformer_viz.{name}" for name in LIGHT)]
    heavy = HEAVY & loaded_by(names)
    assert not heavy, {name: found for name in names if (found := HEAVY & loaded_by([name]))}


def test_a_heavy_module_is_named():
    assert "plotly" in loaded_by(["qformer_viz.view.figures.match_votes"])


def imported(source: str) -> set[str]:
    """Modules that a source imports anywhere, but for those that only a type checker reads."""
    tree, found = ast.parse(source), set()
    unread = {
        id(each)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for each in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "import by the whole name, so that a reader can search for it"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def wrong(path: str, source: str) -> set[str]:
    """What a module of the library imports although it may not."""
    rank = {name: number for number, name in enumerate(ORDER)}
    package = path.split("/")[1]
    here = rank.get(package, -1)
    found = {name for name in imported(source) if name.split(".")[0] == "qformer_viz"}
    against = {name for name in found if rank.get([*name.split("."), ""][1], -1) > here}
    return against | {name for name in imported(source) if name.split(".")[0] in ("model", "app", "tests")}


SOURCES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "qformer_viz").rglob("*.py"))
    # What brings the names together imports from everywhere.
    if path.relative_to(ROOT).as_posix() not in ("qformer_viz/__init__.py", "qformer_viz/__main__.py")
]


@pytest.mark.parametrize("path", SOURCES)
def test_the_arrows_point_one_way(path):
    assert wrong(path, (ROOT / path).read_text(encoding="utf-8")) == set()


def test_an_arrow_that_points_back_is_found():
    assert wrong("qformer_viz/media/image_decoder.py", "from qformer_viz.ui import page") != set()
    assert wrong("qformer_viz/ui/page.py", "import model.recipe") == {"model.recipe"}
    assert wrong("qformer_viz/ui/page.py", "from qformer_viz.media.image_decoder import decode") == set()


def test_no_module_shares_its_name():
    """Neither with another module nor with a public function."""
    import qformer_viz

    modules = [
        path.stem
        for package in ("qformer_viz", "model")
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.stem.startswith("__")
    ]
    assert len(modules) == len(set(modules)), sorted(each for each in modules if modules.count(each) > 1)
    functions = {name for name in qformer_viz.__all__ if not inspect.ismodule(getattr(qformer_viz, name))}
    assert not functions & set(modules)


def test_public_names_exist_and_are_documented():
    import qformer_viz

    assert len(set(qformer_viz.__all__)) == len(qformer_viz.__all__)
    for name in qformer_viz.__all__:
        assert getattr(qformer_viz, name).__doc__, f"{name} has no docstring"
