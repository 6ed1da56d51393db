"""Run by tests as a program: one of two gloo processes. ``two_ranks.py TASK RANK STORE SPEC OUT``.

It is a program, not a test helper to import, because each rank must be a process of its own.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import torch
import torch.distributed as dist

ROWS, FEATURES, SPLITS = 7, 3, [(4, 3), (6, 1), (7, 0), (0, 7)]


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs (ROWS, FEATURES), answers (ROWS,), and weights (FEATURES,) of a small nonlinear model; float64."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, FEATURES, dtype=torch.float64, generator=generator)
    y = torch.randn(ROWS, dtype=torch.float64, generator=generator) + 5
    return x, y, torch.randn(FEATURES, dtype=torch.float64, generator=generator)


def objectives_over_ranks(rank: int, spec: None) -> list:
    """Gradient and value of each objective for each split of the rows, averaged over ranks as DeepSpeed does."""
    from ftrect_ray.finetune import objectives

    x, y, start = data()
    answers = []
    for first, _ in SPLITS:
        for objective, loss in objectives.LOSSES.items():
            w = start.clone().requires_grad_()
            own = slice(0, first) if rank == 0 else slice(first, ROWS)
            weight = torch.ones(len(y[own]))
            if len(weight):
                residual = y[own] - torch.tanh(x[own] @ w)
            else:  # an empty rank's row of padding; its residual must count nowhere
                residual, weight = (x[:1] @ w) + 1e6, torch.zeros(1)
            value = loss(residual, weight, objectives.global_moments(residual, weight), 2)
            (gradient,) = torch.autograd.grad(value, w)
            both = torch.cat([gradient, value.detach().reshape(1)]) / 2
            dist.all_reduce(both)
            answers.append([objective, first, both.tolist()])
    return answers


def engine_gradients(rank: int, specs: list) -> list:
    """Full gradients that DeepSpeed holds after the backward pass of one global batch, for each spec and split."""
    from deepspeed.utils import safe_get_full_grad

    from ftrect_ray.finetune import objectives
    from ftrect_ray.finetune.engine import Engine
    from ftrect_ray.predictor import Predictor
    from ftrect_ray.predictor.tokens import collate

    answers = []
    for spec, first in specs:
        predictor = Predictor.create(spec.model, seed=spec.seed)
        engine = Engine(predictor, spec.training, torch.float32)
        tokens = predictor.encode(spec.train.texts).tokens
        own = list(range(len(tokens)))[slice(0, first) if rank == 0 else slice(first, None)]
        ids, mask = collate([tokens[i] for i in own], predictor.tokenizer.pad_token_id)
        weight = torch.ones(len(ids)) if own else torch.zeros(1)
        standard = (spec.train.answers - spec.train.answers.mean()) / spec.train.answers.std()
        target = torch.tensor(standard[own] if own else [1e3], dtype=torch.float32)
        residual = target - engine(ids, mask)
        loss = objectives.LOSSES[spec.objective](residual, weight, objectives.global_moments(residual, weight), 2)
        engine._engine.backward(loss)
        answers.append({name: safe_get_full_grad(p).flatten().tolist() for name, p in predictor.trainable().items()})
    return answers


def whole_fit(rank: int, specs: list) -> list:
    """Curves and best weights of whole fine-tunes."""
    from ftrect_ray.finetune.training import train

    outcomes = [train(spec, device=torch.device("cpu")) for spec in specs]
    return [
        [
            [epoch.stop_metric for epoch in outcome.curve],
            {name: w.flatten().tolist() for name, w in outcome.weights.items()},
        ]
        for outcome in outcomes
    ]


if __name__ == "__main__":
    task, rank, store, spec, out = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    answer = globals()[task](rank, pickle.loads(Path(spec).read_bytes()))
    if rank == 0:
        Path(out).write_text(json.dumps(answer))
    dist.barrier()
    dist.destroy_process_group()
