"""The fine-tune itself: one function that every rank runs, and that a single process runs alone.

The order of the rows, dropout and the learning rate are functions of (seed, epoch, step, rank), so a run
that is resumed at the end of an epoch goes on as if it had never stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.finetune import objectives
from ftrect_ray.finetune.batching import epoch_batches
from ftrect_ray.finetune.engine import Engine, join_alone
from ftrect_ray.finetune.spec import Epoch, FitResult, FitSpec, Rows
from ftrect_ray.finetune.watching import PROGRESS
from ftrect_ray.predictor import Predictor, Scale
from ftrect_ray.predictor.precision import resolve_precision
from ftrect_ray.predictor.tokens import collate

WEIGHTS = "weights.safetensors"


class Diverged(StatisticalRefusal):
    """The loss is no longer a number; what it was computed on is named."""

    @classmethod
    def at(cls, spec: FitSpec, epoch: int, step: str, ids: tuple[str, ...]) -> Diverged:
        shown = ", ".join(ids[:8]) + (", …" if len(ids) > 8 else "")
        return cls(
            f"the fine-tune {spec.name!r} diverged: the loss is not finite in epoch {epoch}, {step}, rows {shown}",
            where="training.learning_rate",
            mend="lower training.learning_rate or training.head_learning_rate, or set training.precision: fp32",
        )


@dataclass(frozen=True)
class Outcome:
    """What :func:`train` leaves: the learning curve, and on rank 0 the best epoch's weights (fp32, CPU)."""

    curve: tuple[Epoch, ...]
    best_epoch: int
    weights: dict[str, Tensor]

    def result(self, name: str) -> FitResult:
        return FitResult(name, self.curve, self.best_epoch, sum(epoch.seconds for epoch in self.curve))


OnEpoch = Callable[[Epoch, Callable[[Path], None]], None]


def fit_local(spec: FitSpec) -> tuple[Predictor, FitResult]:
    """Fine-tune in this process alone: the same recipe as under Ray Train, in a world of one.

    Returns
    -------
    predictor : Predictor
        In fp32, with the best epoch's weights, centred on its own rows.
    result : FitResult

    Raises
    ------
    Diverged, InputError
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    join_alone(device)
    outcome = train(spec, device=device)
    return finish(spec, outcome.weights, device), outcome.result(spec.name)


def train(
    spec: FitSpec, *, device: torch.device, on_epoch: OnEpoch = lambda epoch, save: None, resume: Path | None = None
) -> Outcome:
    """Fine-tune on the ranks of the default process group; every rank calls it with the same ``spec``.

    From ``min_epochs`` on, an epoch is kept if the objective's metric on ``spec.stop`` is the lowest so far:
    before, the learning rate is high and a few rows cannot tell a lucky epoch from a good one. Training ends after
    ``training.epochs``, or earlier once ``min_epochs`` are done and ``patience`` of them brought nothing. With
    fewer than two rows to stop on there is no choice: all epochs run and the last is kept.

    Parameters
    ----------
    on_epoch : callable (epoch, save)
        Called on every rank at the end of each epoch; ``save(folder)`` is collective and writes what
        ``resume`` reads: the ranks' training states, the curve, and the best weights so far.
    resume : Path, optional
        Folder of an earlier ``save`` by as many ranks.

    Raises
    ------
    Diverged
        On all ranks at once.
    InputError
        The model does not load, or fewer than two rows can be trained on.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        fit = _Fit(spec, device)
        try:
            return fit.run(on_epoch, resume)
        finally:
            fit.engine.close()


def finish(spec: FitSpec, weights: dict[str, Tensor], device: torch.device) -> Predictor:
    """The finished model in fp32: ``weights`` in place, the mean residual over its own rows moved to zero."""
    predictor = Predictor.create(spec.model, seed=spec.seed, scale=_scale(spec.train))
    predictor.load_trainable(weights)
    predictor.to(device)
    predicted, _ = predictor.predict([*spec.train.texts, *spec.stop.texts])
    residual = np.concatenate([spec.train.answers, spec.stop.answers]) - predicted
    predictor.centre(float(np.nanmean(residual)))
    return predictor.requires_grad_(False)


def _scale(train: Rows) -> Scale:
    return Scale.of(np.asarray(train.answers, dtype=np.float64))


