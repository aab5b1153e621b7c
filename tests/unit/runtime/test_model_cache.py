"""Models that come and go."""

import weakref

import pytest

from qformer_viz.errors import OutOfDeviceMemory
from qformer_viz.runtime.model_cache import ModelCache


class Model:
    """Something large whose end can be seen."""

    def __init__(self, title):
        self.title = title


def loader(title, log=None, fails=()):
    """Loads a stand-in; `fails` are raised first, one a call."""
    fails = list(fails)

    def load():
        if fails:
            raise fails.pop(0)
        found = Model(title)
        if log is not None:
            log.append(weakref.ref(found))
        return found

    return load


def test_the_least_recently_used_model_makes_room():
    shelf, log = ModelCache(most=2), []
    loads = {title: loader(title, log) for title in "ABC"}
    shelf.get("A", loads["A"])
    shelf.get("B", loads["B"])
    shelf.get("A", loads["A"])
    assert len(log) == 2
    shelf.get("C", loads["C"])
    assert [weights() is not None for weights in log] == [True, False, True]
    shelf.get("A", loads["A"])
    assert len(log) == 3


def test_models_are_dropped_only_where_a_new_one_finds_no_room():
    full = OutOfDeviceMemory("needs 9 GB, 1 GB free")
    shelf, log = ModelCache(most=3), []
    shelf.get("A", loader("A", log))
    found = shelf.get("B", loader("B", log, fails=[full]))
    assert found.title == "B" and log[0]() is None and log[1]() is not None
    with pytest.raises(OutOfDeviceMemory, match="9 GB"):
        ModelCache().get("C", loader("C", fails=[full]))
    # What fails for another reason leaves the others alone.
    with pytest.raises(OSError, match="no network"):
        shelf.get("D", loader("D", fails=[OSError("no network")]))
    assert log[1]() is not None
