"""What a run would do, in words and seconds."""

from __future__ import annotations

from ftrect_ray.pipeline.forecast import forecast
from ftrect_ray.study_file import parse_study

TEXT = "study: a\ndata: {source: vader, text: text, label: rating}\nlabels: 600\n"


def stage(name: str, *overrides: str, text: str = TEXT) -> dict:
    return next(row for row in forecast(parse_study(text, list(overrides)), (), 1000) if row["stage"] == name)


def test_every_candidate_has_its_pilots_and_its_seconds() -> None:
    alone = stage("pilot")
    assert alone["what"] == "6 pilot fine-tunes of minilm, sizes [50, 100, 300]"
    several = TEXT + "candidates: {a: {model: {name: minilm}}, b: {model: {name: minilm}, training: {epochs: 4}}}"
    both = stage("pilot", text=several)
    assert both["what"] == "12 pilot fine-tunes of minilm, minilm, sizes [50, 100, 300]"
    assert alone["seconds"] < both["seconds"] < 2 * alone["seconds"]
    assert "up to 2 fine-tunes of the best candidate on 2 workers" in stage("finetune", text=several)["what"]


def test_a_ramp_up_may_stop_early_and_folds_are_fine_tunes_each() -> None:
    assert stage("pilot", "pilots.scheme=ramp-up")["what"].startswith("up to 6 pilot fine-tunes")
    folded = stage("pilot", "pilots={scheme: cross-validated, folds: 3}")
    assert folded["what"].startswith("18 pilot fine-tunes")
    fitted = stage("pilot", "pilots={scheme: cross-fitted, folds: 3}")
    assert fitted["what"].startswith("18 pilot fine-tunes")
    assert fitted["seconds"] > folded["seconds"] > stage("pilot")["seconds"]


def test_pilots_that_a_design_does_not_need_cost_nothing() -> None:
    assert stage("pilot", "design=classical") == {"stage": "pilot", "what": "no pilots", "seconds": 0}
