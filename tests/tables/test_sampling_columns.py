"""Survey weights, strata and clusters are columns of the study's table."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftrect_ray.errors import InputErrors
from ftrect_ray.study import Data
from ftrect_ray.tables import load_table

HEADER = "id,comment,trust,w,region,who\n"


def table(tmp_path: Path, *rows: str) -> Data:
    path = tmp_path / "answers.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return Data(table=str(path), text="comment", label="trust", weight="w", strata="region", cluster="who")


def test_they_come_under_their_roles(tmp_path: Path) -> None:
    loaded = load_table(table(tmp_path, "a,good,3,1.5,north,p1", "b,bad,1,0,NA,p1", "c,so,,2,north,7"), None, 7).table
    assert loaded["weight"].to_pylist() == [1.5, 0.0, 2.0]
    assert loaded["strata"].to_pylist() == ["north", "NA", "north"]
    assert loaded["cluster"].to_pylist() == ["p1", "p1", "7"]
    assert not {"w", "region", "who"} & set(loaded.column_names)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b,bad,1,-2,north,p1", "the weight 'w' is negative in 1 row"),
        ("b,bad,1,heavy,north,p1", "column 'w' is not a finite number in 1 row"),
        ("b,bad,1,,north,p1", "column 'w' is empty in 1 row"),
        ("b,bad,1,1,,p1", "column 'region' is empty in 1 row"),
        ("b,bad,1,1,north,", "column 'who' is empty in 1 row"),
    ],
)
def test_what_is_wrong_names_the_column_and_the_row(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(InputErrors) as caught:
        load_table(table(tmp_path, "a,good,3,1,north,p2", row, "c,fine,2,1,north,p3"), None, 7)
    assert message in str(caught.value)


def test_the_answer_is_no_weight(tmp_path: Path) -> None:
    data = table(tmp_path, "a,good,3,1,north,p2", "b,bad,1,1,north,p1").model_copy(update={"weight": "trust"})
    with pytest.raises(InputErrors, match="'data.weight' uses the column 'trust', which holds the answers"):
        load_table(data, None, 7)
