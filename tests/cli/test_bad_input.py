"""What a user's mistake looks like: one line on stderr, the right exit code, and nothing half-written.

The numbers in the test names are the rows of the list of forty bad inputs that the product is held to.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftrect_ray.ledger import Ledger, Use
from ftrect_ray.storage import RunStorage

Ftrect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """200 rows, 80 of them answered, with a fair prediction and a feature."""
    rng = np.random.default_rng(3)
    truth = rng.normal(5, 2, 200).clip(1, 10)
    answers = [f"{value:.3f}" if i < 80 else "" for i, value in enumerate(truth)]
    lines = ["id,text,label,prediction,age"]
    lines += [f"r{i},text {i},{answers[i]},{truth[i] + rng.normal():.3f},{20 + i % 50}" for i in range(200)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def study(tmp_path: Path, table: Path) -> Path:
    """A study of that table that needs no model."""
    path = tmp_path / "study.yaml"
    path.write_text(
        f"study: small\ndata: {{table: {table}, text: text, label: label, id: id, prediction: prediction,"
        " scale: [1, 10]}\ndesign: rectify-only\n"
    )
    return path


def expect(answer: tuple[int, str, str], code: int, message: str) -> None:
    got, out, err = answer
    assert got == code, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) >= 1
    assert re.search(message, err), err


# --------------------------------------------------------------------------------------------- command line


def test_1_unknown_option_and_command(ftrect: Ftrect, table: Path) -> None:
    estimate = ["estimate", table, "--label", "label", "--prediction", "prediction"]
    expect(
        ftrect(*estimate, "--apha", "0.1"), 2, r"unknown option '--apha' \(ftrect estimate\) — did you mean '--alpha'\?"
    )
    expect(ftrect("estmate"), 2, r"unknown command 'estmate' .* did you mean 'estimate'\?")
    expect(ftrect(*estimate, "--target", "maen"), 2, r"'maen' .*did you mean 'mean'\?")
    expect(ftrect("estimate", table), 2, r"required: --label, --prediction")
    expect(ftrect(), 2, r"COMMAND")


@pytest.mark.parametrize("alpha", ["0", "1", "-0.1", "1.5", "nan", "5%"])
def test_2_alpha_outside_the_open_interval(ftrect: Ftrect, table: Path, study: Path, alpha: str) -> None:
    message = rf"'alpha' must be in \(0, 1\); got {re.escape(alpha)}"
    expect(ftrect("estimate", table, "--label", "label", "--prediction", "prediction", f"--alpha={alpha}"), 2, message)
    expect(ftrect("plan", "--law", "1,1,0", "--labels", "100", f"--alpha={alpha}"), 2, message)
    expect(ftrect("validate", study, "--set", f"alpha={alpha}"), 2, rf"'alpha': .*got '?{re.escape(alpha)}'?")


@pytest.mark.parametrize("q", ["0", "1", "1.2"])
def test_3_quantile_level(ftrect: Ftrect, table: Path, q: str) -> None:
    words = ["estimate", table, "--label", "label", "--prediction", "prediction", "--target", "quantile", "--q", q]
    expect(ftrect(*words), 2, rf"'q' must be in \(0, 1\); got {q}")


def test_4_to_9_study_files(ftrect: Ftrect, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages themselves are in test_study.py; here: the exit code, and that nothing ran."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    good = study.read_text()
    for bad, message in [
        (good + "training: {lerning_rate: 1}", r"unknown key 'training.lerning_rate'"),
        (good + "design: auto", "given twice"),
        (good + "training: {learning_rate: fast}", "got 'fast'"),
        (good + "x: !!python/object/apply:os.system ['touch canary']", "tags are not allowed"),
        ("- a list", "a mapping of settings"),
        ("", "this one is empty"),
    ]:
        study.write_text(bad)
        expect(ftrect("run", study, "-o", tmp_path / "run"), 2, message)
    study.write_bytes(good.encode("utf-16"))
    expect(ftrect("validate", study), 2, "not UTF-8")
    assert sorted(tmp_path.iterdir()) == before
    study.write_text(good, encoding="utf-8-sig")
    assert ftrect("validate", study)[0] == 0
    expect(ftrect("validate", study, "--set", "alpha=2", "--set", "folds=1"), 2, r"(?s)folds.*\nerror: .*alpha")


def test_validate_reports_data_and_settings_together(ftrect: Ftrect, study: Path) -> None:
    code, _, err = ftrect(
        "validate", study, "--set", "data.text=txt", "--set", "data.label=lable", "--set", "data.id=idd"
    )
    assert code == 2
    assert len(err.splitlines()) == 3
    for near in ("'text'", "'label'", "'id'"):
        assert f"did you mean {near}?" in err


# ------------------------------------------------------------------------------------------------------ runs


def test_10_two_runs_at_once(ftrect: Ftrect, study: Path, tmp_path: Path) -> None:
    storage = RunStorage.open(tmp_path / "run")
    storage.create()
    with storage.lock():
        expect(ftrect("run", study, "-o", tmp_path / "run"), 2, rf"the run is locked by pid {os.getpid()}")
    assert ftrect("run", study, "-o", tmp_path / "run")[0] == 0


def test_11_resume_with_changed_study_or_data(ftrect: Ftrect, study: Path, table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert ftrect("run", study, "-o", run)[0] == 0
    first = (run / "estimate.json").read_bytes()
    expect(
        ftrect("run", study, "-o", run, "--set", "alpha=0.1"),
        2,
        r"alpha 0.05 → 0.1; hash [0-9a-f]{16} → [0-9a-f]{16} .*--update .*rectify, report",
    )
    ledger = Ledger.load(RunStorage.open(run))
    ledger.record(Use.PILOT_TRAIN, "pilot-20-0", ledger.ids(Use.RECTIFY)[:20])
    ledger.save(RunStorage.open(run))
    os.utime(table, (1, 1))  # a new time with the old content is no change
    code, _, err = ftrect("run", study, "-o", run)
    assert code == 0
    assert "[rectify] skipped: done already" in err
    assert Ledger.load(RunStorage.open(run)).counts() == ledger.counts()  # and what labels were spent on stays
    table.write_text(table.read_text().replace("text 5,", "text 5 changed,"))
    expect(ftrect("run", study, "-o", run), 2, r"the data have changed .* fingerprint [0-9a-f]{16} → [0-9a-f]{16}")
    assert (run / "estimate.json").read_bytes() == first
    assert ftrect("run", study, "-o", run, "--update", "--set", "alpha=0.1")[0] == 0
    assert json.loads((run / "estimate.json").read_text())["alpha"] == 0.1


def test_12_a_folder_that_cannot_be_written(ftrect: Ftrect, study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    expect(
        ftrect("run", study, "-o", tmp_path / "file" / "run"),
        3,
        "cannot write the run: .* — free space or choose another folder",
    )
    for words in ([], ["--dry-run"]):
        expect(ftrect("run", study, "-o", tmp_path / "file", *words), 2, "a file, and not a folder")
    assert (tmp_path / "file").read_text() == "in the way"


def test_12_a_full_disk_in_the_middle(study: Path, tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk: the system refuses the write in the same place."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "ftrect_ray", "run", str(study), "-o", str(run)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    kept = (run / "estimate.json").read_bytes()
    limit = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
    limit += "from ftrect_ray.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["run", str(study), "-o", str(run), "--update", "--set", "alpha=0.1"]
    full = subprocess.run([sys.executable, "-c", limit, *words], capture_output=True, text=True, check=False)
    assert full.returncode == 3, full.stderr
    assert "error: cannot write the run: File too large" in full.stderr
    assert "Traceback" not in full.stderr
    assert (run / "estimate.json").read_bytes() == kept or json.loads((run / "estimate.json").read_text())[
        "alpha"
    ] == 0.1
    assert not [name for name in os.listdir(run) if name.startswith(".lock")]
    assert subprocess.run([*command, "--update"], capture_output=True, check=False).returncode == 0


@pytest.mark.ray
def test_13_a_gpu_that_is_not_there(ftrect: Ftrect, study: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    words = ["--set", "design=crossfit", "--set", "pilots=null", "--set", "training.gpus_per_worker=1"]
    expect(
        ftrect("run", study, "-o", tmp_path / "run", *words),
        3,
        r"'training.gpus_per_worker' asks for 1 GPU a worker; the cluster has none — set training.gpus_per_worker=auto",
    )
    words = ["--set", "design=crossfit", "--set", "pilots=null", "--set", "training.workers=640"]
    expect(
        ftrect("run", study, "-o", tmp_path / "run2", *words),
        3,
        r"'training.workers' asks for 640 workers × 1 CPU = 640 CPUs",
    )
    assert time.monotonic() - began < 60


# ------------------------------------------------------------------------------------------------------ data


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda t: t.replace("label,", "lable,", 1), 2, r"17|'label'.*did you mean 'lable'\?"),
        (lambda t: t.splitlines()[0] + "\n", 2, r"rows|answers"),
        (lambda t: "", 2, r"empty|header|rows"),
        (lambda t: re.sub(r"(?m)^(r\d+,text \d+),[^,]+,", r"\1,,", t), 2, r"answers|labels"),
        (lambda t: re.sub(r"(?m)^r3,text 3,[^,]+,", "r3,text 3,inf,", t), 2, r"inf"),
        (lambda t: re.sub(r"(?m)^r3,text 3,[^,]+,", "r3,text 3,nan,", t), 2, r"nan"),
        (lambda t: re.sub(r"(?m)^r3,text 3,[^,]+,", 'r3,text 3,"1,5",', t), 2, r"1,5"),
        (lambda t: re.sub(r"(?m)^r3,text 3,[^,]+,", "r3,text 3,٣,", t), 2, r"٣"),
        (lambda t: re.sub(r"(?m)^r3,text 3,[^,]+,", "r3,text 3,1e400,", t), 2, r"1e400"),
        (lambda t: re.sub(r"(?m)^r3,text 3,[^,]+,", "r3,text 3,NA,", t), 2, r"'NA'"),
        (lambda t: re.sub(r"(?m)^r3,text 3,[^,]+,", "r3,text 3,11,", t), 2, r"outside|scale"),
        (lambda t: t.replace("\nr4,", "\nr3,"), 2, r"r3"),
    ],
)
def test_17_to_21_and_24_tables(
    ftrect: Ftrect, study: Path, table: Path, tmp_path: Path, change: Callable[[str], str], code: int, message: str
) -> None:
    table.write_text(change(table.read_text()))
    for command in (["validate", study], ["run", study, "-o", tmp_path / "run"]):
        expect(ftrect(*command), code, message)
    assert not (tmp_path / "run" / "estimate.json").exists()


def test_20_none_and_na_stay_texts(ftrect: Ftrect, study: Path, table: Path, tmp_path: Path) -> None:
    table.write_text(
        table.read_text().replace(",text 1,", ",None,").replace(",text 2,", ",NA,").replace("\nr7,", "\n007,")
    )
    assert ftrect("run", study, "-o", tmp_path / "run")[0] == 0
    rows = {row["id"]: row["text"] for row in pq.read_table(tmp_path / "run" / "table.parquet").to_pylist()}
    assert (rows["r1"], rows["r2"], rows["007"]) == ("None", "NA", "text 7")


def test_22_constant_answers_and_predictions(ftrect: Ftrect, table: Path) -> None:
    words = ["estimate", table, "--label", "label", "--prediction", "prediction", "--json"]
    text = table.read_text()
    table.write_text(re.sub(r"(?m)^(r\d+,text \d+),[\d.]+,", r"\1,4,", text))
    code, out, _ = ftrect(*words)
    answer = json.loads(out)
    assert code == 0
    assert answer["interval"][0] == answer["interval"][1] == pytest.approx(4.0, abs=1e-12)
    assert answer["diagnostics"]["warnings"]
    table.write_text(re.sub(r"(?m),[-\d.]+,(\d+)$", r",3,\1", text))
    code, out, _ = ftrect(*words)
    answer = json.loads(out)
    assert code == 0
    assert answer["interval"] == pytest.approx(answer["classical"]["interval"])
    assert answer["diagnostics"]["warnings"]


def test_23_collinear_features(ftrect: Ftrect, table: Path) -> None:
    lines = table.read_text().splitlines()
    ages = [line.rsplit(",", 1)[1] for line in lines[1:]]
    table.write_text(
        "\n".join(
            [lines[0] + ",months", *(f"{line},{12 * int(age)}" for line, age in zip(lines[1:], ages, strict=True))]
        )
    )
    words = ["estimate", table, "--label", "label", "--prediction", "prediction", "--target", "ols", "--features"]
    expect(ftrect(*words, "age,months"), 4, r"X'X is singular.*'months'")
    assert ftrect(*words, "age")[0] == 0
    expect(ftrect(*words, "agee"), 2, r"'agee'.*did you mean 'age'\?")
    expect(ftrect(*words, "text"), 2, r"'text'")


def test_24_budgets_and_overlapping_tables(ftrect: Ftrect, study: Path, table: Path, tmp_path: Path) -> None:
    expect(ftrect("validate", study, "--set", "labels=81"), 2, r"81.*80")
    words = ["--set", "design=crossfit"]
    expect(
        ftrect("validate", study, *words, "--set", "pilots.sizes=[30, 50, 70]"),
        2,
        r"'pilots.sizes' asks for 70 labels; of 80, 20 are held for validation and 60 left",
    )
    expect(ftrect("validate", study, *words, "--set", "pilots=null", "--set", "folds=9"), 2, "9 folds need 90 labels")
    lines = table.read_text().splitlines()
    (tmp_path / "a.csv").write_text("\n".join(lines[:81]))
    (tmp_path / "b.csv").write_text("\n".join([lines[0], *lines[80:]]))
    files = f"labeled: {tmp_path}/a.csv, unlabeled: {tmp_path}/b.csv"
    columns = "text: text, label: label, prediction: prediction"
    both = f"study: two\ndata: {{{files}, {columns}}}\ndesign: rectify-only\n"
    study.write_text(both)
    expect(ftrect("validate", study), 2, r"r79")


def test_30_missing_predictions_are_refused(ftrect: Ftrect, study: Path, table: Path, tmp_path: Path) -> None:
    table.write_text(re.sub(r"(?m)^(r1\d\d,text \d+,[^,]*),[^,]+,", r"\1,,", table.read_text()))
    expect(
        ftrect("run", study, "-o", tmp_path / "run"),
        4,
        r"of the unlabelled texts have no prediction, the limit is 20.0%",
    )
    expect(
        ftrect("estimate", table, "--label", "label", "--prediction", "prediction"),
        4,
        r"100 of 200 rows \(50.0 %\) have no prediction",
    )


# ----------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc", "a/../b", r"C:\x", "''", "x" * 300, "/nowhere/at/all"])
def test_35_model_names(ftrect: Ftrect, study: Path, name: str) -> None:
    code, _, err = ftrect("validate", study, "--set", "design=crossfit", "--set", f"model.name={name}")
    assert code == 2
    assert "model.name" in err or "config.json" in err
    assert "root:" not in err


def test_32_and_34_model_folders(ftrect: Ftrect, study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    (folder / "tokenizer.json").write_text("{}")
    words = ["validate", study, "--set", "design=crossfit", "--set", "pilots=null", "--set", f"model.name={folder}"]
    expect(ftrect(*words), 2, "safetensors")
    (folder / "config.json").write_text('{"model_type": "bert", "auto_map": {"AutoModel": "evil.Model"}}')
    expect(ftrect(*words), 2, "auto_map|code")


# ---------------------------------------------------------------------------------------------- other commands


def test_init_never_overwrites_and_its_file_is_valid(ftrect: Ftrect, tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    assert ftrect("init", path)[0] == 0
    assert ftrect("validate", path)[0] == 0
    before = path.read_bytes()
    expect(ftrect("init", path), 2, "the file is there already")
    assert path.read_bytes() == before
    expect(ftrect("init", tmp_path / "no" / "folder.yaml"), 2, "cannot write the file")


def test_plan_serve_submit_and_data(ftrect: Ftrect, study: Path, tmp_path: Path) -> None:
    expect(ftrect("plan", "--law", "1,2", "--labels", "100"), 2, r"'--law' takes three numbers")
    expect(ftrect("plan", "--law=-1,0.5,1", "--labels", "100"), 2, r"'a' must be")
    expect(ftrect("plan", "--law", "1,0.5,1", "--labels", "ten"), 2, r"'--labels' must be a whole number; got ten")
    expect(ftrect("serve", tmp_path / "nothing"), 2, "nothing")
    expect(ftrect("data", "fetch", "vadr"), 2, r"no data set or model is named 'vadr' — did you mean 'vader'\?")
    expect(ftrect("submit", study, "-o", "runs/x", "--address", "http://127.0.0.1:1"), 2, "'-o runs/x' is relative")
    expect(
        ftrect("submit", study, "-o", "/tmp/x", "--address", "http://127.0.0.1:1"),
        3,
        "the cluster did not take the job",
    )


def test_parquet_needs_only_its_columns(ftrect: Ftrect, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=300)
    answers = [float(v) if i < 100 else None for i, v in enumerate(truth)]
    path = tmp_path / "wide.parquet"
    pq.write_table(
        pa.table({"y": answers, "f": truth + rng.normal(size=300), **{f"x{i}": np.zeros(300) for i in range(50)}}), path
    )
    code, out, _ = ftrect("estimate", path, "--label", "y", "--prediction", "f", "--json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["n"], answer["m"]) == (100, 200)
    assert answer["std_error"] < answer["classical"]["std_error"]
