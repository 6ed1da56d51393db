"""Which column of a table means what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftrect_ray.errors import InputError


@dataclass(frozen=True)
class Columns:
    """The columns of a table in which rows without a label are the unlabelled ones.

    Attributes
    ----------
    label : str
        The answers; empty in unlabelled rows.
    prediction : str or sequence of str
        By models that never saw the row's label. Several, with ``fold``: column k holds the predictions of the model
        that did not see fold k; of a labelled row only the column of its own fold is used.
    fold : str, optional
        The fold 0, 1, … of each labelled row.
    features : str or sequence of str
        Numeric regressors; an intercept is added.
    label_other, prediction_other : str, optional
        The second answer to the same row and its prediction, of a paired difference.
    groups : str, optional
        Two values, of a difference between independent groups.
    weight, density_ratio, strata, cluster : str, optional
        Of every row, see :class:`~ftrect_ray.estimators.samples.Sample`.
    probability : str, optional
        With which a labelled row was chosen for labelling.
    """

    label: str
    prediction: str | Sequence[str]
    fold: str | None = None
    features: str | Sequence[str] = ()
    label_other: str | None = None
    prediction_other: str | None = None
    groups: str | None = None
    weight: str | None = None
    strata: str | None = None
    cluster: str | None = None
    probability: str | None = None
    density_ratio: str | None = None

    def __post_init__(self) -> None:
        if not self.predictions:
            raise InputError("'prediction' must name at least one column.")
        if len(self.predictions) > 1 and self.fold is None:
            raise InputError(
                f"{len(self.predictions)} columns of predictions need the column 'fold'.",
                mend="name the column that holds each labelled row's fold, or give one column of predictions",
            )
        if self.fold is not None and len(self.predictions) == 1:
            raise InputError("'fold' goes with several columns of predictions, one of each fold's model.")
        if (self.label_other is None) != (self.prediction_other is None):
            raise InputError("'label_other' and 'prediction_other' go together.")
        if self.label_other is not None and self.groups is not None:
            raise InputError("a difference is either between 'groups' or with 'label_other'; got both.")
        if self.label_other is not None and len(self.predictions) > 1:
            raise InputError("'prediction_other' goes with one column of predictions.")
        values = [self.label, *self.predictions, *(() if self.label_other is None else (self.label_other,))]
        values += [] if self.prediction_other is None else [self.prediction_other]
        twice = next((name for name in values if values.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"column {twice!r} cannot be two of labels and predictions.")

    @property
    def predictions(self) -> tuple[str, ...]:
        """Columns of predictions, one a model."""
        return (self.prediction,) if isinstance(self.prediction, str) else tuple(self.prediction)

    @property
    def regressors(self) -> tuple[str, ...]:
        """Columns of features."""
        return (self.features,) if isinstance(self.features, str) else tuple(self.features)

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, each once."""
        several = [self.label, *self.predictions, *self.regressors]
        single = [self.fold, self.label_other, self.prediction_other, self.groups, self.weight, self.strata]
        single += [self.cluster, self.probability, self.density_ratio]
        return tuple(dict.fromkeys([*several, *(name for name in single if name is not None)]))
