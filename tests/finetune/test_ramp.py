"""A ramp-up climbs as long as the law asks for it, each candidate by its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ftrect_ray.finetune.pilot import PilotResult, PilotSpec
from ftrect_ray.finetune.pilot_plan import plan_all
from ftrect_ray.finetune.pilots import Pace
from ftrect_ray.finetune.ramp import next_round
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.study_file import parse_study

TEXT = """
study: a
data: {source: vader, text: text, label: rating}
pilots: {scheme: ramp-up, sizes: [20, 40, 80, 160, 320], seeds: 2, validation: 100}
candidates: {fast: {model: {name: minilm}}, slow: {model: {name: smollm2}}}
"""
N = 1000


def specs() -> list[PilotSpec]:
    rows = Rows(tuple(f"r{i}" for i in range(N)), ("a text",) * N, np.arange(N, dtype=float))
    return plan_all(rows, parse_study(TEXT))


def measured(spec: PilotSpec, value: float | None) -> PilotResult:
    result = replace(PilotResult.failed(spec, "died"), residual_variance=value)
    return result if value is None else replace(result, status="done", error=None)


def climb(laws: dict[str, tuple[float, float, float]], failing: Sequence[str] = ()) -> tuple[list, list]:
    results: list[PilotResult] = []
    rounds: list[list[str]] = []
    while some := next_round(specs(), results, N - 100):
        rounds.append([spec.name for spec in some])
        for spec in some:
            a, alpha, b = laws[spec.candidate]
            results.append(measured(spec, None if spec.name in failing else a * spec.size**-alpha + b))
    return results, rounds


def sizes(results: list[PilotResult], candidate: str) -> list[int]:
    return sorted({result.size for result in results if result.candidate == candidate})


def test_each_candidate_stops_at_its_own_first_size_that_reaches_s_star() -> None:
    results, rounds = climb({"fast": (3.0, 1.2, 1.0), "slow": (6.0, 0.3, 0.1)})
    assert sizes(results, "fast") == [20, 40, 80]  # s* of 900 labels is 43
    assert sizes(results, "slow") == [20, 40, 80, 160, 320]  # s* is 186
    assert rounds[0] == [f"pilot-{name}-s20-r{r}" for name in ("fast", "slow") for r in (0, 1)]
    assert rounds[-1] == ["pilot-slow-s320-r0", "pilot-slow-s320-r1"]


def test_a_size_of_which_every_pilot_failed_is_passed_over() -> None:
    failing = ["pilot-fast-s40-r0", "pilot-fast-s40-r1"]
    results, _ = climb({"fast": (3.0, 1.2, 1.0), "slow": (3.0, 1.2, 1.0)}, failing)
    assert sizes(results, "fast") == [20, 40, 80, 160]  # three measured sizes make a law
    assert sizes(results, "slow") == [20, 40, 80]


def test_every_pilot_runs_once() -> None:
    results, rounds = climb({"fast": (3.0, 0.2, 0.1), "slow": (6.0, 0.3, 0.1)})
    names = [result.name for result in results]
    assert len(set(names)) == len(names) == sum(map(len, rounds))


def test_orchestration_is_what_the_pilots_do_not_explain() -> None:
    assert Pace().orchestration is None
    assert Pace(wall=10.0, ideal=8.0).orchestration == pytest.approx(0.2)
    assert Pace(wall=10.0, ideal=10.5).orchestration == 0.0
