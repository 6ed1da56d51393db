"""A survey of 900 rows, 240 of them labelled, as arrays and as an Arrow table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.estimators.result import Estimate


@dataclass(frozen=True, repr=False)
class Survey:
    """Columns of all rows; ``labelled`` tells which labels the table shows."""

    columns: dict[str, np.ndarray]
    labelled: np.ndarray

    @property
    def table(self) -> pa.Table:
        """Labels are empty in unlabelled rows."""
        hidden = {"y", "z", "yes", "count", "word", "option"}
        return pa.table(
            {
                name: pa.array(values, mask=~self.labelled if name in hidden else None)
                for name, values in self.columns.items()
            }
        )

    def labels(self, name: str) -> np.ndarray:
        """Of labelled rows."""
        return self.columns[name][self.labelled]

    def others(self, name: str) -> np.ndarray:
        """Of unlabelled rows."""
        return self.columns[name][~self.labelled]

    def design(self, labelled: bool) -> np.ndarray:
        """Intercept, age, x of labelled or unlabelled rows."""
        rows = self.labelled if labelled else ~self.labelled
        return np.column_stack([np.ones(rows.sum()), self.columns["age"][rows], self.columns["x"][rows]])


@pytest.fixture(scope="session")
def survey() -> Survey:
    rng = np.random.default_rng(11)
    n = 900
    cluster = np.arange(n) // 3
    x, age, shared = rng.normal(size=n), rng.integers(18, 80, n).astype(float), np.repeat(rng.normal(size=n // 3), 3)
    y = 5 + 0.02 * age + x + 0.5 * shared + 0.5 * rng.normal(size=n)
    z = y - 0.4 + 0.3 * rng.normal(size=n)
    yes = (rng.random(n) < 1 / (1 + np.exp(-x))).astype(float)
    words = np.array(["yes", "no", "None", "NA"])
    word, option = rng.choice(words, n, p=[0.4, 0.3, 0.2, 0.1]), rng.integers(0, 3, n).astype(float)
    kept = rng.random(n) < 0.8
    columns = {
        "y": y,
        "f": y + 0.3 + rng.normal(size=n),
        "g": y - 0.2 + rng.normal(size=n),
        "z": z,
        "fz": z + 0.5 * rng.normal(size=n),
        "yes": yes,
        "p": np.clip(1 / (1 + np.exp(-x)) + 0.05 * rng.normal(size=n), 0.01, 0.99),
        "count": rng.poisson(np.exp(0.3 + 0.4 * x)).astype(float),
        "fcount": np.exp(0.3 + 0.4 * x) + 0.1 * rng.random(n),
        "word": word,
        "fword": np.where(kept, word, rng.choice(words, n)),
        "option": option,
        "foption": np.where(kept, option, rng.integers(0, 3, n)),
        "age": age,
        "x": x,
        "w": rng.uniform(0.5, 2, n),
        "ratio": np.exp(0.3 * x),
        "pi": rng.uniform(0.2, 0.9, n),
        "stratum": rng.choice(np.array(["urban", "rural"]), n),
        "cluster": cluster,
        "fold": cluster % 2,
        "region": rng.choice(np.array(["north", "south", "east"]), n),
        "side": np.where(cluster % 5 < 3, "treated", "control"),
    }
    labelled = np.isin(np.arange(n), rng.permutation(n)[:240])
    return Survey(columns, labelled)


@pytest.fixture(scope="session")
def same() -> Callable[..., None]:
    """``same(streamed, in_memory)``: every number of two estimates, to 1e-8 of a standard error or of the number."""

    def check(one: Estimate, two: Estimate, tolerance: float = 1e-8) -> None:
        left, right = one.to_dict(), two.to_dict()
        assert [c["state"] for c in left["diagnostics"].pop("checks")] == [
            c["state"] for c in right["diagnostics"].pop("checks")
        ]
        assert _numbers(left) == pytest.approx(_numbers(right), rel=tolerance, abs=tolerance, nan_ok=True)

    return check


def _numbers(part: Any, at: str = "") -> dict[str, Any]:
    """Leaves of a nested document by their places, NaN for null; texts are left out."""
    if isinstance(part, dict):
        return {key: value for name, inner in part.items() for key, value in _numbers(inner, f"{at}.{name}").items()}
    if isinstance(part, list):
        return {key: value for i, inner in enumerate(part) for key, value in _numbers(inner, f"{at}.{i}").items()}
    return {} if isinstance(part, str) else {at: np.nan if part is None else part}
