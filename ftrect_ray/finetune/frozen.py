"""A fit of the readout alone: features of the frozen backbone, each computed once a study, then the closed form.

No gradient, no DeepSpeed, and nothing to choose an epoch of: the rows that would choose it are fitted to as well, and
leave-one-out over all rows chooses the penalty.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ftrect_ray.errors import InputError
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.ridge import fit_readout
from ftrect_ray.finetune.spec import Epoch, FitResult, FitSpec
from ftrect_ray.predictor import Predictor, Scale, folder
from ftrect_ray.predictor.cache import feature_cache
from ftrect_ray.predictor.head import Head
from ftrect_ray.predictor.precision import for_prediction
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Model

#: Padded tokens of one forward pass on a GPU. On a processor each text goes alone: the last bits of its features do not
#: depend on which texts of a study were computed before it. That is as fast, but for the few tokens behind a prompt's
#: shared beginning (half as fast; benchmarks/results/prefix.md).
GPU_TOKENS, CPU_TOKENS = 16_384, 1


class FrozenFit:
    """The face of ``training.Fit`` for ``adapter: head``; likewise collective, if there is a process group.

    The curve has one point: the objective on the rows, and on their leave-one-out residuals.

    Raises
    ------
    InputError
        The model does not load, or (in :meth:`run`) fewer than two rows can be fitted to.
    """

    def __init__(self, spec: FitSpec, device: torch.device) -> None:
        self.spec, self.device, self.influence = spec, device, Influence.of_fit(spec)
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.scale = Scale.of(np.asarray(spec.train.answers, dtype=np.float64))
        base = backbone(spec.model.model_dump_json(), device, spec.training.precision)
        self.predictor = base.with_readout(Head(base.base.config.hidden_size, 1), self.scale)
        self.cache = feature_cache(base, None if spec.cache is None else RunStorage.open(spec.cache))
        self.curve: list[Epoch] = []
        self.best_epoch = 0

    def __enter__(self) -> FrozenFit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to let go of."""

    def run(self, after_step: object = None) -> None:
        """Solve. There is no step before the end that ``after_step`` could be called after."""
        start = time.perf_counter()
        features = self._features(self.spec.own_texts)
        usable = np.flatnonzero(torch.isfinite(features).all(1).numpy())
        if len(usable) < 2:
            raise InputError(
                f"the fine-tune {self.spec.name!r} has {len(usable)} rows with a usable text; it needs 2",
                mend="give it more labels",
            )
        weights = np.concatenate([self.influence.weights(rows) for rows in (self.spec.train, self.spec.stop)])
        found = fit_readout(
            self.spec.objective,
            features[usable].double().numpy(),
            (self.spec.own_answers[usable] - self.scale.center) / self.scale.spread,
            weights[usable] / self.influence.scale,
        )
        head = self.predictor.head
        assert head is not None
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(found.slopes))
            head.bias.fill_(found.level)
        unit = (self.scale.spread * self.influence.scale) ** 2
        self.curve = [Epoch(1, found.loss * unit, found.left_out * unit, time.perf_counter() - start)]
        self.best_epoch = 1

    def finish(self) -> None:
        """Move the mean residual over the fit's own rows to zero, unless the objective knows the level."""
        if self.spec.coefficients is None:
            residual = self.spec.own_answers - self.predict(self.spec.own_texts)
            self.predictor.centre(float(np.nanmean(residual)))

    def predict(self, texts: Sequence[str | None]) -> np.ndarray:
        """Predictions (n,), float64, in the answer's unit; NaN where there is none. As :meth:`Predictor.predict`."""
        head = self.predictor.head
        assert head is not None
        with torch.no_grad():
            read: np.ndarray = head(self._features(texts)).double().numpy()
        return self.predictor.scale.answers(read)

    @property
    def result(self) -> FitResult:
        return FitResult.of(self.spec.name, self.curve, self.best_epoch)

    def save_model(self, directory: Path) -> None:
        """Write the finished model's folder (rank 0)."""
        if self.rank == 0:
            folder.save(self.predictor, directory)

    def resume(self, directory: Path) -> None:
        """Nothing to go on from: :meth:`run` leaves no checkpoint, and its features are in the cache."""

    def _features(self, texts: Sequence[str | None]) -> Tensor:
        """fp32 (n, hidden) on the CPU; NaN where a text has no tokens.

        Rank 0 alone reads and writes the cache, so that all ranks agree on what is missing; they share the work on it.
        """
        written = [text or "" for text in texts]
        names = list(dict.fromkeys(written))
        known = self.cache.get(names) if self.rank == 0 else [None] * len(names)
        found = torch.zeros(len(names), int(self.predictor.base.config.hidden_size))
        for row, array in enumerate(known):
            if array is not None:
                found[row] = torch.tensor(array)
        missing = self._from_rank_0(torch.tensor([array is None for array in known]))
        fresh = np.flatnonzero(missing)
        tokens = self.predictor.encode([names[i] for i in fresh]).tokens
        own = np.argsort([len(ids) for ids in tokens], kind="stable")[self.rank :: self.world]
        found[fresh[own]] = self.predictor.features([tokens[i] for i in own], tokens_at_once(self.device))
        found = self._summed(found)
        if self.rank == 0:
            self.cache.put([names[i] for i in fresh], list(found[fresh].numpy()))
        place = {name: row for row, name in enumerate(names)}
        return found[[place[text] for text in written]]

    def _from_rank_0(self, flags: Tensor) -> np.ndarray:
        told = flags.to(self.device, torch.uint8)
        if self.world > 1:
            dist.broadcast(told, 0)
        return told.cpu().numpy()

    def _summed(self, shares: Tensor) -> Tensor:
        """Each row from the one rank that has it; zeros from the others."""
        if self.world == 1:
            return shares
        total = shares.to(self.device)
        dist.all_reduce(total)
        return total.cpu()


@lru_cache(maxsize=1)
def backbone(model: str, device: torch.device, precision: str) -> Predictor:
    """The frozen model (its settings as JSON), read once a process: the fits of a study follow each other in it."""
    return for_prediction(Predictor.create(Model.model_validate_json(model)), device, precision)


def tokens_at_once(device: torch.device) -> int:
    """Padded tokens of one forward pass, for :meth:`Predictor.features`."""
    return GPU_TOKENS if device.type == "cuda" else CPU_TOKENS
