"""Rendering the strongest patches again without any object."""

from qformer_viz.evaluation.metric import Metric, Trial


def measure(trial: Trial) -> float | None:
    """Nats that the word loses; no pixel is unlike the world that the model knows."""
    return trial.redrawn


METRIC = Metric("redrawn", "nats lost when its top 10 % is redrawn empty ↑", measure, order=5)
