"""From the user's files to the table of a study: what it holds, and every way in which the data can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftrect_ray.errors import InputError, InputErrors
from ftrect_ray.sources import load_source
from ftrect_ray.study import Data
from ftrect_ray.tables import LoadedTable, load_table

ROWS = "id,text,rating,age\n007,a,1,30\n008,b,,41\n009,None,2.5,52\n010,,4,63\n"


def write(path: Path, content: str | pa.Table) -> str:
    if isinstance(content, str):
        path.write_text(content)
    else:
        pq.write_table(content, path)
    return str(path)


def load(
    tmp_path: Path, content: str = ROWS, labels: int | None = None, seed: int = 7, features=(), **data
) -> LoadedTable:
    path = write(tmp_path / "table.csv", content)
    text = {} if "prompt" in data else {"text": "text"}
    return load_table(Data(**{"table": path, "label": "rating", **text, **data}), labels, seed, features)


def messages(tmp_path: Path, content: str = ROWS, labels: int | None = None, features=(), **data) -> list[str]:
    with pytest.raises(InputErrors) as caught:
        load(tmp_path, content, labels, 7, features, **data)
    assert caught.value.exit_code == 2
    return [str(error).replace(f" ({tmp_path}/table.csv)", "") for error in caught.value.errors]


def message(*args, **kwargs) -> str:
    (only,) = messages(*args, **kwargs)
    return only


# ------------------------------------------------------------------------------------------------- the table


def test_the_table_of_a_study(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.table.schema == pa.schema(
        [("id", pa.string()), ("text", pa.string()), ("label", pa.float64()), ("age", pa.string())]
    )
    assert loaded.table.to_pydict() == {
        "id": ["007", "008", "009", "010"],
        "text": ["a", "b", "None", None],
        "label": [1.0, None, 2.5, 4.0],
        "age": ["30", "41", "52", "63"],
    }
    assert loaded.answers is None
    assert loaded.truth is None


def test_features_and_predictions_are_numbers(tmp_path: Path) -> None:
    content = "id,text,rating,score,age\n1,a,1,0.5,3e1\n2,b,2,,41\n"
    loaded = load(tmp_path, content, features=["age"], prediction="score")
    assert loaded.table.column_names == ["id", "text", "label", "prediction", "age"]
    assert loaded.table["prediction"].to_pylist() == [0.5, None]
    assert loaded.table["age"].to_pylist() == [30.0, 41.0]
    both = load(tmp_path, content.replace(",,", ",1,"), features=["score"], prediction="score")
    assert both.table.column_names == ["id", "text", "label", "prediction", "score", "age"]


def test_rows_can_be_numbered(tmp_path: Path) -> None:
    assert load(tmp_path, id=None).table["id"].to_pylist() == ["row-000001", "row-000002", "row-000003", "row-000004"]


def test_constant_answers_are_allowed(tmp_path: Path) -> None:
    loaded = load(tmp_path, "id,text,rating\n1,a,3\n2,b,3\n")
    assert loaded.truth == {"mean": 3.0, "rows": 2}


def test_a_column_called_like_ours_gives_way(tmp_path: Path) -> None:
    loaded = load(tmp_path, "id,text,label,body,rating\n1,x,9,a,3\n2,y,9,b,4\n", text="body")
    assert loaded.table.to_pydict() == {"id": ["1", "2"], "text": ["a", "b"], "label": [3.0, 4.0]}


def test_two_files_become_one_table(tmp_path: Path) -> None:
    labeled = write(tmp_path / "l.parquet", pa.table({"id": [1, 2], "text": ["a", "b"], "rating": [3, 4], "x": [1, 2]}))
    unlabeled = write(tmp_path / "u.csv", "text,id,x,y\nc,3,one,5\n")
    data = Data(labeled=labeled, unlabeled=unlabeled, text="text", label="rating")
    loaded = load_table(data, None, 7)
    assert loaded.table.to_pydict() == {
        "id": ["1", "2", "3"],
        "text": ["a", "b", "c"],
        "label": [3.0, 4.0, None],
        "x": ["1", "2", "one"],
        "y": [None, None, "5"],
    }
    assert loaded.answers is None
    numbered = load_table(data.model_copy(update={"id": None}), None, 7)
    assert numbered.table["id"].to_pylist() == ["row-000001", "row-000002", "row-000003"]


def test_unlike_columns_that_cannot_be_text(tmp_path: Path) -> None:
    labeled = pa.table({"id": ["1", "2"], "text": ["a", "b"], "rating": [3, 4], "x": [b"\xff", b"\xfe"]})
    data = Data(
        labeled=write(tmp_path / "l.parquet", labeled),
        unlabeled=write(tmp_path / "u.csv", "id,text,x\n3,c,1\n"),
        text="text",
        label="rating",
    )
    with pytest.raises(InputError, match="column 'x' has the type binary here and another in the other file"):
        load_table(data, None, 7)


# ---------------------------------------------------------------------------------------------------- budget


def test_the_budget_hides_the_other_answers() -> None:
    data = Data(source="vader", text="text", label="rating", scale=(-4, 4))
    loaded = load_table(data, 600, 7)
    label = loaded.table["label"].to_numpy()
    everything = load_source("vader")
    known = np.flatnonzero(~np.isnan(label))
    assert len(known) == 600
    assert np.array_equal(label[known], everything["rating"].to_numpy()[known])
    assert loaded.table["id"].equals(everything["id"])
    assert loaded.answers is not None
    assert loaded.answers["label"].equals(everything["rating"])
    assert loaded.truth == {"mean": pytest.approx(np.mean(everything["rating"].to_numpy())), "rows": 23_703}
    assert "rating" not in loaded.table.column_names
    assert known.mean() == pytest.approx(23_703 / 2, abs=4 * 23_703 / np.sqrt(12 * 600))  # spread over the table

    again, other = load_table(data, 600, 7), load_table(data, 600, 8)
    assert again.table.equals(loaded.table)
    assert again.fingerprint == other.fingerprint == loaded.fingerprint
    assert not other.table["label"].equals(loaded.table["label"])


def test_every_answer_is_equally_likely_to_be_kept(tmp_path: Path) -> None:
    content = "id,text,rating\n" + "".join(f"{i},t,{i if i % 3 else ''}\n" for i in range(15))  # 10 answers
    kept = np.zeros(15)
    for seed in range(400):
        kept += ~np.isnan(load(tmp_path, content, labels=4, seed=seed).table["label"].to_numpy())
    assert set(kept[::3]) == {0}
    answered = np.delete(kept, np.s_[::3])
    assert answered.sum() == 1600
    assert np.abs(answered - 160).max() < 4 * np.sqrt(400 * 0.4 * 0.6)


def test_without_a_budget_every_answer_stays(tmp_path: Path) -> None:
    assert load(tmp_path, labels=None).table.equals(load(tmp_path, labels=3).table)


def test_budget_above_the_answers(tmp_path: Path) -> None:
    assert message(tmp_path, labels=4) == (
        "'labels' is 4, but there are answers in only 3 rows"
        " — lower 'labels' to at most 3, or leave it out to use every answer"
    )


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    first = load(tmp_path).fingerprint
    assert load(tmp_path, labels=2, seed=1).fingerprint == first
    swapped = ROWS.replace("007,a,1,30\n008,b,,41\n", "008,b,,41\n007,a,1,30\n")
    assert load(tmp_path, swapped).fingerprint != first
    assert len(first) == 64


# ---------------------------------------------------------------------------------------------------- prompt


def test_prompt_is_filled_row_by_row(tmp_path: Path) -> None:
    loaded = load(tmp_path, prompt="{{{age}}} says: {text} ({age}).")
    assert loaded.table["text"].to_pylist() == [
        "{30} says: a (30).",
        "{41} says: b (41).",
        "{52} says: None (52).",
        None,
    ]
    assert "age" in loaded.table.column_names


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("{age", "'data.prompt' is not a template: expected '}' before end of string — write {column}; a literal"),
        ("{}", "'data.prompt' has an empty field {} — write {column}"),
        ("{age!r}", "'data.prompt' formats the field 'age' — write {column}, without ':' and '!'"),
        ("{age:>10}", "'data.prompt' formats the field 'age'"),
        ("How old?", "'data.prompt' has no {column} field, so every row has the same text"),
        (
            "{agee}",
            "there is no column 'agee' (data.prompt); the columns are: id, text, rating, age — did you mean 'age'?",
        ),
        ("{age.__class__}", "there is no column 'age.__class__' (data.prompt); the columns are"),
        ("{age[0]}", "there is no column 'age[0]' (data.prompt); the columns are"),
        (
            "{age} {rating}",
            "'data.prompt' uses the column 'rating', which holds the answers ('data.label') — an answer cannot",
        ),
    ],
)
def test_bad_prompts(tmp_path: Path, prompt: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, prompt=prompt)
    assert str(caught.value).replace(f" ({tmp_path}/table.csv)", "").startswith(expected)


# --------------------------------------------------------------------------------------------------- columns


def test_every_missing_column_is_named_at_once(tmp_path: Path) -> None:
    listed = "the columns are: id, text, rating, age"
    assert messages(tmp_path, features=["agee"], text="txt", label="stars", id="key", prediction="guess") == [
        f"there is no column 'key' (data.id); {listed}"
        " — name one of these columns, or set 'data.id: null' to number the rows",
        f"there is no column 'txt' (data.text); {listed} — did you mean 'text'?",
        f"there is no column 'stars' (data.label); {listed} — name one of these columns",
        f"there is no column 'guess' (data.prediction); {listed} — name one of these columns",
        f"there is no column 'agee' (target.features); {listed} — did you mean 'age'?",
    ]


@pytest.mark.parametrize(
    ("role", "change"),
    [
        ("data.text", {"text": "rating"}),
        ("data.id", {"id": "rating"}),
        ("data.prediction", {"prediction": "rating"}),
        ("target.features", {"features": ["rating"]}),
    ],
)
def test_the_answer_is_no_input(tmp_path: Path, role: str, change: dict) -> None:
    first = messages(tmp_path, ROWS.replace(",,", ",7,"), **change)[0]
    assert first.startswith(f"'{role}' uses the column 'rating', which holds the answers ('data.label')")


def test_a_feature_cannot_take_our_names(tmp_path: Path) -> None:
    content = "key,text,rating,id\n1,a,1,5\n2,b,2,6\n"
    assert message(tmp_path, content, id="key", features=["id"]) == (
        "a feature cannot be called 'id' — rename the column in the table"
    )


# ------------------------------------------------------------------------------------------------------ rows


@pytest.mark.parametrize(
    "bad", ["inf", "nan", "-Infinity", '"1,5"', "٣", "1e400", "1_000", "0x1F", "NA", "None", "true", "1 2"]
)
def test_an_answer_that_is_no_number(tmp_path: Path, bad: str) -> None:
    shown = bad.strip('"')
    assert message(tmp_path, f"id,text,rating\n1,a,1\n2,b,{bad}\n3,c,2\n") == (
        f"column 'rating' is not a finite number in 1 row: row 2 {shown!r}"
        " — write numbers like 1.5, and leave the cell empty where there is none"
    )


def test_numbers_that_are_fine(tmp_path: Path) -> None:
    loaded = load(tmp_path, "id,text,rating\n1,a, 1 \n2,b,-.5\n3,c,+2.e-1\n4,d,1E3\n")
    assert loaded.table["label"].to_pylist() == [1.0, -0.5, 0.2, 1000.0]


def test_typed_answers(tmp_path: Path) -> None:
    def table(rating: pa.Array) -> Data:
        path = write(
            tmp_path / "t.parquet", pa.table({"id": ["1", "2", "3"], "text": ["a", "b", "c"], "rating": rating})
        )
        return Data(table=path, text="text", label="rating")

    assert load_table(table(pa.array([1, None, 3], pa.int8())), None, 7).table["label"].to_pylist() == [1.0, None, 3.0]
    with pytest.raises(InputErrors, match=r"column 'rating' is not a finite number in 2 rows: row 2 nan, row 3 inf"):
        load_table(table(pa.array([1.0, float("nan"), float("inf")])), None, 7)
    with pytest.raises(InputErrors, match="column 'rating' has the type bool, a number is needed .* — write 1 and 0"):
        load_table(table(pa.array([True, False, True])), None, 7)
    with pytest.raises(InputErrors, match=r"column 'rating' has the type date32\[day\], a number is needed"):
        load_table(table(pa.array([1, 2, 3], pa.date32())), None, 7)


def test_only_the_first_wrong_rows_are_shown(tmp_path: Path) -> None:
    content = "id,text,rating\n" + "".join(f"{i},a,x{'y' * 100}\n" for i in range(9))
    text = message(tmp_path, content)
    assert text.startswith("column 'rating' is not a finite number in 9 rows: row 1 'xyyy")
    assert "row 5 " in text
    assert "row 6" not in text
    assert ", … — write" in text
    assert len(text) < 500


def test_answers_outside_the_scale(tmp_path: Path) -> None:
    content = "id,text,rating\n1,a,11\n2,b,10\n3,c,0.5\n4,d,1\n"
    assert message(tmp_path, content, scale=(1, 10)) == (
        "column 'rating' is outside the scale [1, 10] in 2 rows: row 1 11.0, row 3 0.5"
        " — mend the answers or 'data.scale'"
    )


def test_features_have_no_gaps(tmp_path: Path) -> None:
    content = "id,text,rating,age,size\n1,a,1,30,x\n2,b,2,,2\n3,c,,,3\n"
    assert messages(tmp_path, content, features=["age", "size"]) == [
        "column 'age' is empty in 2 rows: row 2, row 3 — fill these cells or drop the rows",
        "column 'size' is not a finite number in 1 row: row 1 'x'"
        " — write numbers like 1.5, and leave the cell empty where there is none",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,text,rating\n", "the table has no rows — a header alone is not enough"),
        ("id,text,rating\n1,a,\n2,b,\n", "there are answers in only 0 rows — an interval needs at least two"),
        ("id,text,rating\n1,a,3\n2,b,\n", "there are answers in only 1 row — an interval needs at least two"),
    ],
    ids=["header", "none", "one"],
)
def test_too_few(tmp_path: Path, content: str, expected: str) -> None:
    assert message(tmp_path, content) == expected


# ------------------------------------------------------------------------------------------------------- ids


def test_repeated_and_missing_ids(tmp_path: Path) -> None:
    assert messages(tmp_path, "id,text,rating\n7,a,1\n7,b,1\n8,c,2\n,d,2\n8,e,\n") == [
        "there is no 'id' in 1 row: row 4 — give every row an id, or set 'data.id: null' to number the rows",
        "2 ids are repeated: '7', '8' (row 1 '7', row 2 '7', row 3 '8', row 5 '8')"
        " — give every row an id of its own, or set 'data.id: null' to number the rows",
    ]


def test_conflicting_answers(tmp_path: Path) -> None:
    repeated, torn = messages(tmp_path, "id,text,rating\n7,a,1\n7,b,3\n8,c,2\n8,d,2\n")
    assert repeated.startswith("2 ids are repeated")
    assert torn == (
        "1 id is labelled with conflicting answers: '7' has 1, 3"
        " — decide on one answer, for example the mean of the raters"
    )


@pytest.fixture
def two_files(tmp_path: Path):
    def load_both(labeled: str, unlabeled: str) -> list[str]:
        data = Data(
            labeled=write(tmp_path / "l.csv", labeled),
            unlabeled=write(tmp_path / "u.csv", unlabeled),
            text="text",
            label="rating",
        )
        with pytest.raises(InputErrors) as caught:
            load_table(data, None, 7)
        return [str(error).replace(f"{tmp_path}/", "") for error in caught.value.errors]

    return load_both


def test_a_row_in_both_files(two_files) -> None:
    labeled = "id,text,rating\n1,a,1\n2,b,2\n3,c,3\n"
    assert two_files(labeled, "id,text\n3,c\n4,d\n1,a\n") == [
        "2 ids are in both l.csv and u.csv: '3', '1' — a row is labelled or it is not: keep it in one file"
    ]


def test_answers_where_they_should_not_be(two_files) -> None:
    assert two_files("id,text,rating\n1,a,1\n2,b,\n3,c,3\n", "id,text,rating\n4,d,\n5,e,2\n") == [
        "the labeled file has no 'rating' in 1 row: row 2 (l.csv)"
        " — move them to the unlabeled file, or name one 'data.table' with all rows",
        "the unlabeled file has answers in 'rating': row 2 '2' (u.csv)"
        " — drop the column, or name one 'data.table' with all rows",
    ]


def test_both_files_are_checked_before_any_error(two_files) -> None:
    assert two_files("id,text,rating\n1,a,x\n", "id,txt\n") == [
        "column 'rating' is not a finite number in 1 row: row 1 'x' (l.csv)"
        " — write numbers like 1.5, and leave the cell empty where there is none",
        "there is no column 'text' (data.text); the columns are: id, txt (u.csv) — did you mean 'txt'?",
        "the table has no rows (u.csv) — a header alone is not enough",
    ]


def test_an_unknown_source() -> None:
    with pytest.raises(InputError, match=r"there is no data source 'wader' — did you mean 'vader'\?"):
        load_table(Data(source="wader", text="text"), None, 7)
