"""The objectives: plain formulas, their gradients by finite differences, and any dealing of the rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ftrect_ray.finetune import objectives
from ftrect_ray.study import Study

ROWS, FEATURES = 9, 3
#: Each objective and the number of influence residuals that it is tried on.
CASES = [
    ("variance", 1),
    ("mse", 1),
    ("coefficient", 1),
    ("trace", 2),
    ("determinant", 2),
    ("determinant", 3),
    ("mse", 2),
]


def _data(d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs (ROWS, FEATURES), answers (ROWS,), influence weights (ROWS, d), parameters; float64."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, FEATURES, dtype=torch.float64, generator=generator)
    y = torch.randn(ROWS, dtype=torch.float64, generator=generator) + 5
    w = (
        torch.ones(ROWS, 1, dtype=torch.float64)
        if d == 1
        else torch.randn(ROWS, d, dtype=torch.float64, generator=generator)
    )
    return x, y, w, torch.randn(FEATURES, dtype=torch.float64, generator=generator)


def _influence(d: int, parameters: Tensor) -> Tensor:
    x, y, w, _ = _data(d)
    return w * (y - torch.tanh(x @ parameters))[:, None]


def _gradient(value: Tensor, parameters: Tensor) -> Tensor:
    return torch.autograd.grad(value, parameters)[0]


def test_there_is_one_for_each_that_a_study_may_name() -> None:
    assert set(objectives.OBJECTIVES) == set(Study.model_fields["objective"].annotation.__args__)


@pytest.mark.parametrize(("objective", "d"), CASES)
def test_values_are_those_of_numpy(objective: str, d: int) -> None:
    u = _influence(d, _data(d)[3])
    covariance = np.atleast_2d(np.cov(u.numpy(), rowvar=False, ddof=0))
    expected = {
        "mse": (u.numpy() ** 2).sum(1).mean(),
        "determinant": np.linalg.det(covariance) ** (1 / d),
    }.get(objective, np.trace(covariance))
    assert objectives.metric(objective, u) == pytest.approx(expected, rel=1e-5 if objective == "determinant" else 1e-13)


@pytest.mark.parametrize(("objective", "d"), CASES)
def test_gradients_match_finite_differences(objective: str, d: int) -> None:
    start = _data(d)[3]
    step = 1e-6

    def value(parameters: Tensor) -> float:
        return objectives.metric(objective, _influence(d, parameters))

    units = step * torch.eye(FEATURES, dtype=torch.float64)
    numeric = torch.tensor([(value(start + unit) - value(start - unit)) / (2 * step) for unit in units])
    parameters = start.clone().requires_grad_()
    plain = _gradient(objectives.OBJECTIVES[objective](_influence(d, parameters)), parameters)
    torch.testing.assert_close(plain, numeric.double(), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("objective", "d"), CASES)
@pytest.mark.parametrize("parts", [[9], [5, 4], [8, 1], [1] * 9, [4, 0, 5]])
def test_held_constant_centre_and_metric_leave_value_and_gradient_exact(
    objective: str, d: int, parts: list[int]
) -> None:
    """Any cut of the rows into micro-batches and ranks; in two worlds, of one rank and of three."""
    start = _data(d)[3]
    parameters = start.clone().requires_grad_()
    plain = objectives.OBJECTIVES[objective](_influence(d, parameters))
    expected = _gradient(plain, parameters)
    rows = torch.arange(ROWS).split(parts)
    total = sum(objectives.sums(_influence(d, start)[own], torch.ones(len(own))) for own in rows)
    form = objectives.Form.of(objective, total)
    assert form.value(total) == pytest.approx(plain.item(), rel=1e-12)
    for world in (1, 3):
        shares = sum(form.share(_influence(d, parameters)[own], torch.ones(len(own)), world) for own in rows)
        assert shares.item() / world == pytest.approx(plain.item(), rel=1e-12)
        torch.testing.assert_close(_gradient(shares / world, parameters), expected, rtol=1e-11, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    d=st.integers(1, 4),
    objective=st.sampled_from(sorted(objectives.OBJECTIVES)),
    level=st.floats(-100, 100),
)
def test_padding_counts_nowhere_and_level_only_for_mse(seed: int, d: int, objective: str, level: float) -> None:
    u = torch.randn(12, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    padded = torch.cat([u, torch.full((2, d), 1e6, dtype=torch.float64)])
    weight = torch.tensor([1.0] * 12 + [0.0] * 2)
    alone, with_padding = objectives.sums(u, torch.ones(12)), objectives.sums(padded, weight)
    torch.testing.assert_close(alone, with_padding)
    form = objectives.Form.of(objective, alone)
    torch.testing.assert_close(form.share(padded, weight, 1), form.share(u, torch.ones(12), 1))
    if objective != "mse":
        moved = objectives.metric(objective, u + level)
        assert moved == pytest.approx(objectives.metric(objective, u), rel=1e-6, abs=1e-9)


def test_a_rank_with_one_row_learns_from_the_others() -> None:
    """With its own mean its residual would be 0, and so its gradient."""
    u = torch.tensor([[3.0]], requires_grad=True)
    total = objectives.sums(torch.tensor([[3.0], [-1.0]]), torch.ones(2))
    objectives.Form.of("variance", total).share(u, torch.ones(1), 2).backward()
    assert u.grad is not None
    assert float(u.grad) == pytest.approx(2 * (3 - 1) / 2 * 2)


def test_a_step_of_fewer_rows_than_coefficients_has_a_finite_determinant() -> None:
    u = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    total = objectives.sums(u, torch.ones(2))
    form = objectives.Form.of("determinant", total)
    assert torch.isfinite(_gradient(form.share(u, torch.ones(2), 1), u)).all()
    constant = objectives.sums(torch.zeros(3, 2), torch.ones(3))
    assert math.isfinite(objectives.Form.of("determinant", constant).value(constant))


@pytest.mark.ray
def test_any_split_over_two_ranks_is_the_global_objective(ranks) -> None:
    answers = ranks("objectives_over_ranks", None)
    assert {first for _, first, _ in answers} == {4, 6, 7, 0}  # 7 and 0: one rank is empty
    for objective, first, both in answers:
        x, y, start = (torch.tensor(part, dtype=torch.float64) for part in both["data"])
        parameters = start.requires_grad_()
        plain = objectives.OBJECTIVES[objective]((y - torch.tanh(x @ parameters))[:, None])
        expected = torch.cat([_gradient(plain, parameters), plain.detach().reshape(1)])
        actual = torch.tensor(both["answer"], dtype=torch.float64)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12, msg=f"{objective}, {first} rows on rank 0")
