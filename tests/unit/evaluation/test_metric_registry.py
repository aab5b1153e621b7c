"""A metric is one file: a module of `qformer_viz.evaluation.metrics` that defines METRIC."""

import sys

import pytest
import torch

from qformer_viz.evaluation import metrics
from qformer_viz.evaluation.metric import Trial, load_metrics

SOURCE = """
from qformer_viz.evaluation.metric import Metric

METRIC = Metric("answer", "the answer", lambda trial: 42.0, order=0)
"""


def trial(**changes):
    """A map that is all on the object, the upper left of four patches; the word needs that patch."""
    patches = torch.tensor([[1.0, 0.0], [0.0, 0.0]])

    def score(keep):
        return torch.where(keep[:, 0], 0.0, -4.0)

    return Trial(
        **{"patches": patches, "mask": patches > 0, "score": score, "whole": 0.0, "blank": -4.0} | changes
    )


def test_a_file_more_is_a_metric_more(tmp_path, monkeypatch):
    (tmp_path / "answer.py").write_text(SOURCE)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    try:
        found = load_metrics()
    finally:
        sys.modules.pop("qformer_viz.evaluation.metrics.answer", None)
    assert list(found)[:2] == ["answer", "pointing"] and found["answer"].measure(trial(redrawn=0.0)) == 42


def test_the_metrics_of_a_perfect_map():
    found = {name: metric.measure(trial(redrawn=3.0)) for name, metric in load_metrics().items()}
    assert list(found) == ["pointing", "lift", "deletion", "insertion", "redrawn"]
    assert found["pointing"] == 1 and found["lift"] == 4 and found["redrawn"] == 3
    assert found["deletion"] < 0.5 < found["insertion"]


@pytest.mark.parametrize("name", ["deletion", "insertion"])
def test_a_word_that_hardly_depends_on_the_image_has_no_areas(name):
    assert load_metrics()[name].measure(trial(redrawn=0.0, blank=-0.5)) is None
