"""The fast lane against the product's own closed-form fit of the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ftrect_ray.errors import InputError
from ftrect_ray.evaluation.frozen import FrozenLearner
from ftrect_ray.evaluation.learners import FineTuneLearner
from ftrect_ray.predictor import Predictor


@pytest.mark.parametrize("objective", ["variance", "mse"])
def test_it_predicts_what_a_study_with_adapter_head_would(objective, tiny_bert: Path, make_spec) -> None:
    torch.set_num_threads(1)
    spec = make_spec(tiny_bert, train=120, stop=0, adapter="head")
    rows, base = spec.train, Predictor.create(spec.model)
    features = base.features(base.encode(rows.texts).tokens, 1).numpy()
    own = [np.arange(60), np.arange(30, 100)]
    slow = FineTuneLearner(rows, spec.model, spec.training).learn(own, [0, 1], objective)
    fast = FrozenLearner(features, rows.answers).learn(own, [5, 6], objective)
    np.testing.assert_allclose(fast, slow, atol=1e-5 * np.std(rows.answers))
    assert np.std(fast[:, 0] - fast[:, 1]) > 0.01


def test_a_text_without_features_trains_nothing_and_gets_the_mean_answer() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    whole = FrozenLearner(x, y).learn([np.arange(1, 20)], [0], "variance")
    x[0] = np.nan
    y[0] = 100.0
    holed = FrozenLearner(x, y).learn([np.arange(20)], [0], "variance")
    np.testing.assert_allclose(holed[1:], whole[1:], rtol=1e-12)
    assert holed[0, 0] == pytest.approx(y[:20].mean())


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(InputError, match=r"features \(N, p\) and answers \(N,\)"):
        FrozenLearner(np.zeros((3, 2)), np.zeros(4))
    with pytest.raises(InputError, match="finite"):
        FrozenLearner(np.zeros((3, 2)), [0.0, np.nan, 1.0])
    with pytest.raises(InputError, match="1 rows of a model have features"):
        FrozenLearner(np.zeros((3, 2)), np.zeros(3)).learn([np.array([1])], [0], "variance")
