"""What a design costs: device-hours, and money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftrect_ray.allocation.checks import non_negative

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Compute:
    """What the pilots measured, in seconds of one device (a GPU, or a CPU core where there is none), all ≥ 0.

    Attributes
    ----------
    train_seconds_per_label : float
        A whole fine-tune over its labels, all epochs.
    predict_seconds_per_text : float
    seconds_per_finetune : float
        What every fine-tune costs besides: loading the model, saving it.
    one_pass : bool
        All models of a design read the texts in one pass, as readouts of one frozen backbone do.
    """

    train_seconds_per_label: float
    predict_seconds_per_text: float
    seconds_per_finetune: float = 0.0
    one_pass: bool = False

    def __post_init__(self) -> None:
        for name in ("train_seconds_per_label", "predict_seconds_per_text", "seconds_per_finetune"):
            object.__setattr__(self, name, non_negative(name, getattr(self, name)))

    def hours(self, sizes: Sequence[int], models: int, texts: float, rectified: float) -> float:
        """Device-hours of fine-tunes on ``sizes`` labels each, of predicting ``texts`` by all ``models`` and
        ``rectified`` labels."""
        training = sum(self.seconds_per_finetune + size * self.train_seconds_per_label for size in sizes)
        passes = min(models, 1) if self.one_pass else models
        predictions = passes * texts + rectified
        return (training + predictions * self.predict_seconds_per_text) / SECONDS_PER_HOUR


@dataclass(frozen=True)
class Prices:
    """Of one label and of one device-hour, in any one currency; both ≥ 0.

    >>> Prices(label=0.5, gpu_hour=2.0).of(100, 1.5)
    53.0
    """

    label: float
    gpu_hour: float = 0.0

    def __post_init__(self) -> None:
        for name in ("label", "gpu_hour"):
            object.__setattr__(self, name, non_negative(name, getattr(self, name)))

    def of(self, labels: int, hours: float | None) -> float | None:
        """The total; None where device-hours cost something and their number is not known."""
        if hours is None:
            return None if self.gpu_hour else self.label * labels
        return self.label * labels + self.gpu_hour * hours
