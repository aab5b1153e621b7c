"""Deletion (Petsiuk et al. 2018)."""

from qformer_viz.evaluation.metric import Metric, Trial


def measure(trial: Trial) -> float | None:
    """Area under the log-probability as the strongest patches are hidden, of a whole image as 1 and none as 0."""
    return trial.areas and trial.areas[0]


METRIC = Metric("deletion", "deletion ↓", measure, order=3)
