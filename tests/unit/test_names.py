"""Every dotted name in the documents, the docstrings and the messages is there: as an attribute after the import that
a reader would write, as a module, or as a member of one."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # an interpreter of its own, which imports nearly everything
ROOT = Path(__file__).parents[2]
NAME = r"(?<![\w./-])({})((?:\.[A-Za-z_]\w*)+)"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *ROOT.glob("assets/*/README.md"),
    *ROOT.glob("docs/**/*.md"),
]
SOURCES = [
    path
    for package in ("qformer_viz", "model")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "deprecated.py"  # it lists the old names
]
FILES = ("py", "md", "toml", "safetensors", "json")  # `model.safetensors` is a file's name

# The names after `import qformer_viz, model` and nothing else, where no other test has imported a thing. An old name
# that still works, with a warning, is not there.
PROBE = """
import importlib, json, sys, warnings
import importlib.util, qformer_viz, model
warnings.filterwarnings("error", r"(qformer_viz|model)\\.", DeprecationWarning)
old_modules = getattr(getattr(qformer_viz, "deprecated", None), "MODULES", {})
def there(name):
    top, *rest = name.split(".")
    found = sys.modules[top]
    try:
        for part in rest:
            found = getattr(found, part)
        return True
    except (AttributeError, DeprecationWarning):
        pass
    module, _, member = name.rpartition(".")
    try:
        if importlib.util.find_spec(name) is not None:
            return name not in old_modules
    except ModuleNotFoundError:
        pass
    try:
        return hasattr(importlib.import_module(module), member)
    except (ImportError, DeprecationWarning):
        return False
print(json.dumps([name for name in json.load(sys.stdin) if not there(name)]))
"""
NOT_THERE = {
    "qformer_viz.explain.prepare",  # the function hid the module of its name once
    "qformer_viz.nonsense",
    "qformer_viz.ui.chat.nonsense",
    "qformer_viz.across",  # a name of 0.1
    "qformer_viz.similarity",  # a module of 0.1
}


def names(text: str, package: str) -> set[str]:
    found = {"".join(match) for match in re.findall(NAME.format(package), text)}
    return {name for name in found if name.rpartition(".")[2] not in FILES}


def in_documents() -> set[str]:
    found = set()
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if path.name == "CHANGELOG.md":  # what older releases named need not be there any more
            text = "## ".join(text.split("\n## ")[:2])
        found |= names(text, "qformer_viz")
        # `model` is also a variable in the blocks, which the README's own test runs.
        prose = re.sub(r"```.*?```", "", text, flags=re.S)
        found |= {name for code in re.findall(r"`([^`]+)`", prose) for name in names(code, "model")}
    return found


def in_sources() -> set[str]:
    """Of the library in all strings, messages among them; of `model` where a docstring quotes it."""
    found = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= names(node.value, "qformer_viz")
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                arguments = [
                    each.arg for each in getattr(node, "args", ast.arguments([], [], None, [], [])).args
                ]
                if "model" not in arguments:
                    quoted = re.findall(r"`([^`]+)`", text)
                    found |= {name for code in quoted for name in names(code, "model")}
    return found


def missing(found: set[str]) -> list[str]:
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps(sorted(found)), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def not_there() -> set[str]:
    """The names of documents and sources that are missing, and those of NOT_THERE, by one interpreter."""
    documents, sources = in_documents(), in_sources()
    assert len(documents) > 15 and len(sources) > 15
    assert "qformer_viz.prepare" in documents and "qformer_viz.types.Capture" in sources
    return set(missing(documents | sources | NOT_THERE))


def test_every_dotted_name_is_there(not_there):
    assert not_there - NOT_THERE == set()


def test_a_name_that_is_not_there_is_found(not_there):
    assert not_there >= NOT_THERE
