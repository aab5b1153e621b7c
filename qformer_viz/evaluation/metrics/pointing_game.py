"""Pointing game (Zhang et al. 2016), with one cell of tolerance."""

from qformer_viz.evaluation.faithfulness import pointing
from qformer_viz.evaluation.metric import Metric, Trial


def measure(trial: Trial) -> float | None:
    """Whether the peak of the map lies in the object, from 0 to 1; chance is the area of the object grown by a cell."""
    return pointing(trial.patches, trial.mask)


METRIC = Metric("pointing", "peak in the object", measure, order=1)
