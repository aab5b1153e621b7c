"""Tiny models that tests of several packages read."""

import pytest

import qformer_viz
from qformer_viz.types import Decoding
from tests.support import checkpoint_factory as factory
from tests.support import fake_checkpoints as fakes
from tests.support.fake_checkpoints import FAMILIES, picture


@pytest.fixture(params=FAMILIES, ids="-".join)
def seen(request):
    """(pipeline, encoded image, answer) of every family."""
    pipe = fakes.pipeline(*request.param, observe=qformer_viz.capture)
    for seed in range(2, 40):
        encoded = pipe.encode(picture(seed))
        answer = pipe.caption(encoded, Decoding(max_new_tokens=8))
        # Random weights may say a placeholder, which the library's own forward would replace by a query.
        if answer.token_ids and fakes.IMAGE not in answer.token_ids:
            return pipe, encoded, answer
    raise AssertionError("no answer without a placeholder")


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    """A pipeline of every kind of published folder."""
    return {
        kind: qformer_viz.load(
            factory.write(tmp_path_factory.mktemp(kind), kind), device="cpu", observe=qformer_viz.capture
        )
        for kind in factory.KINDS
    }
