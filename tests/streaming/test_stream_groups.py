"""An estimate for every value of a column, from one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Bootstrap
from ftrect_ray.streaming import Columns, estimate_stream, passes

Same = Callable[..., None]
REGIONS = ["east", "north", "south"]


def of(table: pa.Table, region: str) -> pa.Table:
    return table.filter(pa.array([value == region for value in table["region"].to_pylist()]))


@pytest.mark.parametrize("target", ["mean", "proportions", "quantile", "ols", "logistic"])
def test_each_group_is_estimated_as_if_alone(survey: Any, same: Same, target: str) -> None:
    names = {"proportions": ("word", "fword"), "logistic": ("yes", "p")}.get(target, ("y", "f"))
    columns = Columns(*names, features=["x"] if target in ("ols", "logistic") else (), weight="w", cluster="cluster")
    batches = survey.table.combine_chunks().to_batches(max_chunksize=170)
    groups = estimate_stream(batches, columns, target, by="region")
    assert list(groups) == REGIONS
    for region in REGIONS:
        alone = estimate_stream(of(survey.table, region), columns, target)
        if target == "proportions":  # the categories of a group are those that it has
            assert groups[region].names == alone.names
        same(groups[region], alone)


def test_groups_of_groups(survey: Any, same: Same) -> None:
    columns = Columns("y", "f", groups="side")
    groups = estimate_stream(survey.table, columns, "difference", by="region")
    for region in REGIONS:
        same(groups[region], estimate_stream(of(survey.table, region), columns, "difference"))


def test_one_pass_for_all_groups(survey: Any) -> None:
    batches = survey.table.to_batches(max_chunksize=100)
    assert list(estimate_stream(iter(batches), Columns("y", "f"), by="region")) == REGIONS


def test_a_group_that_cannot_be_estimated_says_why() -> None:
    rows = {
        "region": ["a"] * 5 + ["b"] * 3 + ["c"] * 4,
        "y": [1.0, 2.0, 4.0, None, None, 1.0, None, None, 1.0, 2.0, 3.0, None],
        "f": [1.0, 2.0, 3.0, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 2.0, None, None],
    }
    groups = estimate_stream(pa.table(rows), Columns("y", "f"), by="region")
    assert isinstance(groups["a"], Estimate)
    assert isinstance(groups["b"], InputError)
    assert str(groups["b"]) == "column 'y' has 1 answer; two are needed (the table) — label more rows"
    assert isinstance(groups["c"], StatisticalRefusal)
    assert str(groups["c"]).startswith("2 of 4 rows (50.0 %) have no prediction in 'f' (the table)")


def test_where_no_group_can_be_estimated_the_first_reason_is_raised(survey: Any) -> None:
    with pytest.raises(InputError, match=r"there is no coefficient 'agee'. — did you mean 'age'\?"):
        estimate_stream(survey.table, Columns("y", "f", features=["age"]), "ols", by="region", coefficients=["agee"])


def test_values_are_sorted_as_numbers_where_all_are(survey: Any) -> None:
    wave = pa.array([str(i % 11 + 1) for i in range(survey.table.num_rows)])
    groups = estimate_stream(survey.table.append_column("wave", wave), Columns("y", "f"), by="wave")
    assert list(groups) == [str(i) for i in range(1, 12)]


def test_bad_groups(survey: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = survey.table
    empty = pa.table(
        {"y": pa.array([], pa.float64()), "f": pa.array([], pa.float64()), "by": pa.array([], pa.string())}
    )
    with pytest.raises(InputError, match=r"^the table has no rows \(the table\) — add rows$"):
        estimate_stream(empty, Columns("y", "f"), by="by")
    with pytest.raises(InputError, match=r"column 'y' has 0 answers; two are needed"):
        estimate_stream(empty, Columns("y", "f"))
    gaps = table.append_column("by", pa.array([None if i in (2, 7) else "a" for i in range(table.num_rows)]))
    with pytest.raises(InputError, match=r"^column 'by' is empty in 2 rows: row 3, row 8 \(the table\) — fill these"):
        estimate_stream(gaps, Columns("y", "f"), by="by")
    with pytest.raises(InputError, match=r"column 'region' must hold two groups; got 3: 'east', 'north', 'south' "):
        estimate_stream(table, Columns("y", "f", groups="region"), "difference")
    asked = Columns("y", "f", groups="side")
    with pytest.raises(InputError, match=r"^'bootstrap' does not go with 'groups'. — take the t interval$"):
        estimate_stream(table, asked, "difference", bootstrap=Bootstrap())
    with pytest.raises(InputError, match=r"^'lam' must have one entry a group \(2\); got 3.$"):
        estimate_stream(table, asked, "difference", lam=[0.1, 0.2, 0.3])
    monkeypatch.setattr(passes, "MAX_SAMPLES", 20)
    with pytest.raises(InputError, match=r"the table falls into more than 20 groups. — name a column with few values"):
        estimate_stream(table, Columns("y", "f"), by="cluster")


def test_groups_that_share_a_cluster_are_not_independent(survey: Any) -> None:
    with pytest.raises(InputError, match=r"cluster '\d+' lies in both groups, so their means are not independent"):
        estimate_stream(
            survey.table.append_column("half", pa.array(np.where(np.arange(900) % 2, "a", "b"))),
            Columns("y", "f", groups="half", cluster="cluster"),
            "difference",
        )
