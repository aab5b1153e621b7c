"""What version 0.1 called otherwise works for one release, with a warning that says the new name."""

import importlib
import subprocess
import sys

import pytest

import model
import qformer_viz
from qformer_viz import deprecated


@pytest.mark.parametrize("old", deprecated.NAMES)
def test_old_names_of_the_package(old):
    with pytest.warns(DeprecationWarning, match=f"qformer_viz.{deprecated.NAMES[old]}"):
        assert getattr(qformer_viz, old) is getattr(qformer_viz, deprecated.NAMES[old])


@pytest.mark.parametrize("old", deprecated.MODULES)
def test_old_modules(old):
    new = importlib.import_module(deprecated.MODULES[old])
    sys.modules.pop(old, None)
    package, _, leaf = old.rpartition(".")
    before = vars(sys.modules[package]).get(leaf)
    with pytest.warns(DeprecationWarning, match=deprecated.MODULES[old]):
        module = importlib.import_module(old)
    for name, now in deprecated.MEMBERS.get(new.__name__, {}).items():
        assert getattr(module, name) is getattr(new, now)
    sys.modules.pop(old)
    # An import leaves its module in the package: put back what was there.
    setattr(sys.modules[package], leaf, before) if before else delattr(sys.modules[package], leaf)


def test_the_loader_where_it_was():
    with pytest.warns(DeprecationWarning, match="qformer_viz.load"):
        assert model.load is qformer_viz.load
    with pytest.raises(AttributeError, match="nonsense"):
        _ = model.nonsense


def test_a_script_of_the_last_version_runs():
    code = (
        "from qformer_viz.attention import entropy; from model.errors import ModelError; import qformer_viz; "
        "print(qformer_viz.Case)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True
    )
    assert "ExplanationContext" in done.stdout and done.stderr.count("goes with version 0.3") == 3
