"""What cells may hold, which columns go together, and the words of every refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.streaming import Columns, estimate_stream, passes

PLAIN = Columns("y", "f")


def table(**changes: Any) -> pa.Table:
    """Ten rows; the first four are labelled."""
    rows = {
        "y": [1.0, 2.0, 4.0, 3.0, None, None, None, None, None, None],
        "f": [1.0, 2.0, 3.0, 3.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0],
        "g": [1.5, 2.0, 3.0, 3.5, 2.0, 3.5, 4.0, 1.5, 2.0, 3.5],
        "fold": [0, 1, 0, 1, None, None, None, None, None, None],
        "w": [1.0] * 10,
        "pi": [0.5] * 4 + [None] * 6,
        "s": ["a", "b"] * 5,
    }
    return pa.table(rows | changes)


def put(name: str, row: int, value: Any) -> dict[str, list[Any]]:
    """A column with one other cell."""
    cells = table()[name].to_pylist()
    cells[row] = value
    return {name: cells}


def refusal(columns: Columns, rows: pa.Table, kind: type[Exception] = InputError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        estimate_stream(rows.to_batches(max_chunksize=3), columns, **options)
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------- types


def test_text_numbers_and_integers_and_dictionaries_are_read_alike() -> None:
    plain = estimate_stream(table(), Columns("y", "f", strata="s"))
    text = {name: [None if v is None else f" {v}" for v in table()[name].to_pylist()] for name in ("y", "f")}
    whole = {"f": pa.array(table()["f"].to_pylist()).cast(pa.int8())}
    coded = {"s": pa.array(table()["s"].to_pylist()).dictionary_encode()}
    for changed in (text, whole, coded, {"y": pa.array(table()["y"].to_pylist(), pa.float32())}):
        assert estimate_stream(table(**changed), Columns("y", "f", strata="s")).to_dict() == plain.to_dict()


def test_only_declared_texts_are_missing() -> None:
    words = ["yes", "None", "NA", "no", None, None, None, None, None, None]
    predicted = ["yes", "None", "no", "no", "NA", "no", "yes", "no", "None", "yes"]
    rows = table(y=words, f=predicted)
    assert estimate_stream(rows, PLAIN, "proportions").names == ("NA", "None", "no", "yes")
    kept = rows.set_column(1, "f", pa.array(["yes", "no"] * 5))
    found = estimate_stream(kept, PLAIN, "proportions", missing=["None"])
    assert (found.n, found.m, found.names) == (3, 7, ("NA", "no", "yes"))
    typed = table(y=["1", "2", "4", "3", " NA ", "NA", None, None, None, None])
    assert estimate_stream(typed, PLAIN, missing=("NA",)).to_dict() == estimate_stream(table(), PLAIN).to_dict()
    assert "column 'y' is not a finite number in 2 rows: row 5 ' NA ', row 6 'NA' " in refusal(PLAIN, typed)


def test_categories_in_the_order_of_numbers() -> None:
    rows = table(y=[10, 9, 10, 9, *[None] * 6], f=[10, 9, 9, 9, 10, 9, 2, 10, 9, 10])
    assert estimate_stream(rows, PLAIN, "proportions").names == ("2", "9", "10")


# ----------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", ["inf", "nan", "1,5", "٣", "1e400", "x"])
def test_cells_that_are_no_numbers(value: str) -> None:
    cells = [None if v is None else str(v) for v in table()["y"].to_pylist()]
    cells[3] = value
    assert refusal(PLAIN, table(y=cells)) == (
        f"column 'y' is not a finite number in 1 row: row 4 {value!r} (the batches) — write numbers like 1.5, "
        "and leave the cell empty where there is none"
    )


def test_nan_and_huge_numbers() -> None:
    assert "column 'f' is not a finite number in 1 row: row 8 nan" in refusal(PLAIN, table(**put("f", 7, np.nan)))
    assert refusal(PLAIN, table(**put("f", 7, -1e101))) == (
        "column 'f' must not exceed 1e+100 in size; got row 8 -1e+101 (1 such row) (the batches) — "
        "divide the numbers by a constant"
    )
    assert estimate_stream(table(**put("f", 7, 9e99)), PLAIN).m == 6


def test_two_columns_of_one_name() -> None:
    twice = pa.RecordBatch.from_arrays([pa.array([1.0, 2.0])] * 3, names=["y", "f", "f"])
    with pytest.raises(InputError, match=r"^two columns are called 'f' \(the batches\) — rename one of them$"):
        estimate_stream([twice], PLAIN)


def test_missing_predictions() -> None:
    message = "2 of 10 rows (20.0 %) have no prediction in 'f' (the batches) — predict them, or give each a fixed value"
    both = put("f", 2, None)["f"]
    both[8] = None
    assert refusal(PLAIN, table(f=both), StatisticalRefusal).startswith(message)
    folds = Columns("y", ["f", "g"], fold="fold")
    assert estimate_stream(table(**put("f", 1, None)), folds).n == 4
    assert "1 of 10 rows (10.0 %) have no prediction in 'f', 'g'" in refusal(
        folds, table(**put("f", 0, None)), StatisticalRefusal
    )
    assert "1 of 10 rows" in refusal(folds, table(**put("g", 9, None)), StatisticalRefusal)


def test_too_few_labels() -> None:
    rows = table(y=[1.0, *[None] * 9])
    assert refusal(PLAIN, rows) == "column 'y' has 1 answer; two are needed (the batches) — label more rows"


def test_labels_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "MAX_LABELS", 3)
    assert refusal(PLAIN, table()).startswith("there are more than 3 labelled rows, which are held in memory")
    assert estimate_stream(table(y=[1.0, 2.0, 4.0] + [None] * 7), PLAIN).n == 3


def test_labels_outside_the_scale() -> None:
    rows = table(y=[11.0, 2.0, 0.0, 12.0, None, None, 13.0, 14.0, 15.0, 16.0])
    assert refusal(PLAIN, rows, scale=(1, 10)) == (
        "labels in 'y' must be on the scale 1 to 10; got row 1 11, row 3 0, row 4 12, row 7 13, row 8 14, … "
        "(7 such labels) (the batches) — correct them, or leave the cell empty where there is no label"
    )
    assert estimate_stream(table(), PLAIN, scale=(1, 4)).n == 4
    assert refusal(PLAIN, table(), scale=(4, 1)) == "'scale' must be LOW,HIGH with LOW < HIGH; got 4,1."


@pytest.mark.parametrize(
    ("target", "value", "rule"),
    [
        ("logistic", 2.0, "must be 0 or 1; got row 1 2 (1 such label)"),
        ("poisson", -1.0, "must not be negative; got row 1 -1 (1 such label)"),
        ("multinomial", 1.5, "must be options 0, 1, 2, …; got row 1 1.5 (1 such label)"),
        ("multinomial", -1.0, "must be options 0, 1, 2, …; got row 1 -1 (1 such label)"),
    ],
)
def test_labels_that_a_target_cannot_have(target: str, value: float, rule: str) -> None:
    rows = table(y=[value, 0.0, 1.0, 1.0, *[None] * 6])
    assert f"labels in 'y' {rule}" in refusal(Columns("y", "f", features=["g"]), rows, target=target)


def test_predicted_options_that_nobody_chose(survey: Any) -> None:
    rows = survey.table.append_column("new", pa.array(np.where(survey.labelled, 1.0, 3.0)))
    assert "predictions in 'new' must be options 0 to 2, the largest label; got 3." in refusal(
        Columns("option", "new", features=["x"]), rows, target="multinomial"
    )


def test_weights_and_probabilities() -> None:
    weighted, chosen = Columns("y", "f", weight="w"), Columns("y", "f", probability="pi")
    assert refusal(weighted, table(**put("w", 6, -1.0))) == (
        "column 'w' must not be negative; got row 7 -1.0 (1 such row) (the batches)"
    )
    assert "column 'w' is empty in 1 row: row 7 " in refusal(weighted, table(**put("w", 6, None)))
    assert "the weights of all unlabelled rows are 0" in refusal(weighted, table(w=[1.0] * 4 + [0.0] * 6))
    for value in (0.0, 1e-160, 1.5, None):
        assert "column 'pi' must be in (0, 1], 1e-100 or above, where there is a label; got row 2 " in refusal(
            chosen, table(**put("pi", 1, value))
        )
    assert estimate_stream(table(**put("pi", 1, 1.0)), chosen).n == 4


def test_strata_and_folds() -> None:
    assert "column 's' is empty in 1 row: row 2 " in refusal(Columns("y", "f", strata="s"), table(**put("s", 1, None)))
    message = refusal(Columns("y", "f", strata="s"), table(s=["a", "b", "a", "a", *["a"] * 6]), StatisticalRefusal)
    assert "stratum 'b' has one sampling unit" in message
    folds = Columns("y", ["f", "g"], fold="fold")
    for value in (2, 0.5, None, -1):
        rows = table(fold=pa.array([0, value, 0, 1, *[None] * 6], pa.float64()))
        assert "column 'fold' must be one of 0..1 where there is a label; got row 2 " in refusal(folds, rows)


def test_pairs() -> None:
    rows = table(z=[1.0, None, 2.0, 3.0, *[None] * 6])
    assert refusal(Columns("y", "f", label_other="z", prediction_other="g"), rows, target="difference") == (
        "1 row with only one of 'y' and 'z': row 2 (the batches) — a paired difference needs both answers to a row, "
        "or neither"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prediction": []}, "'prediction' must name at least one column."),
        ({"prediction": ["f", "g"]}, "2 columns of predictions need the column 'fold'."),
        ({"fold": "fold"}, "'fold' goes with several columns of predictions, one of each fold's model."),
        ({"label_other": "z"}, "'label_other' and 'prediction_other' go together."),
        ({"prediction_other": "z"}, "'label_other' and 'prediction_other' go together."),
        (
            {"label_other": "z", "prediction_other": "g", "groups": "s"},
            "a difference is either between 'groups' or with 'label_other'; got both.",
        ),
        (
            {"prediction": ["f", "g"], "fold": "fold", "label_other": "z", "prediction_other": "w"},
            "'prediction_other' goes with one column of predictions.",
        ),
        ({"prediction": "y"}, "column 'y' cannot be two of labels and predictions."),
    ],
)
def test_columns_that_do_not_go_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Columns(**{"label": "y", "prediction": "f"} | given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (PLAIN, {"target": "meen"}, "there is no target 'meen'. — did you mean 'mean'?"),
        (PLAIN, {"target": "ols"}, "the target 'ols' needs 'features'. — name numeric columns"),
        (PLAIN, {"target": "difference"}, "the target 'difference' needs 'groups', or 'label_other'"),
        (PLAIN, {"q": 0.5}, "'q' goes with quantile; the target is 'mean'."),
        (PLAIN, {"target": "quantile", "q": 1.0}, "'q' must be in (0, 1); got 1."),
        (
            Columns("y", "f", features=["g"]),
            {},
            "'features' goes with ols, logistic, poisson or multinomial; the target is 'mean'.",
        ),
        (Columns("y", "f", groups="s"), {}, "'groups' goes with difference; the target is 'mean'."),
        (
            Columns("y", "f", label_other="w", prediction_other="g"),
            {},
            "'label_other' goes with difference; the target is 'mean'.",
        ),
        (
            PLAIN,
            {"target": "proportions", "scale": (0, 1)},
            "'scale' goes with mean, difference, quantile, ols, logistic or poisson; the target is 'proportions'.",
        ),
        (
            PLAIN,
            {"coefficients": ["x"]},
            "'coefficients' goes with proportions, ols, logistic, poisson or multinomial; the target is 'mean'.",
        ),
        (PLAIN, {"simultaneous": True}, "'simultaneous' goes with proportions, ols, "),
        (PLAIN, {"by": "y"}, "'by' cannot be the column 'y', which has another part already."),
        (PLAIN, {"by": "f"}, "'by' cannot be the column 'f', which has another part already."),
        (PLAIN, {"folds": [0, 1]}, "'folds' is given as columns here. — see Columns: fold, weight, strata, cluster, …"),
        (PLAIN, {"sample": Sample()}, "'sample' is given as columns here."),
        (PLAIN, {"alpha": 1.5}, "'alpha' must be in (0, 1); got 1.5."),
        (PLAIN, {"alhpa": 0.1}, "there is no option 'alhpa'. — did you mean 'alpha'?"),
        (Columns("y", "f", weight="w"), {"population": "finite"}, "a finite population goes with simple or"),
    ],
)
def test_questions_that_cannot_be_asked(columns: Columns, options: dict[str, Any], message: str) -> None:
    assert refusal(columns, table(), **options).startswith(message)
