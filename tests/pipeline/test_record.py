"""What a changed study means for a run."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.pipeline.meter import Meter
from ftrect_ray.pipeline.record import STAGES, RunRecord, changes, invalidated, refuse_changed, settings_of
from ftrect_ray.storage import RunStorage
from ftrect_ray.study_file import parse_study

TEXT = "study: a\ndata: {source: vader, text: text, label: rating}\n"


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("seed=8", "tables"),
        ("data.label=other", "tables"),
        ("target={kind: ols, features: [x]}", "tables"),
        ("pilots.seeds=3", "pilot"),
        ("pilots.sizes=[60, 70, 80]", "pilot"),
        ("pilots.scheme=cross-validated", "pilot"),
        ("candidates={a: {model: {name: minilm}}}", "pilot"),
        ("pilots.cpus_per_pilot=2", None),
        ("pilots.gpus_per_pilot=0.5", None),
        ("training.epochs=4", "pilot"),
        ("design=crossfit", "allocate"),
        ("alpha=0.1", "allocate"),
        ("inference.shard_rows=10", "predict"),
        ("target={kind: quantile, q: 0.5}", "rectify"),
        ("study=b", "report"),
        ("training.max_failures=9", None),
        ("training.checkpoint_seconds=9", None),
        ("inference.actors=1", None),
    ],
)
def test_a_change_invalidates_from_the_first_stage_that_reads_it(override: str, first: str | None) -> None:
    new = parse_study(TEXT, [override])
    changed = changes(parse_study(TEXT), new)
    assert invalidated(changed, new) == (list(STAGES[STAGES.index(first) :]) if first else [])


def test_another_population_is_another_plan() -> None:
    old, new = (parse_study(TEXT, ["design=crossfit", f"population={kind}"]) for kind in ("infinite", "finite"))
    assert invalidated(changes(old, new), new)[0] == "allocate"


def test_another_coefficient_is_another_fine_tune_where_the_objective_aims_at_it() -> None:
    target = "target={kind: ols, features: [x, z], coefficient: %s}"
    for objective, first in (("coefficient", "pilot"), ("trace", "pilot"), ("variance", "rectify")):
        old, new = (parse_study(TEXT, [target % name, f"objective={objective}"]) for name in "xz")
        assert invalidated(changes(old, new), new)[0] == first
        same = settings_of(old, "finetune") == settings_of(new, "finetune")
        assert same == (objective == "variance")


def test_a_candidate_has_efforts_of_its_own() -> None:
    text = TEXT + "candidates: {a: {model: {name: minilm}, training: {epochs: 9, max_failures: %d}}}"
    old, new = parse_study(text % 1), parse_study(text % 2)
    assert changes(old, new) == {}
    assert settings_of(old, "pilot") == settings_of(new, "pilot")
    assert invalidated(changes(old, parse_study(text % 1, ["candidates.a.training.epochs=8"])), old)[0] == "pilot"


def test_a_changed_study_is_refused_with_field_hashes_and_remedy(tmp_path) -> None:
    storage = RunStorage.open(tmp_path)
    old, new = parse_study(TEXT), parse_study(TEXT, ["alpha=0.1"])
    refuse_changed(storage, old, old)
    with pytest.raises(
        InputError, match=r"alpha 0.05 → 0.1; hash [0-9a-f]{16} → [0-9a-f]{16} .*add --update .*rectify, report"
    ):
        refuse_changed(storage, old, new)


def test_the_record_survives_and_names_versions(tmp_path) -> None:
    storage = RunStorage.open(tmp_path)
    study = parse_study(TEXT)
    record = RunRecord(storage, study)
    record.begin("tables", "k1")
    assert not RunRecord(storage, study).is_done("tables", "k1")
    record.finish("tables", {"seconds": 1.5})
    again = RunRecord(storage, study)
    assert again.is_done("tables", "k1")
    assert not again.is_done("tables", "k2")
    assert again.content["versions"].keys() >= {"ray", "torch", "numpy"}
    assert again.content["stages"]["tables"]["seconds"] == 1.5


def test_the_meter_counts_children() -> None:
    burn = "import time; end = time.process_time() + 0.6\nwhile time.process_time() < end: pass\ntime.sleep(0.6)"
    with Meter(interval=0.1) as meter:
        child = subprocess.Popen([sys.executable, "-c", burn])
        child.wait()
        time.sleep(0.05)
    assert 0.5 < meter.cpu_seconds < 5
    assert meter.seconds >= 0.6
    assert meter.peak_bytes > 5_000_000
