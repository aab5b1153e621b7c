"""Language models without attention: four methods say so, all else works; a hybrid's attention is read."""

import pytest

import qformer_viz
from qformer_viz import METHODS
from qformer_viz.attribution.explanation import attribute, prepare
from qformer_viz.errors import AttentionError
from qformer_viz.evaluation.assessment import assess
from qformer_viz.types import Decoding
from tests.support import fake_checkpoints as fakes
from tests.support.fake_checkpoints import picture

READ_ATTENTION = {"raw", "baseline_corrected", "norm_based", "rollout"}


def explained(language):
    """A case of an answer with words."""
    pipe = fakes.pipeline("blip2", language, observe=qformer_viz.capture)
    for seed in range(20):
        encoded = pipe.encode(picture(seed))
        answer = pipe.caption(encoded, Decoding(max_new_tokens=3))
        if answer.token_ids:
            return prepare(pipe, encoded, answer)
    raise AssertionError("random weights that never say a word")


@pytest.fixture(scope="module")
def mamba():
    return explained("mamba")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_needs_attention_says_so_and_the_others_work(mamba, name):
    if name in READ_ATTENTION:
        with pytest.raises(AttentionError, match=r"no attention in MambaForCausalLM.*query knock-out"):
            attribute(mamba, name)
    else:
        assert attribute(mamba, name, words=[0]).scores.isfinite().all()


def test_a_map_is_judged_without_attention(mamba):
    assert assess(mamba, attribute(mamba), 0).sentence


def test_of_a_hybrid_the_layers_that_attend_are_read():
    found = attribute(explained("jamba"), "raw")
    assert found.scores.isfinite().all() and (found.queries > 0).all()
