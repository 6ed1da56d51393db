"""Who trains, who stops, who rectifies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.finetune.spec import Coefficients, Rows
from ftrect_ray.ledger import Ledger, Use
from ftrect_ray.pipeline.design import Decision, plan_fits
from ftrect_ray.study_file import parse_study

TEXT = "study: a\ndata: {source: vader, text: text, label: rating}"
STUDY = parse_study(TEXT)


def rows(n: int) -> Rows:
    return Rows(tuple(f"r{i}" for i in range(n)), tuple(f"text {i}" for i in range(n)), np.arange(n, dtype=float))


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_cross_fitting_rectifies_every_label_once_and_never_with_a_model_that_saw_it(folds: int) -> None:
    budget = rows(101)
    ledger = Ledger(budget.ids)
    specs = plan_fits(Decision("crossfit", folds=folds), budget, STUDY, ledger)
    assert [spec.name for spec in specs] == [f"fold-{k}" for k in range(folds)]
    rectified = [name for spec in specs for name in ledger.ids(Use.RECTIFY, spec.name)]
    assert sorted(rectified) == sorted(budget.ids)
    for spec in specs:
        own = {*spec.train.ids, *spec.stop.ids}
        assert len(own) == len(spec.train) + len(spec.stop)
        assert own | set(ledger.ids(Use.RECTIFY, spec.name)) == set(budget.ids)
        assert len(spec.stop) == round(0.1 * len(own))


def clustered(n: int, size: int) -> Rows:
    plain = rows(n)
    return Rows(plain.ids, plain.texts, plain.answers, np.arange(n) // size)


def cluster_of(name: str, size: int) -> int:
    return int(name[1:]) // size


@pytest.mark.parametrize("size", [2, 7])
def test_cross_fitting_keeps_clusters_whole(size: int) -> None:
    budget = clustered(120, size)
    ledger = Ledger(budget.ids)
    specs = plan_fits(Decision("crossfit", folds=3), budget, STUDY, ledger)
    for spec in specs:
        seen = {cluster_of(i, size) for i in (*spec.train.ids, *spec.stop.ids)}
        rectified = {cluster_of(i, size) for i in ledger.ids(Use.RECTIFY, spec.name)}
        assert not seen & rectified


@pytest.mark.parametrize("size", [1, 4])
def test_a_split_keeps_clusters_whole(size: int) -> None:
    budget = clustered(120, size)
    ledger = Ledger(budget.ids)
    (spec,) = plan_fits(Decision("split", n_finetune=41), budget, STUDY, ledger)
    trained, rectified = {*spec.train.ids, *spec.stop.ids}, set(ledger.ids(Use.RECTIFY, "split"))
    assert trained | rectified == set(budget.ids)
    assert len(trained) == (41 if size == 1 else 44)
    assert not {cluster_of(i, size) for i in trained} & {cluster_of(i, size) for i in rectified}


def test_a_split_that_touches_every_cluster_is_refused() -> None:
    budget = clustered(120, 60)
    message = "a fine-tune on 70 labels touches so many clusters that 0 labels are left"
    with pytest.raises(InputError, match=message):
        plan_fits(Decision("split", n_finetune=70), budget, STUDY, Ledger(budget.ids))


@pytest.mark.parametrize("design", ["split", "recycle"])
def test_a_split_sized_by_pilots_takes_all_their_labels_into_training(design: str) -> None:
    budget = rows(100)
    ledger = Ledger(budget.ids)
    ledger.record(Use.PILOT_TRAIN, "pilot-s20-r0", budget.ids[50:70])
    ledger.record(Use.PILOT_MEASURE, "pilot-s20-r0", budget.ids[70:80])
    (spec,) = plan_fits(Decision(design, n_finetune=40, selected_by_pilots=True), budget, STUDY, ledger)
    own = {*spec.train.ids, *spec.stop.ids}
    assert len(own) == 40
    assert own >= set(budget.ids[50:80])
    assert set(ledger.ids(Use.SELECT, "split")) == set(budget.ids[50:80])
    assert set(ledger.ids(Use.RECTIFY, "split")) == set(budget.ids) - own
    assert set(ledger.ids(Use.CLASSICAL, "split")) == (own if design == "recycle" else set())


def test_a_split_smaller_than_what_its_pilots_spent_leaks_and_is_refused() -> None:
    budget = rows(100)
    ledger = Ledger(budget.ids)
    ledger.record(Use.PILOT_TRAIN, "pilot-s50-r0", budget.ids[:50])
    with pytest.raises(InputError, match=r"would both shape and rectify model 'split' \(select, then rectify\)"):
        plan_fits(Decision("split", n_finetune=40, selected_by_pilots=True), budget, STUDY, ledger)
    plan_fits(Decision("split", n_finetune=40), budget, STUDY, ledger)  # a size that the user chose saw no pilot


def test_planning_again_forgets_the_old_plan() -> None:
    budget = rows(60)
    ledger = Ledger(budget.ids)
    plan_fits(Decision("crossfit", folds=2), budget, STUDY, ledger)
    assert plan_fits(Decision("classical"), budget, STUDY, ledger) == []
    assert ledger.counts() == [{"use": "classical", "model": "none", "count": 60}]
    plan_fits(Decision("rectify-only"), budget, STUDY, ledger)
    assert ledger.counts() == [{"use": "rectify", "model": "given", "count": 60}]


def test_parts_that_are_too_small_are_named() -> None:
    with pytest.raises(InputError, match="15 labels are too few for 2 folds of at least 10"):
        plan_fits(Decision("crossfit", folds=2), rows(15), STUDY, Ledger(rows(15).ids))
    with pytest.raises(InputError, match="a split of 30 labels cannot fine-tune on 25"):
        plan_fits(Decision("split", n_finetune=25), rows(30), STUDY, Ledger(rows(30).ids))


def test_the_key_names_the_content() -> None:
    budget = rows(60)
    first, second = (plan_fits(Decision("crossfit", folds=2), budget, STUDY, Ledger(budget.ids)) for _ in range(2))
    assert [spec.key for spec in first] == [spec.key for spec in second]
    other = plan_fits(Decision("crossfit", folds=2), budget, STUDY.model_copy(update={"seed": 8}), Ledger(budget.ids))
    assert first[0].key != other[0].key


def test_an_untrained_model_is_rectified_by_every_label() -> None:
    budget = rows(60)
    ledger = Ledger(budget.ids)
    decision = Decision("rectify-only", zero_shot=True)
    assert plan_fits(decision, budget, STUDY, ledger) == []
    assert decision.model_names == ["zero-shot"]
    assert ledger.counts() == [{"use": "rectify", "model": "zero-shot", "count": 60}]


@pytest.mark.parametrize("decision", [Decision("crossfit", folds=2), Decision("split", n_finetune=30)])
def test_a_fine_tune_for_coefficients_knows_them_and_no_other_does(decision: Decision) -> None:
    budget = rows(60)
    budget = replace(budget, features=np.column_stack([np.ones(60), np.sqrt(np.arange(60))]))
    aimed = parse_study(TEXT, ["target={kind: ols, features: [z], coefficient: z}", "objective=coefficient"])
    for spec in plan_fits(decision, budget, aimed, Ledger(budget.ids)):
        assert spec.coefficients == Coefficients("identity", 1, ("intercept", "z"))
        assert len(spec.train.features) == len(spec.train)
    plain = parse_study(TEXT, ["target={kind: ols, features: [z], coefficient: z}"])
    assert all(spec.coefficients is None for spec in plan_fits(decision, rows(60), plain, Ledger(budget.ids)))


def test_a_feature_that_is_constant_in_a_fold_is_refused_with_the_fold() -> None:
    budget = rows(60)
    once = np.zeros(60)
    once[17] = 1.0  # the fold with this row leaves its fine-tune without any
    budget = replace(budget, features=np.column_stack([np.ones(60), once]))
    aimed = parse_study(TEXT, ["target={kind: ols, features: [z], coefficient: z}", "objective=coefficient"])
    with pytest.raises(StatisticalRefusal, match=r"drop column 'z' \(the labels of fine-tune 'fold-\d'\)"):
        plan_fits(Decision("crossfit", folds=2), budget, aimed, Ledger(budget.ids))
