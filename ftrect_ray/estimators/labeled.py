"""The labelled rows and their predictions, checked against each other and against the unlabelled sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError, near_match
from ftrect_ray.estimators.blocks import Block, Blocks, InMemory
from ftrect_ray.estimators.moments import Moments
from ftrect_ray.estimators.samples import Drawn, drawn
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.estimators.validation import answers, finite, shown


@dataclass(frozen=True, eq=False)
class Labeled:
    """n labelled rows with predictions by models that never saw them.

    Attributes
    ----------
    Y, Yhat : ndarray (n, d)
        Answers and predictions; d = 1 for a number.
    X : ndarray (n, …) or None
    models : int
        K, columns of the unlabelled predictions.
    share : ndarray (n, K) or None
        How much of the row's prediction is each model's (one 1 in a row under cross-fitting). None where all rows
        share alike: one model, or K models without folds.
    drawn : Drawn
    finite : bool
        Finite population.
    """

    Y: np.ndarray
    Yhat: np.ndarray
    X: np.ndarray | None
    models: int
    share: np.ndarray | None
    drawn: Drawn
    finite: bool

    @property
    def n(self) -> int:
        """Labelled rows."""
        return len(self.Y)

    @property
    def weights(self) -> np.ndarray:
        """What a label counts in the rectifier (n,): weight / probability."""
        weights = np.ones(self.n) if self.drawn.weights is None else self.drawn.weights
        return weights if self.drawn.probabilities is None else weights / self.drawn.probabilities

    @property
    def model_weights(self) -> np.ndarray:
        """Share of the rectifier that each model carries (K,); 1/K where folds are unknown."""
        return self.mixed(np.ones(self.n))

    def mixed(self, ratio: np.ndarray) -> np.ndarray:
        """Share of each model (K,) where row i counts ``ratio`` (n,) times as much."""
        weights = self.weights
        if self.share is None:
            return np.full(self.models, float(weights @ ratio / weights.sum()) / self.models)
        return np.asarray((weights * ratio) @ self.share / weights.sum())

    def own(self, per_model: np.ndarray) -> np.ndarray:
        """For each labelled row the value of its own model: (n, …) from ``per_model`` (K, …)."""
        if self.share is None:
            return np.broadcast_to(per_model.mean(axis=0), (self.n, *per_model.shape[1:]))
        return np.tensordot(self.share, per_model, axes=1)

    @property
    def carries_imputed(self) -> bool:
        """Whether the imputed mean is over the labelled rows too: the table itself was sampled, or is the target."""
        return self.finite or self.drawn.probabilities is not None

    def as_block(self) -> Block:
        """The labelled rows among the imputed ones; every model is taken to predict what the row's own one did."""
        predicted = self.Yhat[:, 0] if self.Yhat.shape[1] == 1 else self.Yhat
        return Block(
            np.repeat(predicted[:, None], self.models, axis=1),
            self.X,
            self.drawn.weights,
            self.drawn.strata,
            self.drawn.clusters,
        )

    def take(self, rows: np.ndarray) -> Labeled:
        """A selection of the rows, in the given order."""
        d = self.drawn
        parts = (d.weights, d.probabilities, d.strata, d.clusters)
        weights, probabilities, strata, clusters = (None if part is None else part[rows] for part in parts)
        return Labeled(
            self.Y[rows],
            self.Yhat[rows],
            None if self.X is None else self.X[rows],
            self.models,
            None if self.share is None else self.share[rows],
            Drawn(weights, probabilities, strata, clusters, d.known_total),
            self.finite,
        )


