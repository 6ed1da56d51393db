"""The model as it is: its prompt's answer options already make predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftrect_ray.study import Lora, Model

if TYPE_CHECKING:
    from ftrect_ray.predictor import Predictor


def asked(model: Model) -> Model:
    """The settings under which it is kept: an adapter that changes nothing, and no copy of the weights."""
    return model.model_copy(update={"adapter": "lora", "lora": Lora(rank=1), "layer": None, "pooling": "auto"})


def untrained(model: Model) -> Predictor:
    """Ready to predict. A text without a prediction gets the middle of the options' values, for no label may say."""
    from ftrect_ray.predictor import Predictor, Scale

    assert model.options is not None  # the study checks it
    values = model.options.answers.values()
    return Predictor.create(asked(model), scale=Scale(train_mean=(min(values) + max(values)) / 2))


def opened(model: Model, precision: str) -> Predictor:
    """:func:`untrained` on this process's device, to predict at once."""
    from ftrect_ray.predictor.precision import for_prediction, own_device

    return for_prediction(untrained(model), own_device(), precision)
