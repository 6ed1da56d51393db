"""Fine-tunes of prompts with a shared beginning: two passes a step, on ranks of which one may have no rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ftrect_ray.finetune.training import fit_local
from ftrect_ray.predictor import Predictor, predictor
from ftrect_ray.study import Options

TEXTS = ["the film was great", "bad", "i hate the awful plot", "great great great"]
PROMPT = "the film was good i love it the plot was bad i hate it the actor was dull {text} it was"


@pytest.mark.ray
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_train_the_model_that_one_trains_with_plain_passes(
    stage: int, tiny_llama: Path, make_spec, ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 5 rows in micro-batches of 2 a rank: the last has a row for the first rank and none for the other."""
    options = Options(prompt=PROMPT, answers={"bad": 0, "good": 10, "great great": 20})
    work = []
    for adapter in ("full", "lora"):
        spec = make_spec(
            tiny_llama, train=10, batch_size=5, micro_batch_size=2, epochs=2, zero_stage=stage, adapter=adapter
        )
        model = spec.model.model_copy(update={"options": options, "max_tokens": 32, "freeze_embeddings": False})
        model = model.model_copy(update={"lora": model.lora.model_copy(update={"dropout": 0.0})})
        work.append((replace(spec, model=model), str(tmp_path / adapter), TEXTS))
    told = ranks("finished_fits", work)
    assert len(Predictor.load(work[0][1]).prefix) == 18
    monkeypatch.setattr(predictor, "can_share", lambda *args: False)
    for (spec, folder, _), predictions in zip(work, told, strict=True):
        plain, _ = fit_local(replace(spec, training=spec.training.model_copy(update={"zero_stage": 1})))
        assert not len(plain.prefix)
        spread = plain.scale.spread
        np.testing.assert_allclose(plain.predict(TEXTS)[0], predictions, rtol=0, atol=2e-5 * spread)
        np.testing.assert_allclose(Predictor.load(folder).predict(TEXTS)[0], predictions, rtol=1e-6, atol=1e-6)
        assert np.ptp(predictions) > spread / 10