def checked(
    Y: ArrayLike,
    Yhat: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    settings: Settings,
    X: np.ndarray | None = None,
    X_unlabeled: np.ndarray | None = None,
) -> tuple[Labeled, InMemory]:
    """Numbers as answers: ``Y`` (n,), ``Yhat`` (n,) or (n, K), ``Yhat_unlabeled`` (m,) or (m, K).

    Raises
    ------
    InputError
        Shapes that do not match, folds that do not fit the columns, or see :func:`answers`.
    """
    labels = answers(Y)
    unlabeled = finite("Yhat_unlabeled", Yhat_unlabeled, (1, 2))
    if unlabeled.ndim == 1:
        unlabeled = unlabeled[:, None]
    if unlabeled.shape[1] == 0:
        raise InputError("'Yhat_unlabeled' must have at least one column.")
    predicted = finite("Yhat", Yhat, (1, 2))
    return assembled(labels[:, None], predicted, unlabeled, settings, X, X_unlabeled)


def assembled(
    labels: np.ndarray,
    predicted: np.ndarray,
    unlabeled: np.ndarray,
    settings: Settings,
    X: np.ndarray | None = None,
    X_unlabeled: np.ndarray | None = None,
) -> tuple[Labeled, InMemory]:
    """Both samples from checked arrays (n, d), (n,) or (n, K) or (n, d), and (m, K) or (m, K, d)."""
    n, models = len(labels), unlabeled.shape[1]
    if len(predicted) != n:
        raise InputError(f"'Yhat' must have as many rows as 'Y' ({n}); got {len(predicted)}.")
    share = shares(settings.folds, n, models)
    if unlabeled.ndim == 2 and predicted.ndim == 2:
        predicted = _own_column(predicted, share, models)
    if predicted.ndim == 1:
        predicted = predicted[:, None]
    side = drawn(settings.sample, n, "sample")
    if side.weights is not None and np.count_nonzero(side.weights) < 2:
        raise InputError(
            "'sample' must give at least 2 labelled rows a weight above 0; got 1.", mend="a variance needs two answers"
        )
    other = drawn(settings.sample_unlabeled, len(unlabeled), "sample_unlabeled")
    refuse_contradictions(side, other, settings, share)
    labeled = Labeled(labels, predicted, X, models, share, side, settings.population == "finite")
    blocks = InMemory(Block(unlabeled, X_unlabeled, other.weights, other.strata, other.clusters))
    return at_their_rates(labeled, blocks), blocks


def at_their_rates(labeled: Labeled, unlabeled: Blocks) -> Labeled:
    """Strata of a finite population tell with which probability a row was labelled: n_h/N_h. One fold.

    ``assembled`` calls it; who assembles with other unlabelled rows than the estimate's must call it again.

    Raises
    ------
    InputError
        A stratum without a labelled row.
    """
    strata = labeled.drawn.strata
    if not labeled.finite or strata is None:
        return labeled
    names, stratum, count = np.unique(strata, return_inverse=True, return_counts=True)
    rest = unlabeled.fold(_strata_of)
    missing = np.setdiff1d(rest.strata, names)
    if len(missing):
        raise InputError(
            f"stratum {str(missing[0])!r} has no labelled row.", mend="label some, or merge it with a stratum like it"
        )
    rate = count / (count + rest.count_in(names))
    return replace(labeled, drawn=replace(labeled.drawn, probabilities=rate[stratum]))


def _strata_of(block: Block) -> Moments:
    return Moments.of(np.empty((len(block), 0)), block.strata)


def shares(folds: Any, n: int, models: int) -> np.ndarray | None:
    """(n, K) shares of the models in each labelled prediction, from folds (n,) or a mask (n, K)."""
    if folds is None:
        return np.ones((n, 1)) if models == 1 else None
    given = np.asarray(folds)
    if given.ndim == 2:
        if given.shape != (n, models) or given.dtype != bool or not given.any(axis=1).all():
            raise InputError(
                f"'folds' as a mask must be bool of shape ({n}, {models}) with a True in every row, "
                f"the models that did not see it; got {given.dtype} of shape {given.shape}."
            )
        return np.asarray(given / given.sum(axis=1, keepdims=True))
    index = finite("folds", given, (1,))
    if len(index) != n:
        raise InputError(f"'folds' must have as many rows as 'Y' ({n}); got {len(index)}.")
    if not np.array_equal(np.unique(index), np.arange(models)):
        raise InputError(
            f"'folds' must hold each of 0..{models - 1}, one for each column of 'Yhat_unlabeled'; "
            f"got {[shown(x) for x in np.unique(index)[:10].tolist()]}."
        )
    return np.asarray(np.eye(models)[index.astype(np.intp)])


