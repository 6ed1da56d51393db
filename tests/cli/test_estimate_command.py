"""``ftrect estimate``: every target from a table, what the reader sees, and what is refused."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from ftrect_ray.cli import parser as grammar
from ftrect_ray.cli.tabulated import aligned
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.settings import Bootstrap
from ftrect_ray.streaming import Columns, estimate_stream
from ftrect_ray.streaming.questions import TARGETS

Ftrect = Callable[..., tuple[int, str, str]]
MEAN = ("--label", "y", "--prediction", "f")
ANSWERS = ("y", "z", "yes", "word", "option")


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    """300 rows; the first 120 are labelled."""
    rng = np.random.default_rng(2)
    n = 300
    x = rng.normal(size=n).round(4)
    y = (5 + x + rng.normal(size=n)).round(3)
    words = np.array(["yes", "no", "None"])
    word, option = rng.choice(words, n), rng.integers(0, 3, n)
    right = rng.random(n) < 0.8
    stratum = rng.choice(np.array(["a", "b"]), n)
    return {
        "y": y,
        "f": (y + 0.5 * rng.normal(size=n)).round(3),
        "g": (y + 0.5 * rng.normal(size=n)).round(3),
        "z": (y - 0.5 + 0.1 * rng.normal(size=n)).round(3),
        "fz": (y - 0.4).round(3),
        "yes": (rng.random(n) < 1 / (1 + np.exp(-x))).astype(int),
        "p": (1 / (1 + np.exp(-x))).round(3),
        "word": word,
        "fword": np.where(right, word, rng.choice(words, n)),
        "option": option,
        "foption": np.where(right, option, rng.integers(0, 3, n)),
        "x": x,
        "w": rng.uniform(0.5, 2, n).round(2),
        "pi": np.full(n, 0.4),
        "stratum": stratum,
        "cluster": np.array([f"{s}{i // 4}" for i, s in enumerate(stratum.tolist())]),
        "fold": np.arange(n) % 2,
        "side": np.where(np.arange(n) % 3 > 0, "treated", "control"),
    }


@pytest.fixture(scope="module")
def arrow(columns: dict[str, np.ndarray]) -> pa.Table:
    hidden = np.arange(300) >= 120
    return pa.table({k: pa.array(v, mask=hidden if k in ANSWERS else None) for k, v in columns.items()})


@pytest.fixture(scope="module")
def table(arrow: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "answers.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(arrow.column_names)
        writer.writerows(["" if v is None else v for v in row.values()] for row in arrow.to_pylist())
    return path


def flat(value: Any) -> np.ndarray:
    """Numbers of a JSON value, NaN for null."""
    return np.ravel(np.array(value, dtype=float))


def refused(answer: tuple[int, str, str], code: int, message: str) -> None:
    got, out, err = answer
    assert (got, out) == (code, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err


# -------------------------------------------------------------------------------------------------------- numbers


REGRESSION = ("--features", "x")
COMMANDS: list[tuple[tuple[str, ...], Columns, str, dict[str, Any]]] = [
    (MEAN, Columns("y", "f"), "mean", {}),
    (("--label", "word", "--prediction", "fword"), Columns("word", "fword"), "proportions", {}),
    ((*MEAN, "--groups", "side"), Columns("y", "f", groups="side"), "difference", {}),
    (
        (*MEAN, "--label-other", "z", "--prediction-other", "fz"),
        Columns("y", "f", label_other="z", prediction_other="fz"),
        "difference",
        {},
    ),
    ((*MEAN, "--q", "0.8"), Columns("y", "f"), "quantile", {"q": 0.8}),
    ((*MEAN, *REGRESSION), Columns("y", "f", features=["x"]), "ols", {}),
    (("--label", "yes", "--prediction", "p", *REGRESSION), Columns("yes", "p", features=["x"]), "logistic", {}),
    (("--label", "yes", "--prediction", "p", *REGRESSION), Columns("yes", "p", features=["x"]), "poisson", {}),
    (
        ("--label", "option", "--prediction", "foption", *REGRESSION),
        Columns("option", "foption", features=["x"]),
        "multinomial",
        {},
    ),
]


@pytest.mark.parametrize(("words", "asked", "target", "options"), COMMANDS)
def test_every_target(
    ftrect: Ftrect, table: Path, arrow: pa.Table, words: Any, asked: Columns, target: str, options: dict[str, Any]
) -> None:
    code, out, err = ftrect("estimate", table, "--target", target, *words, "--json")
    assert code == 0, err
    found, expected = json.loads(out), estimate_stream(arrow, asked, target, **options)
    classical = found.pop("classical")
    assert found.pop("between", None) == (["control", "treated"] if asked.groups else None)
    assert found["value"] == pytest.approx(expected.to_dict()["value"], rel=1e-10)
    assert flat(found["interval"]) == pytest.approx(flat(expected.interval), rel=1e-8)
    assert (found["target"], found["n"], found["m"]) == (expected.target, 120, 180)
    without = estimate_stream(arrow, asked, target, lam=0.0, **options)
    assert classical["value"] == pytest.approx(without.to_dict()["value"], rel=1e-10)
    assert classical["std_error"] == pytest.approx(without.to_dict()["std_error"], rel=1e-8)
    assert classical["diagnostics"]["calibration_slope"] is None
    text = ftrect("estimate", table, "--target", target, *words)[1]
    for name in expected.names or (target,):
        assert re.search(rf"(?m)^{re.escape(name)}|^control − treated", text)


@pytest.mark.parametrize(
    ("words", "asked", "options"),
    [
        (
            ("--weight", "w", "--strata", "stratum", "--cluster", "cluster"),
            {"weight": "w", "strata": "stratum", "cluster": "cluster"},
            {},
        ),
        (("--probability", "pi"), {"probability": "pi"}, {}),
        (("--density-ratio", "w"), {"density_ratio": "w"}, {}),
        (
            ("--alpha", "0.2", "--null", "-1", "--alternative", "smaller"),
            {},
            {"alpha": 0.2, "null": -1.0, "alternative": "smaller"},
        ),
        (("--lam", "0.25", "--quantiles", "normal"), {}, {"lam": 0.25, "quantiles": "normal"}),
        (("--lam", "crossfit"), {}, {"lam": "crossfit"}),
        (("--population", "finite"), {}, {"population": "finite"}),
        (
            ("--bootstrap", "percentile", "--replications", "99", "--seed", "4"),
            {},
            {"bootstrap": Bootstrap("percentile", 99, 4)},
        ),
    ],
)
def test_every_option(
    ftrect: Ftrect, table: Path, arrow: pa.Table, words: Any, asked: dict[str, str], options: dict[str, Any]
) -> None:
    code, out, err = ftrect("estimate", table, *MEAN, *words, "--json")
    assert code == 0, err
    found, expected = json.loads(out), estimate_stream(arrow, Columns("y", "f", **asked), **options).to_dict()
    for name in ("value", "std_error", "p_value", "lam", "df", "effective_n", "interval"):
        assert flat(found[name]) == pytest.approx(flat(expected[name]), rel=1e-8, nan_ok=True), name


def test_vector_options(ftrect: Ftrect, table: Path, arrow: pa.Table) -> None:
    words = ("--label", "word", "--prediction", "fword", "--target", "proportions", "--simultaneous")
    code, out, err = ftrect(
        "estimate", table, *words, "--coefficients", "yes,None", "--lam", "per-coordinate", "--json"
    )
    assert code == 0, err
    options = {"simultaneous": True, "coefficients": ["yes", "None"], "lam": "per-coordinate"}
    expected = estimate_stream(arrow, Columns("word", "fword"), "proportions", **options).to_dict()
    found = json.loads(out)
    assert found["names"] == ["yes", "None"]
    for name in ("value", "interval", "lam"):
        assert flat(found[name]) == pytest.approx(flat(expected[name]), rel=1e-8)


def test_folds(ftrect: Ftrect, table: Path, columns: dict[str, np.ndarray]) -> None:
    code, out, _ = ftrect("estimate", table, "--label", "y", "--prediction", "f,g", "--fold", "fold", "--json")
    fold = columns["fold"][:120]
    own = np.where(fold == 0, columns["f"][:120], columns["g"][:120])
    both = np.column_stack([columns["f"][120:], columns["g"][120:]])
    expected = mean(columns["y"][:120], own, both, folds=fold)
    assert code == 0
    assert json.loads(out)["interval"] == pytest.approx(list(expected.interval), rel=1e-10)


def test_groups(ftrect: Ftrect, table: Path, arrow: pa.Table) -> None:
    code, out, _ = ftrect("estimate", table, *MEAN, "--by", "side", "--json")
    document = json.loads(out)
    expected = estimate_stream(arrow, Columns("y", "f"), by="side")
    assert code == 0
    assert document["by"] == "side"
    assert document["note"] == (
        "2 groups, each interval of level 95 % by itself: about 0.1 of them miss by chance; with --alpha 0.025 all "
        "hold together (Bonferroni)"
    )
    assert [group["group"] for group in document["groups"]] == ["control", "treated"]
    for group in document["groups"]:
        assert group["value"] == pytest.approx(expected[group["group"]].value)
        assert group["classical"]["n"] == group["n"]


def test_a_group_without_an_estimate(ftrect: Ftrect, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("y,f,g\n1,1,a\n2,2,a\n,3,a\n,1,a\n1,1,b\n,2,b\n1,,c\n2,1,c\n3,1,c\n")
    code, out, _ = ftrect("estimate", path, *MEAN, "--by", "g", "--json")
    groups = {group.pop("group"): group for group in json.loads(out)["groups"]}
    assert code == 0
    assert groups["a"]["n"] == 2
    assert groups["b"] == {
        "refusal": f"column 'y' has 1 answer; two are needed ({path}) — label more rows",
        "exit_code": 2,
    }
    assert groups["c"]["exit_code"] == 4
    code, out, _ = ftrect("estimate", path, *MEAN, "--by", "g")
    assert code == 0
    assert f"\nb: no estimate: column 'y' has 1 answer; two are needed ({path}) — label more rows\n" in out
    assert "\nc: no estimate: 1 of 3 rows (33.3 %) have no prediction in 'f'" in out
    assert "\na: WARN labels: only 2 labels: the interval is rough below 30 — label more rows" in out


# ------------------------------------------------------------------------------------------------------ the report


def test_the_report(ftrect: Ftrect, table: Path) -> None:
    code, out, err = ftrect("estimate", table, *MEAN, "--lam", "0.5")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "mean of 'y': 95 % intervals, 120 labels, 180 unlabelled rows"
    assert lines[2].split() == ["estimate", "interval", "p", "classical", "interval", "worth", "λ", "df"]
    assert re.fullmatch(
        r"mean    \d\.\d{4}  \d\.\d{4} to \d\.\d{4}  <0.001     \d\.\d{4}  \d\.\d{4} to \d\.\d{4}    \d+  0\.50  \d+",
        lines[3],
    )
    assert lines[5] == "p: that the value is 0 (two-sided); worth: labels that would tell as much without a model"
    assert lines[-1] == "state: PASS"


def test_the_report_of_one_side_and_several_groups(ftrect: Ftrect, table: Path) -> None:
    words = ("--alternative", "larger", "--null", "5", "--alpha", "0.1", "--by", "stratum", *REGRESSION)
    lines = ftrect("estimate", table, *MEAN, "--target", "ols", *words)[1].splitlines()
    assert lines[0] == "ols of 'y', by 'stratum': 90 % lower bounds"
    assert lines[2].split()[:4] == ["stratum", "labels", "rows", "estimate"]
    assert [line.split()[:2] for line in lines[3:7]] == [["a", "intercept"], ["a", "x"], ["b", "intercept"], ["b", "x"]]
    assert all(" to ∞ " in line for line in lines[3:7])
    assert lines[8] == "p: that the value is 5 (larger); worth: labels that would tell as much without a model"


def test_checks_that_do_not_pass_come_with_a_remedy(ftrect: Ftrect, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("y,f\n" + "".join(f"{4 if i < 40 else ''},{i % 3}\n" for i in range(100)))
    out = ftrect("estimate", path, *MEAN)[1]
    assert "mean         4    4 to 4  <0.001          4    4 to 4" in out
    assert (
        "\nWARN variation: all labels equal 4: the width of the interval says nothing about rarer answers — label"
        in out
    )
    assert out.endswith("\nstate: WARN\n")
    few = tmp_path / "few.csv"
    few.write_text("y,f\n1,1\n2,2\n3,4\n,1\n")
    assert (
        "\nnote: 1 unlabelled row(s) cannot carry predictions: this is the classical estimate\n"
        in ftrect("estimate", few, *MEAN)[1]
    )


def test_columns_are_aligned() -> None:
    assert aligned([["", "n"], ["mean", "12"], ["x", "3456"]]) == "         n\nmean    12\nx     3456"


def test_the_targets_of_the_parser_are_all_there_are() -> None:
    assert tuple(grammar.TARGETS) == TARGETS


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--scale", "1"), 2, r"'--scale' takes two numbers LOW,HIGH; got '1' — for example --scale 1,10"),
        (("--scale", "1,x"), 2, r"'--scale' must be a number; got x"),
        (("--scale", "5,6"), 2, r"labels in 'y' must be on the scale 5 to 6; got row \d+ .*such labels\).*answers.csv"),
        (("--features", "x,x", "--target", "ols"), 2, r"'--features' takes different names .*; got 'x,x'"),
        (("--lam", "2"), 2, r"'lam' must be 'tuned', 'per-coordinate', 'crossfit' or a number in \[0, 1\]; got 2"),
        (("--lam", "nan"), 2, r"'lam' must be .*; got nan"),
        (("--lam", "tund"), 2, r"'lam' must be .*; got 'tund'"),
        (("--null", "inf"), 2, r"'--null' must be a number; got inf"),
        (("--replications", "999"), 2, r"'--replications' goes with '--bootstrap' only"),
        (("--seed", "1"), 2, r"'--seed' goes with '--bootstrap' only"),
        (("--bootstrap", "percentile", "--replications", "10"), 2, r"'--replications' must be >= 99; got 10"),
        (("--bootstrap", "percentil"), 2, r"did you mean 'percentile'\?"),
        (("--q", "0.5"), 2, r"'q' goes with quantile; the target is 'mean'"),
        (("--features", "x"), 2, r"'features' goes with ols, logistic, poisson or multinomial; the target is 'mean'"),
        (("--target", "ols"), 2, r"the target 'ols' needs 'features'"),
        (("--target", "difference"), 2, r"the target 'difference' needs 'groups', or 'label_other'"),
        (
            ("--target", "difference", "--groups", "stratum", "--label-other", "z"),
            2,
            r"'label_other' and 'prediction_o",
        ),
        (("--coefficients", "x"), 2, r"'coefficients' goes with proportions, ols"),
        (("--simultaneous",), 2, r"'simultaneous' goes with proportions, ols"),
        (("--fold", "fold"), 2, r"'fold' goes with several columns of predictions"),
        (
            ("--population", "finite", "--weight", "w"),
            2,
            r"a finite population goes with simple or stratified .*'weights'",
        ),
        (("--by", "y"), 2, r"'by' cannot be the column 'y'"),
        (("--by", "sid"), 2, r"there is no column 'sid'.*did you mean 'side'\?"),
        (("--weight", "fword"), 2, r"column 'fword' is not a finite number in 300 rows: row 1 '(yes|no|None)'"),
        (("--max-rows", "100"), 2, r"more rows than 'data.max_rows' \(100\)"),
        (("--max-bytes", "100"), 2, r"more than 'data.max_bytes' \(100\)"),
        (
            ("--target", "difference", "--groups", "cluster"),
            2,
            r"column 'cluster' must hold two groups; got \d+: 'a\d+'",
        ),
    ],
)
def test_what_does_not_go_together(
    ftrect: Ftrect, table: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    refused(ftrect("estimate", table, *MEAN, *words), code, message)


def test_several_predictions_need_folds(ftrect: Ftrect, table: Path) -> None:
    refused(
        ftrect("estimate", table, "--label", "y", "--prediction", "f,g"),
        2,
        "2 columns of predictions need the column 'f",
    )


@pytest.mark.parametrize(
    "name", ["label", "prediction-other", "weight", "strata", "cluster", "probability", "fold", "by"]
)
def test_17_columns_that_are_not_there(ftrect: Ftrect, table: Path, name: str) -> None:
    words = {"--label": "y", "--prediction": "f,g", "--fold": "fold"}
    if name == "prediction-other":
        words = {"--label": "y", "--prediction": "f", "--label-other": "z", "--target": "difference"}
    words |= {f"--{name}": "foldd" if name == "fold" else "clustr"}
    refused(
        ftrect("estimate", table, *(word for pair in words.items() for word in pair)),
        2,
        r"there is no column '(foldd|clustr)'; the columns are: y, f, .*did you mean '(fold|cluster)'\?",
    )


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("", 2, "the file is empty"),
        ("y,f\n", 2, "column 'y' has 0 answers; two are needed"),
        ("y,f\n1,2\n,3\n", 2, "column 'y' has 1 answer; two are needed"),
        ("y,f\n1,2\n2,inf\n,3\n", 2, "column 'f' is not a finite number in 1 row: row 2 'inf'"),
        ("y,f\n1,2\nnan,2\n,3\n", 2, "column 'y' is not a finite number in 1 row: row 2 'nan'"),
        ('y,f\n1,2\n"1,5",2\n,3\n', 2, "row 2 '1,5'"),
        ("y,f\n1,2\n٣,2\n,3\n", 2, "row 2 '٣'"),
        ("y,f\n1,2\n1e400,2\n,3\n", 2, "row 2 '1e400'"),
        ("y,f\n1,2\nNA,2\n,3\n", 2, "row 2 'NA'"),
        ("y,f\n1,2\n2,3,4\n", 2, "the header has 2 cells, but not 1 row: line 3 has 3"),
        ('y,f\n1,"2\n', 2, "a double quote in the row that begins on line 2 is never closed"),
        ("y,f\n1,\n2,2\n,\n", 4, r"2 of 3 rows \(66.7 %\) have no prediction in 'f'"),
        ("y,f\n1,1\n2,2\n3,3\n,1\n,1\n", 0, ""),
    ],
)
def test_18_19_26_and_30_contents(ftrect: Ftrect, tmp_path: Path, content: str, code: int, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    if code:
        refused(ftrect("estimate", path, *MEAN), code, message)
    else:
        assert ftrect("estimate", path, *MEAN)[0] == 0


def test_20_none_and_na_are_answers_unless_declared(ftrect: Ftrect, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"y": word, "f": word} for word in ("None", "NA", "yes", "yes", "no")]
    rows += [{"y": None, "f": word} for word in ("NA", "None", "yes")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("estimate", path, *MEAN, "--target", "proportions", "--json")
    assert json.loads(ftrect(*words)[1])["names"] == ["NA", "None", "no", "yes"]
    refused(ftrect(*words, "--missing", "NA,None"), 4, r"4 of 8 rows \(50.0 %\) have no prediction in 'f'")


def test_21_labels_outside_the_scale(ftrect: Ftrect, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("y,f\n" + "".join(f"{11 if i in (3, 7) else 5},5\n" for i in range(20)))
    refused(
        ftrect("estimate", path, *MEAN, "--scale", "1,10"),
        2,
        r"labels in 'y' must be on the scale 1 to 10; got row 4 11, row 8 11 \(2 such labels\)",
    )


def test_25_strata_and_weights(ftrect: Ftrect, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("y,f,s,w\n1,1,a,1\n2,2,a,1\n3,2,b,1\n,1,a,0\n,2,b,-1\n")
    refused(ftrect("estimate", path, *MEAN, "--strata", "s"), 4, "stratum 'b' has one sampling unit")
    refused(ftrect("estimate", path, *MEAN, "--weight", "w"), 2, "column 'w' must not be negative; got row 5 '-1'")


def test_27_and_29_files(ftrect: Ftrect, tmp_path: Path) -> None:
    broken, folder = tmp_path / "broken.parquet", tmp_path / "folder.csv"
    broken.write_bytes(b"PAR1 and no more")
    folder.mkdir()
    refused(ftrect("estimate", broken, *MEAN), 2, "the file is not parquet, or its end is missing")
    refused(ftrect("estimate", folder, *MEAN), 2, "this is a folder, not a file")
    refused(ftrect("estimate", tmp_path / "none.csv", *MEAN), 2, "there is no such file")
    refused(ftrect("estimate", tmp_path / "t.xlsx", *MEAN), 2, "there is no such file")
    refused(ftrect("estimate", "/dev/zero", *MEAN), 2, "a pipe or device, not a file")


def test_formats_agree(ftrect: Ftrect, table: Path, arrow: pa.Table, tmp_path: Path) -> None:
    pq.write_table(arrow, tmp_path / "t.parquet")
    pc.write_csv(arrow, tmp_path / "t.csv")
    texts = [ftrect("estimate", path, *MEAN)[1] for path in (table, tmp_path / "t.parquet", tmp_path / "t.csv")]
    assert texts[0] == texts[1] == texts[2]
