"""Who asks for the same fit gets the same fit; what is kept is not computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ftrect_ray.evaluation.learners import FineTuneLearner, SharedFits
from ftrect_ray.finetune.opening import open_fit
from ftrect_ray.finetune.spec import FitSpec, Rows
from ftrect_ray.storage import RunStorage


class Counting:
    """Predicts its rows' sum; knows how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def learn(
        self, own: Sequence[np.ndarray], seeds: Sequence[int], objective: str, where: np.ndarray | None = None
    ) -> np.ndarray:
        self.asked += len(own)
        found = np.array([[float(rows.sum()) + seed for rows, seed in zip(own, seeds, strict=True)]] * 5)
        if where is not None:
            found[np.setdiff1d(np.arange(5), where)] = np.nan
        return found


def test_equal_rows_seed_and_objective_are_one_fit() -> None:
    inner = Counting()
    shared = SharedFits(inner)
    rows, other = np.array([1, 2, 3]), np.array([3, 2, 1])
    first = shared.learn([rows, other], [0, 0], "variance")
    assert inner.asked == 2  # their order is another
    second = shared.learn([other, rows, rows], [0, 0, 1], "variance")
    assert inner.asked == 3
    np.testing.assert_array_equal(second[:, :2], first[:, ::-1])
    np.testing.assert_array_equal(second[:, 2], [7.0] * 5)
    shared.learn([rows], [0], "mse")
    assert inner.asked == shared.fits == 4


def test_a_fit_at_a_few_rows_serves_these_and_no_others() -> None:
    inner = Counting()
    shared, own = SharedFits(inner), [np.array([1, 2])]
    few = shared.learn(own, [0], "variance", where=np.array([0, 3]))[:, 0]
    np.testing.assert_array_equal(np.isnan(few), [False, True, True, False, True])
    shared.learn(own, [0], "variance", where=np.array([3]))
    assert inner.asked == 1
    assert not np.isnan(shared.learn(own, [0], "variance")).any()
    shared.learn(own, [0], "variance", where=np.array([1]))
    assert inner.asked == shared.fits == 2


@pytest.fixture
def world(make_spec, tiny_bert: Path) -> tuple[Rows, FitSpec]:
    """A table of 40 rows, and the fit of its first 32."""
    spec = make_spec(tiny_bert, train=28, stop=4, stopping_fraction=0.125, epochs=2)
    more = make_spec(tiny_bert, train=6, stop=2, seed=1)
    texts = spec.own_texts + more.own_texts
    rows = Rows(tuple(f"t{i}" for i in range(40)), texts, np.concatenate([spec.own_answers, more.own_answers]))
    return rows, replace(spec, train=rows.take(np.arange(28)), stop=rows.take(np.arange(28, 32)))


def test_a_fine_tune_is_the_products_own(world: tuple[Rows, FitSpec]) -> None:
    rows, spec = world
    found = FineTuneLearner(rows, spec.model, spec.training).learn([np.arange(32)], [0], spec.objective)
    assert found.shape == (40, 1)
    with open_fit(spec) as fit:
        fit.run()
        fit.finish()
        np.testing.assert_allclose(found[:, 0], fit.predict(rows.texts), rtol=0, atol=1e-9)


def test_a_few_rows_are_predicted_as_among_all(world: tuple[Rows, FitSpec]) -> None:
    rows, spec = world
    learner, own = FineTuneLearner(rows, spec.model, spec.training), [np.arange(32)]
    few = learner.learn(own, [0], spec.objective, where=np.array([35, 2]))[:, 0]
    np.testing.assert_allclose(few[[35, 2]], learner.learn(own, [0], spec.objective)[[35, 2], 0], rtol=1e-5)
    assert np.isnan(few).sum() == 38


def test_a_finished_fit_is_read_and_another_table_has_its_own(
    world: tuple[Rows, FitSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, spec = world
    kept = RunStorage.open(tmp_path)
    first = FineTuneLearner(rows, spec.model, spec.training, kept=kept).learn([np.arange(32)], [0], "variance")
    assert len(kept.list()) == 1
    monkeypatch.setattr("ftrect_ray.evaluation.learners.fitted", lambda *_: pytest.fail("it was computed again"))
    again = FineTuneLearner(rows, spec.model, spec.training, kept=kept).learn([np.arange(32)], [0], "variance")
    np.testing.assert_array_equal(first, again)
    fewer = FineTuneLearner(rows.take(np.arange(35)), spec.model, spec.training, kept=kept)
    with pytest.raises(pytest.fail.Exception):
        fewer.learn([np.arange(32)], [0], "variance")


def test_a_text_without_a_prediction_gets_the_mean_answer_of_the_training_rows(world: tuple[Rows, FitSpec]) -> None:
    rows, spec = world
    emptied = Rows(rows.ids, (*rows.texts[:39], ""), rows.answers)
    f = FineTuneLearner(emptied, spec.model, spec.training).learn([np.arange(32)], [0], "variance")
    assert f[39, 0] == pytest.approx(rows.answers[:28].mean())
