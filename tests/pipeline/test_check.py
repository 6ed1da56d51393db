"""What is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ftrect_ray.errors import FtrectError, InputErrors, StatisticalRefusal
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.pipeline.check import check_base, check_budget, check_prompt
from ftrect_ray.pipeline.context import label_budget
from ftrect_ray.study import Study
from ftrect_ray.study_file import parse_study
from ftrect_ray.tables import load_table

SEEN = "the plot was dull and the actor great"


def study_of(folder: Path, *overrides: str, binary: bool = False) -> Study:
    """200 rows with an answer each; features: age, twice the age, and one that is 1 in the first rows alone."""
    rng = np.random.default_rng(5)
    age = rng.integers(18, 80, 200)
    lines = ["id,text,rating,age,double,rare,sorted"]
    for i in range(200):
        answer = int(rng.random() < 0.5) if binary else rng.normal(5, 1)
        lines.append(f"t{i},{SEEN if i == 3 else f'text {i}'},{answer},{age[i]},{2 * age[i]},{int(i < 2)},{answer}")
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    text = f"study: a\ndata: {{table: {folder}/texts.csv, text: text, label: rating, id: id}}"
    return parse_study(text, list(overrides))


def problems(study: Study) -> list[str]:
    """What is wrong, as lines; a refusal of the numbers too."""
    try:
        loaded = load_table(study.data, study.labels, study.seed, features=getattr(study.target, "features", ()))
        return [str(problem) for problem in check_budget(study, loaded)]
    except (InputErrors, StatisticalRefusal) as error:
        return [str(error)]


def aimed(features: str, objective: str = "trace", kind: str = "ols") -> list[str]:
    return [f"target={{kind: {kind}, features: {features}}}", f"objective={objective}", "design=crossfit"]


SMALL_PILOTS = "pilots={sizes: [20, 30, 40], seeds: 1}"


@pytest.mark.parametrize(
    ("overrides", "binary", "message"),
    [
        (aimed("[age]"), False, None),
        (aimed("[age, double]"), False, "X'X is singular: drop column 'double'"),
        (["target={kind: ols, features: [age, double]}"], False, "X'X is singular: drop column 'double'"),
        (["target={kind: logistic, features: [sorted]}"], True, "the answers are separated"),
        (["target={kind: logistic, features: [age]}"], False, "'Y' must be 0 or 1"),
        (aimed("[age, rare]"), False, "X'X is singular: drop column 'rare' (the labels of fine-tune 'pilot-s20-r0')"),
        ([*aimed("[age, rare]"), "pilots=null", "folds=20"], False, None),
        (
            [*aimed("[age]", "determinant"), "training.batch_size=3"],
            False,
            "a step of 3 rows is too few for the determinant of 2 coefficients",
        ),
    ],
)
def test_a_regression_that_cannot_be_had_stops_before_the_pilots(
    overrides: list[str], binary: bool, message: str | None, tmp_path: Path
) -> None:
    pilots = [] if any(setting.startswith("pilots") for setting in overrides) else [SMALL_PILOTS]
    found = problems(study_of(tmp_path, *overrides, *pilots, binary=binary))
    if message is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(message)


def test_features_are_read_only_for_an_objective_that_aims_at_them(tmp_path: Path) -> None:
    for objective, given in (("trace", True), ("variance", False)):
        study = study_of(tmp_path, *aimed("[age]", objective), "labels=50")
        rows = label_budget(study, load_table(study.data, 50, 7, features=("age",)).table)
        assert len(rows) == 50
        assert (rows.features is not None) == given
        if rows.features is not None:
            assert rows.features[:, 0].tolist() == [1.0] * 50
            assert 18 <= rows.features[:, 1].min() <= rows.features[:, 1].max() < 80


PROMPT = "Review: The PLOT was dull\n  and the actor great\nRating: 3\n\nReview: {text}\nRating: "


def prompted(folder: Path, prompt: str, *overrides: str) -> Study:
    study = study_of(
        folder,
        "design=rectify-only",
        "pilots=null",
        "model.options={prompt: '{text}', answers: {a: 1, b: 2}}",
        *overrides,
    )
    options = study.model.options.model_copy(update={"prompt": prompt})
    return study.model_copy(update={"model": study.model.model_copy(update={"options": options})})


def test_a_prompt_that_shows_a_labelled_row_is_a_leak(tmp_path: Path) -> None:
    (found,) = problems(prompted(tmp_path, PROMPT))
    assert found.startswith("the prompt holds the whole text of 1 labelled rows, the first with id 't3'")
    assert "(model.options.prompt)" in found
    (found,) = problems(prompted(tmp_path, "{text}", f"model.options.system={SEEN}"))
    assert "id 't3'" in found


def test_a_prompt_may_hold_what_no_label_belongs_to(tmp_path: Path) -> None:
    assert problems(prompted(tmp_path, PROMPT.replace("dull", "good"))) == []
    shown = prompted(tmp_path, PROMPT)
    rows = Rows(("a", "b"), ("the film", "it was good"), np.zeros(2))
    assert check_prompt(prompted(tmp_path, "Was it good? {text}"), rows) == []  # too short to be a quotation
    assert check_prompt(shown.model_copy(update={"design": "classical"}), label_budget(shown, _table(shown))) == []


def _table(study: Study):
    return load_table(study.data, study.labels, study.seed).table


def test_errors_have_a_remedy(tmp_path: Path) -> None:
    study = prompted(tmp_path, PROMPT)
    (error,) = check_budget(study, load_table(study.data, None, 7))
    assert isinstance(error, FtrectError)
    assert error.mend.startswith("take examples from texts outside the table")


@pytest.mark.parametrize(
    ("pilots", "message"),
    [
        ("{sizes: [20, 40, 160], seeds: 1}", "'pilots.sizes' asks for 160 labels; of 200, 50 are held for validation"),
        ("{scheme: ramp-up, sizes: [20, 40, 160], seeds: 1}", "'pilots.sizes' asks for 160 labels; of 200, 50 are"),
        ("{scheme: cross-validated, sizes: [20, 40, 201], seeds: 1}", "'pilots.sizes' asks for 201 labels of 200"),
        ("{scheme: cross-validated, sizes: [20, 40, 200], seeds: 1}", None),
        (
            "{scheme: cross-fitted, sizes: [20, 40, 161], seeds: 1}",
            "'pilots.sizes' asks for 161 labels of 200; 160 are outside one of 5 folds",
        ),
        ("{scheme: cross-fitted, sizes: [20, 40, 160], seeds: 1}", None),
    ],
)
def test_pilots_beyond_the_budget_are_refused_before_any_work(pilots: str, message: str | None, tmp_path: Path) -> None:
    found = problems(study_of(tmp_path, f"pilots={pilots}"))
    assert [line.startswith(str(message)) for line in found] == [True] * (message is not None)


@pytest.mark.parametrize(
    ("scheme", "more", "refused"),
    [
        ("cross-fitted", [], True),
        ("cross-fitted", ["finetune_labels=50"], False),
        ("shared", [], False),
        ("ramp-up", [], False),
    ],
)
def test_pilots_that_leave_a_split_nothing_to_rectify_with(
    scheme: str, more: list[str], refused: bool, tmp_path: Path
) -> None:
    sizes = f"pilots={{scheme: {scheme}, sizes: [20, 40, 80], seeds: 1}}"
    found = problems(study_of(tmp_path, sizes, "design=split", *more))
    told = "the pilots may spend 200 of 200 labels, and what sizes a split may not rectify it (pilots)"
    assert [line.startswith(told) for line in found] == [True] * refused


def test_folds_of_few_clusters_are_refused_before_any_work(tmp_path: Path) -> None:
    study = study_of(
        tmp_path, "pilots={scheme: cross-validated, sizes: [10, 20, 40], seeds: 1, folds: 5}", "data.cluster=group"
    )
    table = tmp_path / "texts.csv"
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join([head + ",group", *(f"{line},g{i // 20}" for i, line in enumerate(lines))]))
    (found,) = problems(study)
    assert found.startswith("10 labels of 1 clusters are too few for 5 folds of 2 (pilots.folds)")


def test_a_prompt_of_any_candidate_must_not_show_a_labelled_row(tmp_path: Path) -> None:
    study = study_of(tmp_path, "candidates={a: {model: {name: minilm}}, b: {model: {name: minilm}}}", SMALL_PILOTS)
    shown = prompted(tmp_path, PROMPT).model
    candidates = {**study.candidates, "b": study.candidates["b"].model_copy(update={"model": shown})}
    (found,) = problems(study.model_copy(update={"candidates": candidates}))
    assert "(candidates.b.model.options.prompt)" in found


def test_a_candidate_whose_folder_would_not_load_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "nowhere"
    study = study_of(tmp_path, f"candidates={{a: {{model: {{name: minilm}}}}, b: {{model: {{name: {gone}}}}}}}")
    (problem,) = check_base(study)
    assert str(gone) in str(problem)
