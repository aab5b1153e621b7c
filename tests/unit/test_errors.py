"""Every error is one of the tree and says what was found, what was expected, and the fix."""

import pickle

import pytest

from qformer_viz import errors

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.QFormerVizError)
]


def test_one_tree():
    assert len(KINDS) > 5
    assert all(issubclass(kind, errors.UserError) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_message_has_three_parts_and_survives_pickling(kind):
    error = kind("a cat", "a dog", "bring a dog")
    for again in (error, pickle.loads(pickle.dumps(error))):
        assert str(again) == "Found a cat; expected a dog. Fix: bring a dog."
        assert (again.found, again.expected, again.fix) == ("a cat", "a dog", "bring a dog")


def test_wrong_arguments_are_value_errors_too():
    for kind in (errors.BadShape, errors.BadValues, errors.BadSelection):
        assert issubclass(kind, ValueError)