def _own_column(predicted: np.ndarray, share: np.ndarray | None, models: int) -> np.ndarray:
    """(n,) from all models' predictions (n, K): the mean of those that did not see the row."""
    if share is None or predicted.shape[1] != models:
        raise InputError(
            f"'Yhat' with {predicted.shape[1]} columns needs 'folds' and as many columns in 'Yhat_unlabeled'; "
            f"got {models}."
        )
    return np.asarray(np.sum(predicted * share, axis=1))


def refuse_contradictions(side: Drawn, other: Drawn, settings: Settings, share: np.ndarray | None) -> None:
    """Options that do not go together, and clusters cut by folds."""
    if other.probabilities is not None:
        raise InputError(
            "'sample_unlabeled.probabilities' has no meaning.", mend="give the labelled rows' in 'sample.probabilities'"
        )
    if settings.population == "finite":
        for name in ("weights", "probabilities", "clusters"):
            if getattr(side, name) is not None or getattr(other, name) is not None:
                raise InputError(
                    f"a finite population goes with simple or stratified random labels, not with '{name}'.",
                    mend=f"drop '{name}', or take population='infinite'",
                )
    for name in ("strata", "clusters"):
        mine, theirs = getattr(side, name), getattr(other, name)
        if mine is None or theirs is None or not len(theirs):
            continue
        if (mine.dtype.kind in "US") != (theirs.dtype.kind in "US"):
            raise InputError(
                f"'{name}' must be text in both samples, or numbers in both; got {mine.dtype} and {theirs.dtype}."
            )
    together = side.probabilities is not None or settings.population == "finite"
    for name in ("strata", "clusters") if together else ():
        if (getattr(side, name) is None) != (getattr(other, name) is None):
            raise InputError(f"'{name}' must be given for the labelled and the unlabelled rows, or for neither.")
    if side.probabilities is not None and (side.weights is None) != (other.weights is None):
        raise InputError("'weights' must be given for the labelled and the unlabelled rows, or for neither.")
    if side.clusters is not None and share is not None and share.shape[1] > 1:
        _refuse_cut_clusters(side.clusters, share)


def _refuse_cut_clusters(clusters: np.ndarray, share: np.ndarray) -> None:
    names, codes = np.unique(clusters, return_inverse=True)
    first = np.zeros((len(names), share.shape[1]))
    first[codes] = share
    cut = np.any(first[codes] != share, axis=1)
    if cut.any():
        name = clusters[np.argmax(cut)]
        raise InputError(
            f"cluster {str(name)!r} lies in more than one fold.", mend="draw folds of whole clusters: draw_folds"
        )


def selected(names: tuple[str, ...], settings: Settings) -> np.ndarray:
    """Positions of the wished coefficients; all of them by default.

    Raises
    ------
    InputError
        A name or a position that is not there.
    """
    if settings.coefficients is None:
        return np.arange(len(names))
    positions = []
    for wished in settings.coefficients:
        if isinstance(wished, str):
            if wished not in names:
                raise InputError(f"there is no coefficient {wished!r}.", mend=near_match(wished, names))
            positions.append(names.index(wished))
        elif 0 <= wished < len(names):
            positions.append(int(wished))
        else:
            raise InputError(f"there is no coefficient {wished!r}.", mend=f"count from 0 to {len(names) - 1}")
    return np.array(positions, dtype=np.intp)
