"""What cannot be evaluated is said before any work, in one line, with exit code 2."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from ftrect_ray.cli import main
from ftrect_ray.evaluation.designs import DESIGNS, NEEDS_ZERO_SHOT, PilotRule
from ftrect_ray.evaluation.driver import EVALUATION, check
from ftrect_ray.evaluation.presets import PRESETS, preset
from ftrect_ray.evaluation.records import RECORDS, SCHEMA
from ftrect_ray.evaluation.replaying import units
from ftrect_ray.evaluation.spec import EvaluationSpec, default_designs, left_out
from ftrect_ray.finetune.pilot_plan import validation_rows
from ftrect_ray.storage import RunStorage
from ftrect_ray.study_file import load_study


@pytest.fixture
def study(make_study: Callable[..., Path]) -> Path:
    return make_study("minilm")


@pytest.fixture
def refused(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """``refused(*words)``: the error of `ftrect evaluate` on the study with these words; nothing was begun."""

    def refuse(*words: str, of: str | None = str(study)) -> str:
        place = tmp_path / "out"
        given = [*([of] if of else []), "-o", str(place), *words]
        given += [] if "--replications" in words else ["--replications", "10"]
        given += [] if "--budgets" in words or of is None else ["--budgets", "100,200"]
        assert main(["evaluate", *given]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert not (place / "work").exists()
        return captured.err

    return refuse


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--replications", "1"], r"'--replications' must be >= 2; got 1"),
        (
            ["--budgets", "60", "--designs", "auto", "--set", "pilots.sizes=[100,150,200]"],
            r"the pilots of design 'auto' have no room in 60 labels.*lower pilots\.sizes, or leave 'auto' out",
        ),
        (
            ["--budgets", "100,400"],
            r"a budget of 400 labels leaves 0 unlabelled rows: the table has 400.*at most 398",
        ),
        (["--replications", "1000000000000"], r"1000000000000 replications are more than 1,000,000"),
        (
            ["--budgets", "100,200", "--texts", "201"],
            r"201 unlabelled texts, and 200 labels leave 200 of 400 rows \(--texts\) — ask for 200 at most",
        ),
        (["--budgets", "399"], r"a budget of 399 labels leaves 1 unlabelled rows.*at most 398"),
        (["--budgets", "0,100"], r"a budget must be at least 2 labels; got 0 \(--budgets\)$"),
        (["--budgets", "200,100"], r"budgets must increase strictly; got 200, 100"),
        (["--budgets", "100,x"], r"'--budgets' takes whole numbers with commas"),
        (["--budgets", "60", "--designs", "split-ramp-up"], r"design 'split-ramp-up' needs 100 labels; the smallest"),
        (["--designs", "crosfit-2"], r"--designs does not know 'crosfit-2'.*did you mean 'crossfit-2'\?"),
        (["--objectives", "variance,msee"], r"--objectives does not know 'msee'.*did you mean 'mse'\?"),
        (["--lane", "slow"], r"'--lane' cannot be 'slow'"),
        (["--set", "target={kind: quantile}"], r"an evaluation replays the mean; the study asks for quantile"),
        (["--set", "data.prediction=null", "--designs", "ppi"], r"ppi rectify predictions of an untrained model"),
        (["--set", "model.name=./nowhere"], r"nowhere"),
        (["--table", "x.csv"], r"'--table' goes with '--preset' only"),
        (["--preset", "vader"], r"name a study file or a preset, one of them"),
    ],
)
def test_asked_wrongly(refused: Callable[..., str], words: list[str], message: str) -> None:
    error = refused(*words)
    assert error.startswith("error: ")
    assert re.search(message, error), error


def test_presets_and_their_tables(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "preset 'wine' needs the file of its table" in refused("--preset", "wine", of=None)
    assert "preset 'vader' has its own table" in refused("--preset", "vader", "--table", "x.csv", of=None)
    missing = refused("--preset", "wine", "--table", str(tmp_path / "none.csv"), of=None)
    assert "there is no such file" in missing


def test_a_table_with_gaps(make_study: Callable[..., Path], refused: Callable[..., str]) -> None:
    make_study("minilm", unanswered=2)
    assert "2 of 400 rows have no answer" in refused()


def test_more_replications_than_draws(make_study: Callable[..., Path], refused: Callable[..., str]) -> None:
    make_study("minilm", rows=12)
    words = ["--budgets", "10", "--designs", "mean", "--replications", "67"]
    assert "12 rows have only 66 different sets of 10 labels" in refused(*words)


def test_a_folder_of_another_evaluation(study: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    spec = EvaluationSpec(load_study(study), 10, (100, 200), ("crossfit-2",))
    place = tmp_path / "out"
    place.mkdir()
    population = check(spec, str(place))
    models = {name: candidate.key for name, candidate in spec.candidates.items()}
    described = {"identity": spec.identity(population), "models": models}
    (place / EVALUATION).write_text(json.dumps(described))
    check(
        EvaluationSpec(load_study(study, ["seed=8"]), 10, (100,), ("crossfit-2",)), str(place)
    )  # it holds nothing yet
    RunStorage.open(str(place)).write_table(SCHEMA.empty_table(), RECORDS)
    check(EvaluationSpec(load_study(study), 99, (50,), ("crossfit-5",), ("mse",)), str(place))  # may join
    error = refused("--set", "seed=8", "--set", "model.max_tokens=20")
    assert "the folder holds results of another evaluation: seed, model minilm differ" in error
    assert "choose another folder with -o" in error
    assert "data differ" in refused("--set", "data.prediction=null")  # the same file, read otherwise
    assert ": pilots differ" in refused("--set", "pilots.validation=25")  # a quarter, of 100 labels alone


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]", '{"identity": 3, "models": {}}'])
def test_a_folder_whose_description_is_lost(tmp_path: Path, refused: Callable[..., str], content: str | None) -> None:
    """Its records may be of anything."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "records.parquet").write_text("")
    if content is not None:
        (tmp_path / "out" / EVALUATION).write_text(content)
    how = "gone" if content is None else "damaged"
    assert f"'evaluation.json' is {how}, which says what the folder's records are of" in refused()


