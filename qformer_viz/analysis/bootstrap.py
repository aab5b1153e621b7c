"""Bootstrap intervals, drawn over images: words of one image are no independent samples."""

from collections.abc import Sequence

import numpy as np

DRAWS = 1000


def interval(
    values: Sequence[float], images: Sequence[int] | None = None, draws: int = DRAWS
) -> tuple[float, float, float]:
    """Mean with a bootstrap interval of 95 % (percentiles), drawn over images.

    Args:
        values: one figure for each word.
        images: [n] the image of each figure; None: each its own.
        draws: number of resamples.

    Returns:
        (mean, low, high)

    >>> interval([1.0, 1.0, 1.0])
    (1.0, 1.0, 1.0)
    """
    from scipy.stats import bootstrap  # slow to import, and needed here only

    data = np.asarray(values, dtype=float)
    _, group = np.unique(np.arange(len(data)) if images is None else images, return_inverse=True)
    sums, counts = np.bincount(group, data), np.bincount(group)
    mean = float(data.mean())
    if len(sums) < 2 or np.ptp(sums / counts) == 0:
        return mean, mean, mean

    def ratio(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis) / counts.sum(axis)

    found = bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        n_resamples=draws,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return mean, float(found.low), float(found.high)