class _Fit:
    """The state of one fine-tune on one rank."""

    def __init__(self, spec: FitSpec, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.scale = _scale(spec.train)
        predictor = Predictor.create(spec.model, seed=spec.seed, scale=self.scale)
        self.pad = int(predictor.tokenizer.pad_token_id)
        self.train_rows = self._encode(predictor, spec.train)
        self.stop_rows = self._encode(predictor, spec.stop)
        if len(self.train_rows.ids) < 2:
            raise InputError(
                f"the fine-tune {spec.name!r} has {len(self.train_rows.ids)} rows with a usable text; it needs 2",
                mend="give it more labels",
            )
        self.selects = len(self.stop_rows.ids) >= 2
        self.loss = objectives.LOSSES[spec.objective]
        self.engine = Engine(predictor.to(device), spec.training, resolve_precision(spec.training.precision, device))
        self.curve: list[Epoch] = []
        self.best_epoch = 0
        self.weights: dict[str, Tensor] = {}

    def _encode(self, predictor: Predictor, rows: Rows) -> _Encoded:
        encoded = predictor.encode(rows.texts)
        usable = np.flatnonzero(encoded.lengths)
        targets = (np.asarray(rows.answers, dtype=np.float64)[usable] - self.scale.center) / self.scale.spread
        return _Encoded(
            tuple(rows.ids[i] for i in usable), [encoded.tokens[i] for i in usable], torch.from_numpy(targets)
        )

    # ------------------------------------------------------------------------------------------------- epochs

    def run(self, on_epoch: OnEpoch, resume: Path | None) -> Outcome:
        if resume is not None:
            self._load(resume)
        while not self._done():
            epoch = self._epoch(len(self.curve) + 1)
            self.curve.append(epoch)
            if not self.selects or epoch.epoch == _best(self.curve, self.spec.training.min_epochs):
                self.best_epoch, self.weights = epoch.epoch, self.engine.weights()
            on_epoch(epoch, self._save)
        return Outcome(tuple(self.curve), self.best_epoch, self.weights)

    def _done(self) -> bool:
        training, done = self.spec.training, len(self.curve)
        patience_over = self.selects and done >= training.min_epochs and done - self.best_epoch >= training.patience
        return done >= training.epochs or patience_over

    def _epoch(self, epoch: int) -> Epoch:
        start = time.perf_counter()
        batches = epoch_batches(len(self.train_rows.ids), self.spec.training.batch_size, self.spec.seed, epoch)
        steps, before = self.spec.training.epochs * len(batches), (epoch - 1) * len(batches)
        self.engine.train(True)
        losses = [
            self._step(epoch, step, rows, learning_rate_factor(before + step, steps, self.spec.training.warmup))
            for step, rows in enumerate(batches)
        ]
        train_loss = torch.stack(losses).double().mean() / self.world
        dist.all_reduce(train_loss)
        stop_metric = self._evaluate(epoch)
        unit = self.scale.spread**2
        return Epoch(epoch, float(train_loss) * unit, stop_metric * unit, time.perf_counter() - start)

    def _step(self, epoch: int, step: int, rows: np.ndarray, rate: float) -> Tensor:
        """One optimiser step on the global batch ``rows``, of which this rank computes its share."""
        _seed(self.spec.seed, epoch, step, self.rank)
        own = rows[self.rank :: self.world]
        ids, mask = collate([self.train_rows.tokens[i] for i in own], self.pad)
        target, weight = torch.zeros(len(ids)), torch.zeros(len(ids))
        target[: len(own)] = self.train_rows.targets[own].float()
        weight[: len(own)] = 1.0
        weight = weight.to(self.device)
        residual = target.to(self.device) - self.engine(ids.to(self.device), mask.to(self.device))
        moments = objectives.global_moments(residual, weight)
        if not torch.isfinite(moments.mean):
            raise Diverged.at(self.spec, epoch, f"step {step + 1}", tuple(self.train_rows.ids[i] for i in rows))
        loss = self.loss(residual, weight, moments, self.world)
        self.engine.step(loss, rate)
        return loss.detach()

    @torch.no_grad()
    def _evaluate(self, epoch: int) -> float:
        """The objective's metric on the stop rows, in standardised units; NaN without enough of them."""
        if not self.selects:
            return math.nan
        self.engine.train(False)
        predicted = torch.zeros(len(self.stop_rows.ids), dtype=torch.float64, device=self.device)
        order = np.argsort([len(ids) for ids in self.stop_rows.tokens], kind="stable")
        chunk = self.spec.training.batch_size * self.world
        for start in range(0, len(order), chunk):
            own = order[start : start + chunk][self.rank :: self.world]
            ids, mask = collate([self.stop_rows.tokens[i] for i in own], self.pad)
            predicted[own] = self.engine(ids.to(self.device), mask.to(self.device))[: len(own)].double()
        dist.all_reduce(predicted)
        metric = objectives.metric(self.spec.objective, self.stop_rows.targets - predicted.cpu())
        if not math.isfinite(metric):
            raise Diverged.at(self.spec, epoch, "early stopping", self.stop_rows.ids)
        return metric

    # ------------------------------------------------------------------------------------------------- resuming

    def _save(self, folder: Path) -> None:
        self.engine.save(folder)
        if self.rank == 0:
            save_file(self.weights, folder / WEIGHTS)
            (folder / PROGRESS).write_text(json.dumps([asdict(epoch) for epoch in self.curve]), encoding="utf-8")

    def _load(self, folder: Path) -> None:
        self.engine.load(folder)
        self.curve = [Epoch(**epoch) for epoch in json.loads((folder / PROGRESS).read_text(encoding="utf-8"))]
        self.best_epoch = _best(self.curve, self.spec.training.min_epochs) if self.selects else len(self.curve)
        self.weights = load_file(folder / WEIGHTS) if self.rank == 0 else {}


@dataclass(frozen=True)
class _Encoded:
    """Rows that can be trained on: ``tokens`` (n,) arrays of ids, ``targets`` standardised, float64 (n,)."""

    ids: tuple[str, ...]
    tokens: list[np.ndarray]
    targets: Tensor


def _best(curve: list[Epoch], min_epochs: int) -> int:
    """The epoch to keep: the lowest metric from ``min_epochs`` on, the earliest of equals; before, the latest."""
    candidates = [epoch for epoch in curve if epoch.epoch >= min_epochs] or curve[-1:]
    return min(candidates, key=lambda epoch: epoch.stop_metric).epoch


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Linear from 0 to 1 over the first ``warmup`` share of ``steps``, then linear to 0; steps count from 0.

    >>> [learning_rate_factor(step, 4, 0.5) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rising = math.ceil(warmup * steps)
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising)


def _seed(*key: int) -> None:
    """Seed torch (dropout) from a tuple of counters."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