def test_runs_and_evaluations_do_not_share_a_folder(
    study: Path, tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{}")
    assert "the folder holds a run, whose report an evaluation would overwrite" in refused()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "evaluation.json").write_text("{}")
    assert main(["run", str(study), "-o", str(tmp_path / "other")]) == 2
    assert "the folder holds an evaluation, whose page a run would overwrite" in capsys.readouterr().err
    assert not (tmp_path / "other" / "study.yaml").exists()


def test_names_that_are_no_folder_of_an_evaluation(tmp_path: Path, refused: Callable[..., str]) -> None:
    """Found by a dry run too; what lies there stays."""
    place = tmp_path / "out"
    place.write_text("mine")
    assert f"a file, and not a folder ({place}) — choose another folder with -o" in refused("--dry-run")
    assert place.read_text() == "mine"
    assert "File name too long" in refused("--dry-run", "-o", str(tmp_path / ("x" * 300)))
    place.unlink()
    RunStorage.open(place).write_table(pa.table({"mine": [1]}), RECORDS)
    RunStorage.open(place).write_json({"identity": {}, "models": {}}, EVALUATION)
    assert "'records.parquet' holds no records of an evaluation" in refused()


def test_equal_answers(tmp_path: Path, refused: Callable[..., str]) -> None:
    table = tmp_path / "equal.csv"
    table.write_text("text,label\n" + "".join(f"text {i},3\n" for i in range(300)))
    (tmp_path / "equal.yaml").write_text(
        f"study: equal\ndata: {{table: {table}, text: text, label: label, id: null}}\n"
    )
    assert "all answers are equal" in refused(of=str(tmp_path / "equal.yaml"))


def test_a_dry_run_says_what_would_be_replayed(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(study), "--replications", "7", "--budgets", "100,200", "-o", str(tmp_path / "out")]
    words += ["--designs", "crossfit-2", "--rows", "300", "--objectives", "variance,mse", "--dry-run"]
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["rows"], plan["replications"], plan["missing"]) == (300, 28, 28)
    assert plan["designs"] == ["mean", "crossfit-2"]
    assert main(words) == 0
    assert "replications  28, 28 of them to do" in capsys.readouterr().out
    assert main([*words, "--rows", "25000"]) == 0
    assert "The population has 400 rows, where 25,000 were asked for." in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_every_budget_replication_and_design_is_done_once_and_only_what_is_missing(study: Path) -> None:
    spec = EvaluationSpec(load_study(study), 25, (100, 200), ("crossfit-2", "split-20"), ("variance", "mse"))
    done = {("minilm", "mse", 200, number, "mean") for number in range(25)}
    done |= {("minilm", "variance", 100, 7, name) for name in spec.replayed}
    found = [
        unit.key(number, design)
        for unit in units(spec, ["minilm"], done.__contains__, chunk=10)
        for number, designs in unit.replications
        for design in designs
    ]
    assert len(found) == len(set(found)) == 25 * 2 * 2 * 3 - len(done)
    assert not done & set(found)


