"""The same estimates from Ray Data, on a real local Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.streaming import Columns, estimate_stream

pytestmark = pytest.mark.ray
Same = Callable[..., None]


@pytest.fixture(scope="module")
def dataset(survey: Any) -> Iterator[Any]:
    """The survey in nine blocks, one of them empty."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    table = survey.table.combine_chunks()
    blocks = [table.slice(start, 120) for start in range(0, 900, 120)]
    yield ray.data.from_arrow([*blocks, table.slice(0, 0)])
    ray.shutdown()


@pytest.mark.parametrize(
    ("target", "columns"),
    [
        ("mean", Columns("y", "f", weight="w", strata="stratum")),
        ("proportions", Columns("word", "fword")),
        ("ols", Columns("y", "f", features=["x"], cluster="cluster")),
        ("quantile", Columns("y", "f")),
        ("logistic", Columns("yes", "p", features=["x"])),
    ],
)
def test_the_estimate_is_that_of_the_table(
    survey: Any, dataset: Any, same: Same, target: str, columns: Columns
) -> None:
    same(estimate_stream(dataset, columns, target), estimate_stream(survey.table, columns, target), 1e-9)


def test_groups(survey: Any, dataset: Any, same: Same) -> None:
    found = estimate_stream(dataset, Columns("y", "f"), by="region")
    for region, expected in estimate_stream(survey.table, Columns("y", "f"), by="region").items():
        same(found[region], expected, 1e-9)


def test_refusals_of_tasks_are_our_own(dataset: Any) -> None:
    with pytest.raises(InputError, match=r"column 'word' is not a finite number .* \(a block of the Ray dataset\)"):
        estimate_stream(dataset, Columns("word", "f"))
    with pytest.raises(InputError, match=r"there is no column 'ff'.* \(the Ray dataset\)"):
        estimate_stream(dataset, Columns("y", "ff"))


def test_datasets_without_rows_or_predictions(dataset: Any) -> None:
    import ray

    none = pa.table({"y": pa.array([], pa.float64()), "f": pa.array([], pa.float64())})
    with pytest.raises(InputError, match="column 'y' has 0 answers"):
        estimate_stream(ray.data.from_arrow(none), Columns("y", "f"))
    gaps = pa.table({"y": [1.0, 2.0, None], "f": pa.array([1.0, 2.0, np.nan], from_pandas=True)})
    with pytest.raises(StatisticalRefusal, match=r"1 of 3 rows \(33.3 %\) have no prediction"):
        estimate_stream(ray.data.from_arrow(gaps), Columns("y", "f"))
