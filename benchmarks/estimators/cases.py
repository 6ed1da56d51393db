"""What is timed: arrays of each case, and the sides that get them.

A case is named after its target and its unlabelled rows, such as ``mean 10^7``. There are 1,000 labels, 10,000 for
the regressions, which have ten columns.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

Arrays = dict[str, np.ndarray]
Call = Callable[[Any], object]

CASES = (
    *(f"mean 10^{power}" for power in range(4, 9)),
    *(f"quantile 10^{power}" for power in range(4, 8)),
    *(f"{target} 10^{power}" for target in ("ols", "logistic", "poisson") for power in range(4, 7)),
    "stream 10^8",
)
OURS, OURS_GIVEN, PEER, PEER_GIVEN = "ftrect_ray, tuned", "ftrect_ray, λ given", "ppi_py, tuned", "ppi_py, λ given"
FLOOR = {
    "mean": "numpy: mean and var",
    "quantile": "numpy: one sort",
    "ols": "numpy: one X'X",
    "logistic": "numpy: one X'X",
    "poisson": "numpy: one X'X",
    "stream": "pyarrow: read the columns",
}
LARGEST_FOR_PEER = {"mean": 10**7, "quantile": 10**5, "ols": 10**6, "logistic": 10**6, "poisson": 10**6}
LABELS, COLUMNS = 1_000, 10
READ_ROWS = 1 << 16


def rows_of(case: str) -> int:
    """Unlabelled rows."""
    base, power = case.split()[1].split("^")
    return int(base) ** int(power)


def quick(case: str) -> str:
    """A hundredth of the rows, ten thousand at least."""
    target, size = case.split()
    return f"{target} 10^{max(4, int(size.split('^')[1]) - 2)}"


def draw(case: str) -> Arrays:
    """The arrays of a case that fit memory: labels Y, their predictions f, predictions of the unlabelled rows F."""
    target, m = case.split()[0], rows_of(case)
    rng = np.random.default_rng(20)
    if target in ("mean", "quantile"):
        Y = rng.normal(1.0, 1.0, LABELS)
        F = rng.standard_normal(m)
        F += 1.0
        return {"Y": Y, "f": Y + rng.normal(0.0, 0.5, LABELS), "F": F}
    n = 10 * LABELS
    X = rng.standard_normal((n + m, COLUMNS))
    X[:, 0] = 1.0
    slope = np.linspace(0.3, -0.3, COLUMNS)
    score = X @ slope
    if target == "ols":
        Y, f = score + rng.standard_normal(n + m), score + 0.5 * rng.standard_normal(n + m)
    elif target == "logistic":
        Y = (rng.random(n + m) < expit(score)).astype(float)
        f = expit(score + 2 * (Y - 0.5))
    else:
        Y = rng.poisson(np.exp(score)).astype(float)
        f = 0.5 * Y + 0.5 * np.exp(score)
    return {"X": X[:n], "Y": Y[:n], "f": f[:n], "Z": X[n:], "F": f[n:]}


def sides_of(case: str, smaller: bool) -> dict[str, Call]:
    """What is timed beside each other, by name; ``smaller`` cases spare the peer as much."""
    target = case.split()[0]
    sides = {**_SIDES[target], FLOOR[target]: _FLOORS[target]}
    if rows_of(case) * (10 if smaller else 1) > LARGEST_FOR_PEER.get(target, 0):
        sides = {name: call for name, call in sides.items() if not name.startswith("ppi_py")}
    return sides


def _answers(a: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return a["Y"], a["f"], a["F"]


def _design(a: Arrays) -> tuple[np.ndarray, ...]:
    return a["X"], a["Y"], a["f"], a["Z"], a["F"]


def _ours(name: str, **options: Any) -> Callable[..., object]:
    """An estimator, imported when it is first called."""
    return lambda *arrays: getattr(import_module("ftrect_ray.estimators"), name)(*arrays, **options)


def _peer(name: str, **options: Any) -> Callable[..., object]:
    return lambda *arrays: getattr(import_module("ppi_py"), name)(*arrays, alpha=0.05, **options)


def _sides(target: str, take: Callable[[Arrays], tuple[np.ndarray, ...]]) -> dict[str, Call]:
    return {
        OURS: lambda a: _ours(target)(*take(a)),
        OURS_GIVEN: lambda a: _ours(target, lam=0.5)(*take(a)),
        PEER: lambda a: _peer(f"ppi_{target}_ci")(*take(a)),
        PEER_GIVEN: lambda a: _peer(f"ppi_{target}_ci", lam=0.5)(*take(a)),
    }


def _streamed(path: Path) -> object:
    from ftrect_ray.streaming import Columns, estimate_stream

    columns = Columns(label="label", prediction="prediction")
    return estimate_stream(str(path), columns, max_rows=10**9, max_bytes=10**11)


_SIDES: dict[str, dict[str, Call]] = {
    "mean": _sides("mean", _answers),
    "quantile": {  # ppi_py has λ = 1 only
        OURS: lambda a: _ours("quantile", q=0.5)(*_answers(a)),
        OURS_GIVEN: lambda a: _ours("quantile", q=0.5, lam=1.0)(*_answers(a)),
        PEER_GIVEN: lambda a: _peer("ppi_quantile_ci", q=0.5)(*_answers(a)),
    },
    **{target: _sides(target, _design) for target in ("ols", "logistic", "poisson")},
    "stream": {OURS: _streamed},
}


def _gram(a: Arrays) -> object:
    return a["Z"].T @ a["Z"]


def _read(path: Path) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False) as file:  # a third of the time that the default takes
        for _ in file.iter_batches(READ_ROWS, columns=["label", "prediction"]):
            pass


_FLOORS: dict[str, Call] = {
    "mean": lambda a: (a["F"].mean(), a["F"].var()),
    "quantile": lambda a: np.sort(a["F"]),
    "ols": _gram,
    "logistic": _gram,
    "poisson": _gram,
    "stream": _read,
}


def write_stream(path: Path, rows: int) -> None:
    """A Parquet file of ``rows`` predictions, the first thousand with labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, size = np.random.default_rng(21), 1_000_000
    schema = pa.schema([("label", pa.float64()), ("prediction", pa.float64())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, size):
            predictions = rng.standard_normal(min(size, rows - start))
            labels = predictions + 0.5
            labelled = np.arange(start, start + len(predictions)) < LABELS
            columns = [pa.array(labels, mask=~labelled), pa.array(predictions)]
            writer.write_table(pa.table(columns, schema=schema))
