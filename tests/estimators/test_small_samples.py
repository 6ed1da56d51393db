"""The default interval with few labels: seeded coverage within three Monte-Carlo errors, two-sided."""

import numpy as np
import pytest

from ftrect_ray.estimators.mean import mean


def coverage(n, kind, repetitions, lam="tuned"):
    rng = np.random.default_rng(100 + n)
    slope, noise, shift = {"good": (1, 0.5, 0), "useless": (0, 1, 0), "biased": (0.8, 0.6, 3)}[kind]
    hits = 0
    for _ in range(repetitions):
        Y, truth = rng.normal(size=n), rng.normal(size=10 * n)
        f, rest = (shift + slope * y + noise * rng.normal(size=len(y)) for y in (Y, truth))
        low, high = mean(Y, f, rest, lam=lam).interval
        hits += low <= 0 <= high
    return hits / repetitions


@pytest.mark.parametrize(("n", "repetitions"), [(10, 900), (20, 500), (50, 300)])
@pytest.mark.parametrize("kind", ["good", "useless", "biased"])
def test_coverage_with_few_labels(n, kind, repetitions):
    """Without the charge for λ̂ ten labels and a good predictor cover 92 %."""
    found = coverage(n, kind, repetitions)
    assert abs(found - 0.95) <= 3 * np.sqrt(0.95 * 0.05 / repetitions), found
