"""The objectives against the plain formula, alone and over two processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ftrect_ray.finetune import objectives

ROWS, FEATURES = 7, 3


def _data() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, FEATURES, dtype=torch.float64, generator=generator)
    y = torch.randn(ROWS, dtype=torch.float64, generator=generator) + 5
    return x, y, torch.randn(FEATURES, dtype=torch.float64, generator=generator)


def _plain(objective: str, residual: Tensor) -> Tensor:
    """The formula, with the mean inside the graph."""
    return residual.var(correction=0) if objective == "variance" else residual.square().mean()


def _moments(residual: Tensor) -> objectives.Moments:
    return objectives.Moments(residual.detach().mean(), torch.tensor(float(len(residual)), dtype=torch.float64))


@pytest.mark.parametrize("objective", ["variance", "mse"])
def test_gradient_with_the_mean_held_constant_is_that_of_the_formula(objective: str) -> None:
    x, y, w = _data()
    w.requires_grad_()
    residual = y - torch.tanh(x @ w)
    loss = objectives.LOSSES[objective](residual, torch.ones(ROWS), _moments(residual), 1)
    (ours,) = torch.autograd.grad(loss, w)
    plain = _plain(objective, y - torch.tanh(x @ w))
    (theirs,) = torch.autograd.grad(plain, w)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-14)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)


def test_gradient_matches_finite_differences() -> None:
    x, y, w = _data()

    def value(w: Tensor) -> float:
        return float((y - torch.tanh(x @ w)).var(correction=0))

    step = 1e-6
    units = step * torch.eye(FEATURES, dtype=torch.float64)
    numeric = torch.tensor([(value(w + unit) - value(w - unit)) / (2 * step) for unit in units], dtype=torch.float64)
    w.requires_grad_()
    residual = y - torch.tanh(x @ w)
    (ours,) = torch.autograd.grad(objectives.variance_loss(residual, torch.ones(ROWS), _moments(residual), 1), w)
    torch.testing.assert_close(ours, numeric, rtol=1e-8, atol=1e-9)


def test_variance_ignores_the_level_and_mse_does_not() -> None:
    residual = torch.tensor([1.0, 2.0, 4.0])
    assert objectives.metric("variance", residual + 100) == pytest.approx(objectives.metric("variance", residual))
    assert objectives.metric("mse", residual + 100) > 1e4


def test_a_rank_with_one_row_learns_from_the_others() -> None:
    """With its own mean its residual would be 0, and so its gradient."""
    residual = torch.tensor([3.0], requires_grad=True)
    loss = objectives.variance_loss(
        residual, torch.ones(1), objectives.Moments(torch.tensor(1.0), torch.tensor(2.0)), 2
    )
    loss.backward()
    assert residual.grad is not None
    assert float(residual.grad) == pytest.approx(4.0)


@pytest.mark.ray
def test_any_split_over_two_ranks_is_the_global_objective(two_ranks) -> None:
    answers = two_ranks("objectives_over_ranks", None)
    assert [first for _, first, _ in answers] == [4, 4, 6, 6, 7, 7, 0, 0]  # 7 and 0: one rank is empty
    for objective, first, both in answers:
        x, y, w = _data()
        w.requires_grad_()
        plain = _plain(objective, y - torch.tanh(x @ w))
        (gradient,) = torch.autograd.grad(plain, w)
        expected = torch.cat([gradient, plain.detach().reshape(1)])
        actual = torch.tensor(both, dtype=torch.float64)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12, msg=f"{objective}, {first} rows on rank 0")
