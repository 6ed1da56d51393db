"""The weights w of the influence residuals u = w (y − f) that the objectives are functions of."""

from __future__ import annotations

import numpy as np

from ftrect_ray.finetune.spec import FitSpec, Rows


def influence_weights(spec: FitSpec, rows: Rows) -> np.ndarray:
    """Weights (n, d) of ``rows``, from what ``spec.train`` says of the regression."""
    return np.ones((len(rows), 1))
