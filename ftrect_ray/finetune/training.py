"""The fine-tune itself: what every rank of a process group does, and what a single process does alone.

The order of the rows, dropout and the learning rate are functions of (seed, epoch, step, micro-batch, rank), so a run
that is resumed after any step goes on as if it had never stopped.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftrect_ray.errors import InputError
from ftrect_ray.finetune import objectives
from ftrect_ray.finetune.batching import deal, epoch_batches, passes
from ftrect_ray.finetune.engine import Engine, join_alone, loading
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.opening import open_fit
from ftrect_ray.finetune.spec import Diverged, Epoch, FitResult, FitSpec, Rows
from ftrect_ray.finetune.watching import PROGRESS
from ftrect_ray.predictor import Predictor, Scale, folder
from ftrect_ray.predictor.cache import CachedTokens
from ftrect_ray.predictor.precision import own_device, resolve_precision
from ftrect_ray.storage import RunStorage

WEIGHTS = "weights.safetensors"
#: Padded tokens that a rank evaluates at a time: no more than a small training step holds.
EVALUATION_TOKENS = 2048
#: What a forward pass of a step costs on a processor beside its padded tokens, in tokens. On a GPU, and at ZeRO-3,
#: which gathers the weights for each pass, a micro-batch is one pass.
PASS_TOKENS = 32.0


def fit_local(spec: FitSpec) -> tuple[Predictor, FitResult]:
    """Fine-tune in this process alone: the same recipe as under Ray Train, in a world of one.

    Returns
    -------
    predictor : Predictor
        As its folder would load: the best epoch's weights, centred on its own rows.
    result : FitResult

    Raises
    ------
    Diverged, InputError
    """
    with open_fit(spec) as fit, tempfile.TemporaryDirectory() as home:
        fit.run()
        fit.finish()
        fit.save_model(Path(home))
        return Predictor.load(home).to(fit.device), fit.result


AfterStep = Callable[["Fit", bool], None]


class Fit:
    """One fine-tune on one rank of the default process group.

    Every method but the constructor's twin :meth:`alone` is collective: all ranks call it with the same arguments, in
    the same order. A context manager: DeepSpeed holds the weights until it ends.

    From ``min_epochs`` on, an epoch is kept if the objective's metric on ``spec.stop`` is the lowest so far: before,
    the learning rate is high and a few rows cannot tell a lucky epoch from a good one. Training ends after
    ``training.epochs``, or earlier once ``min_epochs`` are done and ``patience`` of them brought nothing. With fewer
    than two rows to stop on there is no choice: all epochs run and the last is kept.

    Attributes
    ----------
    curve : list of Epoch
    best_epoch : int
        The epoch whose weights are kept so far (1-based); 0 before the first.
    weights : dict of str to Tensor
        Those weights, on the CPU of rank 0; empty elsewhere.

    Raises
    ------
    InputError
        The model does not load, or fewer than two rows can be trained on.
    """

    def __init__(self, spec: FitSpec, device: torch.device) -> None:
        self.spec, self.device, self.influence = spec, device, Influence.of_fit(spec)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.scale = Scale.of(np.asarray(spec.train.answers, dtype=np.float64))
        dtype = resolve_precision(spec.training.precision, device)
        with loading(spec.training, dtype):
            self.predictor = Predictor.create(spec.model, seed=spec.seed, scale=self.scale)
        self.tokens = CachedTokens(self.predictor, None if spec.cache is None else RunStorage.open(spec.cache))
        self.train_rows = self._encode(spec.train)
        self.stop_rows = self._encode(spec.stop)
        if len(self.train_rows.ids) < 2:
            raise InputError(
                f"the fine-tune {spec.name!r} has {len(self.train_rows.ids)} rows with a usable text; it needs 2",
                mend="give it more labels",
            )
        self.selects = len(self.stop_rows.ids) >= 2
        self.engine = Engine(self.predictor, spec.training, dtype, device)
        self._generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        self.curve: list[Epoch] = []
        self.best_epoch = 0
        self.weights: dict[str, Tensor] = {}
        self.under_way = _Epoch()

    @classmethod
    def alone(cls, spec: FitSpec) -> Fit:
        """In this process only, on its GPU if it has one."""
        device = own_device()
        join_alone(device)
        return cls(spec, device)

    def __enter__(self) -> Fit:
        self._generators.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.engine.close()
        self._generators.__exit__(kind, error, traceback)

    def _encode(self, rows: Rows) -> _Encoded:
        tokens = self.tokens(rows.texts)
        lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
        usable = np.flatnonzero(lengths)
        targets = (np.asarray(rows.answers, dtype=np.float64)[usable] - self.scale.center) / self.scale.spread
        weights = self.influence.weights(rows.take(usable)) / self.influence.scale
        ids, tokens = tuple(rows.ids[i] for i in usable), [tokens[i] for i in usable]
        return _Encoded(ids, tokens, lengths[usable], torch.from_numpy(targets), torch.from_numpy(weights))

    # --------------------------------------------------------------------------------------------------- training

    def run(self, after_step: AfterStep = lambda fit, epoch_ended: None) -> None:
        """Train until done.

        Parameters
        ----------
        after_step : callable (fit, epoch_ended)
            Called on every rank after each optimiser step, and once more at the end of each epoch; it may call
            :meth:`save`.

        Raises
        ------
        Diverged
            On all ranks at once.
        """
        while not self._done():
            epoch = self._epoch(len(self.curve) + 1, after_step)
            self.curve.append(epoch)
            self.under_way = _Epoch()
            if not self.selects or epoch.epoch == _best(self.curve, self.spec.training.min_epochs):
                self.best_epoch, self.weights = epoch.epoch, self.engine.weights()
            after_step(self, True)

    def _done(self) -> bool:
        training, done = self.spec.training, len(self.curve)
        patience_over = self.selects and done >= training.min_epochs and done - self.best_epoch >= training.patience
        return done >= training.epochs or patience_over

    def _epoch(self, epoch: int, after_step: AfterStep) -> Epoch:
        start = time.perf_counter() - self.under_way.seconds
        batches = epoch_batches(len(self.train_rows.ids), self.spec.training.batch_size, self.spec.seed, epoch)
        steps, before = self.spec.training.epochs * len(batches), (epoch - 1) * len(batches)
        for step in range(len(self.under_way.losses), len(batches)):
            self.engine.train(True)
            rate = learning_rate_factor(before + step, steps, self.spec.training.warmup)
            loss = self._step(epoch, step, batches[step], rate)
            self.under_way = _Epoch((*self.under_way.losses, loss), time.perf_counter() - start)
            after_step(self, False)
        unit = (self.scale.spread * self.influence.scale) ** 2
        stop_metric = self._stop_metric(epoch) * unit
        return Epoch(epoch, float(np.mean(self.under_way.losses)) * unit, stop_metric, time.perf_counter() - start)

    def _step(self, epoch: int, step: int, rows: np.ndarray, rate: float) -> float:
        """One optimiser step on the global batch ``rows``; the objective on it.

        Where a rank's rows do not go through the model at once, they go through it twice: first all micro-batches
        without a graph, for the moments of the whole step, then each with its graph, with the same dropout.
        """
        data = self.train_rows
        micro = [
            self._passes(ranks) for ranks in deal(rows, data.lengths, self.world, self.spec.training.micro_batch_size)
        ]
        if len(micro) == 1:
            parts = [self._influence(epoch, step, 0, micro[0])]
        else:
            with torch.no_grad():
                parts = [self._influence(epoch, step, number, own) for number, own in enumerate(micro)]
        total = torch.stack([objectives.sums(u, weight) for u, weight in parts]).sum(0)
        dist.all_reduce(total)
        if not torch.isfinite(total).all():
            raise self._diverged(epoch, step, rows, "loss")
        form = objectives.Form.of(self.spec.objective, total)
        for number, own in enumerate(micro):
            u, weight = parts[0] if len(micro) == 1 else self._influence(epoch, step, number, own)
            self.engine.backward(form.share(u, weight, self.world))
        if not math.isfinite(self.engine.step(rate)):
            raise self._diverged(epoch, step, rows, "gradient")
        return form.value(total)

    def _passes(self, ranks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """This rank's rows of a micro-batch, for one forward pass each: as many on all ``ranks``."""
        longest = self.predictor.costs(self.train_rows.lengths[ranks[0]])  # the first rank has the longer rows
        splits = self.device.type == "cpu" and self.engine.stage < 3
        return [ranks[self.rank][part] for part in passes(longest, PASS_TOKENS if splits else math.inf)]

    def _beginning_kept(self) -> AbstractContextManager[None]:
        """That which prompts share is computed once inside; at ZeRO-3, whose ranks hold no whole weights, each time."""
        return self.predictor.beginning_kept() if self.engine.stage < 3 else nullcontext()

    def _influence(self, epoch: int, step: int, number: int, own: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Influence residuals u (n, d) of a micro-batch, pass by pass, and their weights (n,)."""
        _seed(self.spec.seed, epoch, step, number, self.rank)
        with self._beginning_kept():
            residuals, weights = zip(*(self._one_pass(rows) for rows in own), strict=True)
        return torch.cat(residuals), torch.cat(weights)

    def _one_pass(self, own: np.ndarray) -> tuple[Tensor, Tensor]:
        """u and weights of rows that go through the model together; no rows give one row of weight 0."""
        data = self.train_rows
        ids, mask = self.predictor.collate([data.tokens[i] for i in own])
        read = self.predictor.read(self.engine(ids.to(self.device), mask.to(self.device)))
        if not len(own):
            return read[:, None].expand(1, data.weights.shape[1]), torch.zeros(1, device=self.device)
        target, weights = (tensor[own].to(self.device, torch.float32) for tensor in (data.targets, data.weights))
        return weights * (target - read)[:, None], torch.ones(len(own), device=self.device)

    def _diverged(self, epoch: int, step: int, rows: np.ndarray, quantity: str) -> Diverged:
        ids = tuple(self.train_rows.ids[i] for i in rows)
        return Diverged.at(self.spec, epoch, f"step {step + 1}", ids, quantity)

    def agreed(self, *flags: bool) -> list[bool]:
        """Rank 0's ``flags``, on every rank."""
        told = torch.tensor(flags, dtype=torch.uint8, device=self.device)
        dist.broadcast(told, 0)
        return [bool(flag) for flag in told.tolist()]

    # ------------------------------------------------------------------------------------------------- predicting

    def _stop_metric(self, epoch: int) -> float:
        """The objective on the stop rows, in standardised units; NaN without enough of them."""
        if not self.selects:
            return math.nan
        data = self.stop_rows
        residual = data.targets - torch.from_numpy(self._predict(data.tokens))
        metric = objectives.metric(self.spec.objective, data.weights * residual[:, None])
        if not math.isfinite(metric):
            raise Diverged.at(self.spec, epoch, "early stopping", data.ids)
        return metric

    def _predict(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        """Standardised predictions (n,), float64, of token arrays; NaN for empty ones."""
        self.engine.train(False)
        found = torch.zeros(len(tokens), dtype=torch.float64, device=self.device)
        # What ZeRO-3 gathers in inference mode could not be trained with afterwards.
        with torch.no_grad() if self.engine.stage == 3 else torch.inference_mode(), self._beginning_kept():
            for rows in self.predictor.batches(tokens, self.world * EVALUATION_TOKENS):
                own = rows[self.rank :: self.world]
                ids, mask = self.predictor.collate([tokens[i] for i in own])
                read = self.predictor.read(self.engine(ids.to(self.device), mask.to(self.device)))
                found[own] = read[: len(own)].double()
            dist.all_reduce(found)
        return np.where([len(ids) > 0 for ids in tokens], found.cpu().numpy(), np.nan)

    def predict(self, texts: Sequence[str | None]) -> np.ndarray:
        """Predictions (n,), float64, in the answer's unit; NaN where there is none. As :meth:`Predictor.predict`."""
        return self.predictor.scale.answers(self._predict(self.tokens(texts)))

    # ------------------------------------------------------------------------------------------------- finishing

    def finish(self) -> None:
        """Take up the best epoch's weights, and move the mean residual over the fine-tune's own rows to zero.

        Unless the objective is about coefficients: with unequal weights it knows the level, and has trained it.
        """
        self.engine.restore(self.weights)
        if self.spec.coefficients is not None:
            return
        residual = self.spec.own_answers - self.predict(self.spec.own_texts)
        self.predictor.centre(float(np.nanmean(residual)))

    @property
    def result(self) -> FitResult:
        return FitResult.of(self.spec.name, self.curve, self.best_epoch)

    def save_model(self, directory: Path) -> None:
        """Write the finished model's folder (rank 0), in the precision that it computes with."""
        weights = self.engine.whole(self.predictor.stored())
        if self.rank == 0:
            folder.save(self.predictor, directory, weights)
        else:
            for _ in weights:
                pass

    # ------------------------------------------------------------------------------------------------- resuming

    def save(self, directory: Path) -> None:
        """Write what :meth:`resume` reads: the ranks' training states, the curve, and the best weights so far."""
        self.engine.save(directory)
        if self.rank == 0:
            save_file(self.weights, directory / WEIGHTS)
            progress = {
                "curve": [asdict(epoch) for epoch in self.curve],
                "under_way": asdict(self.under_way),
                "steps": -(-len(self.train_rows.ids) // self.spec.training.batch_size),
            }
            (directory / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")

    def resume(self, directory: Path) -> None:
        """Go on from an earlier :meth:`save` by as many ranks."""
        self.engine.load(directory)
        progress = json.loads((directory / PROGRESS).read_text(encoding="utf-8"))
        self.curve = [Epoch(**epoch) for epoch in progress["curve"]]
        self.under_way = _Epoch(tuple(progress["under_way"]["losses"]), progress["under_way"]["seconds"])
        if self.curve:
            self.best_epoch = _best(self.curve, self.spec.training.min_epochs) if self.selects else len(self.curve)
        self.weights = load_file(directory / WEIGHTS) if self.rank == 0 else {}


@dataclass(frozen=True)
class _Epoch:
    """The epoch under way: the objective on each step so far, standardised, and the seconds that they took."""

    losses: tuple[float, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class _Encoded:
    """Rows that can be trained on: ``tokens`` (n,) arrays of ids, ``targets`` (n,) standardised, ``weights`` (n, d)."""

    ids: tuple[str, ...]
    tokens: list[np.ndarray]
    lengths: np.ndarray
    targets: Tensor
    weights: Tensor


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
