"""What a precision changes: nothing for the same, measured for others, against values computed by hand."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import qformer_viz
from qformer_viz import BadShape
from qformer_viz.analysis import precision_comparison
from qformer_viz.cli import dispatch as cli
from qformer_viz.cli.backend import backend
from tests.support import fake_checkpoints as fakes
from tests.support.fake_checkpoints import FAMILIES, picture


def test_divergence_by_hand():
    a = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.75, 0.25]])
    b = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.25, 0.75]])

    def entropy(p):
        return -sum(x * np.log2(x) for x in p if x)

    expected = [1, 0, entropy([0.5, 0.5]) - entropy([0.75, 0.25])]
    assert precision_comparison.map_divergence(a, b).tolist() == pytest.approx(expected)
    with pytest.raises(BadShape, match="one model"):
        precision_comparison.map_divergence(a, b[:, :1])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "language"), FAMILIES)
def test_a_model_is_itself_and_another_is_not(family, language):
    pipes = [fakes.pipeline(family, language, seed=seed, observe=qformer_viz.capture) for seed in (0, 0, 1)]
    images = [picture(seed) for seed in range(3)]
    heard = []
    same = precision_comparison.compare_precisions(*pipes[:2], images, "what?", heard.append)
    assert same.divergence.abs().max() < 1e-9 and same.peaks.min() == same.captions == same.answers == 1
    assert same.nats.abs().max() < 1e-3 and heard == [1, 2, 3] and same.images == 3
    other = precision_comparison.compare_precisions(pipes[0], pipes[2], images)
    assert other.divergence.mean() > 0.01 and other.peaks.mean() < 0.9 and other.captions < 1
    assert other.answers is None and other.nats.abs().mean() > 0.1
    assert other.divergence.shape == other.peaks.shape == (1, 4)


def test_the_table_says_what_was_found():
    found = precision_comparison.PrecisionComparison(
        images=4,
        divergence=torch.tensor([[0.1, 0.2], [0.3, 0.6]]),
        peaks=torch.tensor([[1.0, 0.5], [0.75, 0.75]]),
        captions=0.75,
        answers=None,
        nats=torch.tensor([-0.5, 0.25]),
        cross_layers=(0, 2),
    )
    text = precision_comparison.table(found)
    assert "| Worst head | 0.6 | bits, layer 2, head 1 |" in text and "| Maps | 0.3 |" in text
    assert "| Captions | 75% | of 4" in text and "Answers" not in text and "| 2 | 0.45 | 75.0% |" in text
    assert "mean with sign -0.12, greatest 0.5" in text
    assert "| Answers | 50% |" in precision_comparison.table(dataclasses.replace(found, answers=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blip2-emoji", "instructblip-emoji"])
def test_quantised_weights_change_little_on_the_bundled_models(name):
    """Eight bits less than four; the words of both stay near."""
    plain = qformer_viz.load(name, observe=qformer_viz.capture)
    images = list(backend().pictures(plain, 4))
    found = {
        kind: precision_comparison.compare_precisions(
            plain, qformer_viz.load(name, quantization=kind, observe=qformer_viz.capture), images
        )
        for kind in ("8bit", "4bit")
    }
    assert 0 < found["8bit"].divergence.mean() < found["4bit"].divergence.mean() < 0.1
    assert found["8bit"].nats.abs().mean() < 0.05 and found["8bit"].captions >= 0.75


@pytest.mark.slow
def test_the_command(capsys):
    assert cli.main(["fidelity", "--images", "2", "--json", "--precision", "bfloat16"], backend()) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 2 and np.shape(result["divergence"]) == (3, 6)
    assert "bfloat16 against float32, 2 images" in result["text"] and 0 < np.mean(result["divergence"]) < 0.05
