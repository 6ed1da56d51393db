"""Sequential rectification: each batch by the model that trained on the batches before (METHOD, "Three more ways")."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.combination import variance
from ftrect_ray.estimators.conclusion import effective_labels
from ftrect_ray.estimators.diagnostics import noted, notes_of, sample_variance
from ftrect_ray.estimators.folds import whole_numbers
from ftrect_ray.estimators.labeled import Labeled, checked
from ftrect_ray.estimators.means import rectified_means
from ftrect_ray.estimators.resampling import estimated
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Options, Settings
from ftrect_ray.estimators.validation import answers, finite, shown

if TYPE_CHECKING:
    from typing_extensions import Unpack


def sequential(
    Y: ArrayLike,
    Yhat: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    batches: ArrayLike,
    *,
    variances: ArrayLike | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """The population mean, from labels that came in L batches and joined the training rows afterwards.

    Batch l is rectified by the model f_l that trained on the batches before it,

        θ̂ = Σ_l ω_l·(mean_l(Y − λf_l) + λ·mean_u f_l),   ω_l ∝ n_l/v̂_l,

    with v̂_l a forecast of Var(Y − f_l). Given the batches before, each term has expectation θ, so the errors form a
    martingale: the interval is valid whatever the learner does, with no condition of stability (cross-fitting needs
    one). This holds exactly for a given λ and for forecasts made before the batch is labelled; tuning λ on all
    batches costs what it costs any estimate (PPI++ theorem 1).

    At λ = 0 no model is used, nothing is forecast, and the estimate is the classical mean. It is so too where λ is
    tuned and the forecasts were so bad that the result is no surer than the classical mean.

    Parameters
    ----------
    Y : array (n,)
        Answers.
    Yhat : array (n,) or (n, L)
        Predictions; with L columns, column l is used for batch l.
    Yhat_unlabeled : array (m, L)
        Predictions of each batch's model on the unlabelled rows. Column 0 belongs to the first batch, whose model saw
        no label: zeros, or zero-shot predictions.
    batches : array (n,) of int
        0..L − 1.
    variances : array (L,), optional
        v̂_l > 0, forecast without the labels of batch l and later ones, as by the scaling law; their scale is free.
        Default: v̂_0 = Var(Y) in batch 0, and v̂_l = min(Var(Y − f), Var(Y)) in batch l − 1, with that batch's own
        model (ddof 1, unweighted). v̂_0 alone looks at its own labels, which costs a bias of order 1/n. Where one of
        these is 0, all batches get the same, with a warning.
    **options
        See :class:`~ftrect_ray.estimators.settings.Options`. Weights of ``sample`` multiply 1/v̂_l; ``folds`` are the
        batches, and ``population="finite"`` does not go with unequal weights.

    Returns
    -------
    Estimate
        ``effective_n`` compares with the classical mean of all batches.

    Raises
    ------
    InputError
        Batches that are not 0..L − 1, one of them with a single row and no ``variances``, or forecasts that are not
        above 0; see also :func:`~ftrect_ray.estimators.mean.mean`.

    Examples
    --------
    >>> Y, f = [1.0, 3.0, 2.0, 5.0], [0.0, 0.0, 2.0, 4.0]
    >>> f_unlabeled = [[0.0, 2.0], [0.0, 3.0], [0.0, 4.0]]
    >>> est = sequential(Y, f, f_unlabeled, [0, 0, 1, 1], variances=[2.0, 0.5], lam=1.0)
    >>> round(est.value, 4)  # (2 · 1/2 + 3.5 · 2) / (1/2 + 2)
    3.2
    """
    settings = Settings.of(options)
    sample = settings.sample or Sample()
    for name, wrong in (
        ("folds", settings.folds is not None),
        ("population", settings.population == "finite"),
        ("sample.probabilities", sample.probabilities is not None),
    ):
        if wrong:
            raise InputError(f"'{name}' does not go with batches, which are the folds and weigh unequally.")
    batch = whole_numbers("batches", batches)
    labels, predicted = answers(Y), finite("Yhat_unlabeled", Yhat_unlabeled, (1, 2))
    _refuse_misfit(batch, labels.shape, predicted.shape)
    labeled, unlabeled = checked(labels, Yhat, predicted, replace(settings, folds=batch))
    forecast, notes = _forecasts(labeled, batch, variances)
    given = 1.0 if labeled.drawn.weights is None else labeled.drawn.weights
    weighted = replace(labeled, drawn=replace(labeled.drawn, weights=given / forecast[batch]))
    classical = estimated(rectified_means, labeled, unlabeled, replace(settings, lam=0.0))
    estimate = estimated(rectified_means, weighted, unlabeled, settings)
    no_surer = settings.tunes and settings.lam_range[0] == 0 and estimate.std_error >= classical.std_error
    if estimate.lam == 0 or no_surer:
        notes = tuple(notes_of(estimate.diagnostics))
        return replace(classical, diagnostics=noted(classical.diagnostics, notes=notes))
    worth = effective_labels(labeled.n, variance(classical), variance(estimate))
    return replace(estimate, effective_n=float(worth[0]), diagnostics=noted(estimate.diagnostics, notes=notes))


def _refuse_misfit(batch: np.ndarray, labels: tuple[int, ...], unlabeled: tuple[int, ...]) -> None:
    if labels != batch.shape:
        raise InputError(f"'batches' must have as many rows as 'Y'; got shapes {batch.shape} and {labels}.")
    count, columns = int(batch.max()) + 1, unlabeled[1] if len(unlabeled) == 2 else 1
    if columns != count:
        raise InputError(f"'Yhat_unlabeled' must have one column a batch ({count}); got {columns}.")


def _forecasts(labeled: Labeled, batch: np.ndarray, given: ArrayLike | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """v̂ (L,), and what to tell the reader."""
    count = int(batch.max()) + 1
    if given is not None:
        array = finite("variances", given, (1,))
        if len(array) != count:
            raise InputError(f"'variances' must have one entry a batch ({count}); got {len(array)}.")
        if (array <= 0).any():
            raise InputError(f"'variances' must be above 0; got {shown(array[array <= 0][0])}.")
        return array, ()
    label, residual = [], []
    for before in range(max(count - 1, 1)):
        rows = batch == before
        if np.count_nonzero(rows) < 2:
            raise InputError(f"batch {before} has one row, which has no variance.", mend="give 'variances'")
        label.append(sample_variance(labeled.Y[rows]))
        residual.append(sample_variance(labeled.Y[rows] - labeled.Yhat[rows]))
    forecast = np.array([label[0], *np.minimum(label, residual)])[:count]
    if (forecast == 0).any():
        return np.ones(count), ("a batch has variance 0: the batches are weighted by their numbers of labels",)
    return forecast, ()
