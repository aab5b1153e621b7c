"""Weight in the object as a multiple of its area."""

from qformer_viz.evaluation.faithfulness import lift
from qformer_viz.evaluation.metric import Metric, Trial


def measure(trial: Trial) -> float | None:
    """Share of the positive weight inside the object over its share of the area; 1 is chance."""
    return lift(trial.patches, trial.mask)


METRIC = Metric("lift", "lift over area", measure, order=2)