def test_defaults_are_all_that_the_budget_and_the_models_allow(study: Path) -> None:
    known = load_study(study)
    assert set(default_designs(known, (300,), "fast", None)) == set(DESIGNS)
    without = load_study(study, ["data.prediction=null"])
    assert set(DESIGNS) - set(default_designs(without, (300,), "fast", None)) == NEEDS_ZERO_SHOT
    few = known, (40, 300), "fast", None
    assert "crossfit-5" not in default_designs(*few)
    assert {"crossfit-5", "recycle"} < set(left_out(*few))
    assert set(left_out(*few)) | set(default_designs(*few)) == set(DESIGNS)
    climbing = load_study(study, ["pilots.sizes=[50,60,70]"])
    assert "auto" in left_out(climbing, (60,), "fast", None)  # of 60 labels 15 measure; no pilot has room


def test_what_a_budget_has_no_room_for_is_said(
    study: Path, tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no design has room in 3 labels (--budgets) — raise the budget" in refused(
        "--budgets", "3", "--set", "data.prediction=null"
    )
    words = ["--set", "pilots.sizes=[20,30,300]", "--designs", "auto", "--budgets", "100,200", "--dry-run"]
    assert main(["evaluate", str(study), "--replications", "7", "-o", str(tmp_path / "out"), *words]) == 0
    out = capsys.readouterr().out
    assert "100 labels have no room for pilots of 300: ‘auto’ does without them there." in out


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole(name: str) -> None:
    """FTR's table has no empty row: there are predictions of an untrained model too."""
    study, further = preset(name, "reviews.csv" if PRESETS[name].needs_table else None, ["seed=3"])
    spec = EvaluationSpec(
        study, 10, designs=default_designs(study, further["budgets"], "fast", further["untrained"]), **further
    )
    assert set(spec.designs) > NEEDS_ZERO_SHOT
    assert spec.study.seed == 3
    assert spec.budgets == (300, 500, 700, 1000)


def test_the_wine_preset_is_the_authors_protocol() -> None:
    study, further = preset("wine", "reviews.csv", ())
    assert further["distinct"]
    assert further["target_rows"] == 15_000
    assert study.pilots is not None
    assert study.pilots.sizes == list(range(50, 701, 50))
    spec = EvaluationSpec(study, replications=2, budgets=(300,), designs=("auto",), pilots=further["pilots"])
    rule = spec.pilot_rule(300)
    assert (rule.scheme, rule.ramp, rule.validation) == ("ramp-up", tuple(range(50, 701, 50)), 0.2)
    assert preset("wine", "reviews.csv", ["pilots.seeds=2"])[1]["pilots"] is None  # then as the study says
    lora, training = study.model.lora, study.training
    assert (study.model.adapter, lora.rank, lora.alpha, lora.dropout, lora.targets) == (
        "lora",
        8,
        16,
        0.05,
        "all-linear",
    )
    assert (study.model.pooling, study.model.max_tokens) == ("last", 192)
    assert (training.epochs, training.min_epochs, training.patience, training.batch_size) == (20, 4, 4, 128)
    assert (training.learning_rate, training.head_learning_rate) == (2e-4, 5e-4)
    assert (training.weight_decay, training.clip) == (0.01, 1.0)


@pytest.mark.parametrize(("words", "most"), [([], 5), (["max_finetunes=2"], 2), (["max_finetunes=8"], 8)])
def test_the_planner_chooses_what_the_study_allows_it(words: list[str], most: int) -> None:
    study, _ = preset("vader", None, words)
    assert EvaluationSpec(study, replications=2, budgets=(100,), designs=("auto",)).finetunes_allowed == most


def test_auto_measures_as_the_study_does(study: Path) -> None:
    """A study that names no pilots has those of ``ftrect run``, and so many rows measure them."""
    spec = EvaluationSpec(load_study(study), 10, (310,), ("auto",))
    rule, pilots = spec.pilot_rule(310), spec.study.pilots
    assert pilots is not None
    assert (rule.scheme, rule.sizes, rule.seeds) == (pilots.scheme, tuple(pilots.sizes), pilots.seeds)
    assert round(rule.validation * 310) == validation_rows(pilots.model_copy(update={"sizes": [50]}), 310)
    assert spec.finetunes_allowed == spec.study.max_finetunes
    vader, further = preset("vader", None, ())
    whole = EvaluationSpec(vader, 10, (310,), ("auto",), pilots=further["pilots"])
    assert whole.pilot_rule(310) == PilotRule()
    assert preset("vader", None, ["pilots.seeds=3"])[1]["pilots"] is None
