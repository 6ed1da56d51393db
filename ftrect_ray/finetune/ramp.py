"""Pilots size after size, until a longer fine-tune would not pay (FTR EC.2)."""

from __future__ import annotations

from collections.abc import Sequence

from ftrect_ray.allocation.ramp_up import next_size
from ftrect_ray.finetune.pilot import PilotResult, PilotSpec


def next_round(specs: Sequence[PilotSpec], results: Sequence[PilotResult], labels: int) -> list[PilotSpec]:
    """The pilots that follow: the next size of every candidate whose law, by ``results``, asks for it.

    The candidates climb together, each by its own law. Untrained models, of size 0, go with the first round.

    Parameters
    ----------
    specs : sequence of PilotSpec
        Of all sizes.
    results : sequence of PilotResult
        Of whole rounds, none at first.
    labels : int
        The budget less the validation rows: what is to be split between training and rectifying.
    """
    ramps: dict[str, list[int]] = {}
    for candidate in dict.fromkeys(spec.candidate for spec in specs):
        ramps[candidate] = sorted({spec.size for spec in specs if spec.candidate == candidate and spec.size})
    climbing = {candidate: _next_size(ramp, results, candidate, labels) for candidate, ramp in ramps.items()}
    return [s for s in specs if s.size == climbing[s.candidate] or (s.size == 0 and not results)]


def _next_size(ramp: Sequence[int], results: Sequence[PilotResult], candidate: str, labels: int) -> int | None:
    own = [result for result in results if result.candidate == candidate and result.size]
    measured: dict[int, list[float]] = {result.size: [] for result in own}
    for result in own:
        if result.residual_variance is not None:
            measured[result.size].append(result.residual_variance)
    return next_size(ramp, measured, own[0].n_measure if own else None, labels)
