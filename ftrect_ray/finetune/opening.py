"""Which kind of fit a fine-tune is: by gradient steps, or in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from ftrect_ray.finetune.spec import FitSpec

if TYPE_CHECKING:
    import torch

    from ftrect_ray.finetune.frozen import FrozenFit
    from ftrect_ray.finetune.training import Fit

    AnyFit: TypeAlias = Fit | FrozenFit


def open_fit(spec: FitSpec, device: torch.device | None = None) -> AnyFit:
    """The fit of ``spec``: of this rank on its ``device``, or where there is none, of this process alone.

    DeepSpeed is loaded only where there are gradients.

    Raises
    ------
    InputError, StatisticalRefusal
        The model does not load, or its rows do not suffice.
    """
    from ftrect_ray.predictor.precision import own_device

    if spec.model.adapter == "head":
        from ftrect_ray.finetune.frozen import FrozenFit

        return FrozenFit(spec, device or own_device())
    from ftrect_ray.finetune.training import Fit

    return Fit.alone(spec) if device is None else Fit(spec, device)


@contextmanager
def fitted(spec: FitSpec) -> Iterator[AnyFit]:
    """The fit of ``spec`` in this process, trained and finished, to predict with.

    Raises
    ------
    Diverged
    InputError, StatisticalRefusal
        As :func:`open_fit`.
    """
    with open_fit(spec) as fit:
        fit.run()
        fit.finish()
        yield fit
