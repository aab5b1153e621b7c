"""Arrows point one way: the library is light to import, and model and qformer_viz do not know each other."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"gradio", "plotly", "transformers"}
PURE = [
    "types",
    "errors",
    "attention",
    "similarity",
    "statistics",
    "locate",
    "capture",
    "uncompiled",
    "files",
    "npz",
    "export",
    "sources",
    "terminal",
    "attribution",
    "explain",
    "faithfulness",
    "benchmark",
    "interplay",
    "heads",
    "inside",
    "verdict",
    "across",
    "apart",
    "information",
    "bottleneck",
    "show",
]

# One interpreter, forking a child per module: torch is loaded once and every child starts without the others.
PROBE = """
import json, os, sys, torch
found = {}
for name in sys.argv[1:]:
    end, start = os.pipe()
    if os.fork() == 0:
        os.environ["PYTHONWARNINGS"] = "ignore"
        __import__(name)
        os.write(start, json.dumps(sorted({module.partition(".")[0] for module in sys.modules})).encode())
        os._exit(0)
    os.close(start)
    found[name] = json.loads(os.fdopen(end).read() or "null")
    os.wait()
print(json.dumps(found))
"""


def test_pure_modules_load_nothing_heavy():
    names = ["qformer_viz", *(f"qformer_viz.{name}" for name in PURE)]
    command = [sys.executable, "-c", PROBE, *names]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert set(found) == set(names)
    for name, loaded in found.items():
        assert loaded is not None, f"{name} cannot be imported"
        assert not HEAVY & set(loaded), f"{name} loads {HEAVY & set(loaded)}"


def _imported(path: Path) -> set[str]:
    """Top-level packages a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize(("package", "other"), [("model", "qformer_viz"), ("qformer_viz", "model")])
def test_the_two_packages_do_not_import_one_another(package, other):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    # The command line wires the two, as app.py does.
    wiring = {ROOT / "qformer_viz" / "__main__.py"}
    guilty = [path.relative_to(ROOT) for path in files if path not in wiring and other in _imported(path)]
    assert not guilty


def test_public_names_exist_and_are_documented():
    import qformer_viz

    assert len(set(qformer_viz.__all__)) == len(qformer_viz.__all__)
    for name in qformer_viz.__all__:
        assert getattr(qformer_viz, name).__doc__, f"{name} has no docstring"
