"""What is asked of a table: a target, its columns, and which settings go with it."""

from __future__ import annotations

from dataclasses import dataclass

from ftrect_ray.errors import InputError, near_match
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.estimators.validation import open_unit
from ftrect_ray.streaming.columns import Columns

REGRESSIONS = ("ols", "logistic", "poisson", "multinomial")
TARGETS = ("mean", "proportions", "difference", "quantile", *REGRESSIONS)
CHOICES = ("proportions", "multinomial")
VECTORS = ("proportions", *REGRESSIONS)


@dataclass(frozen=True)
class Question:
    """A target over the columns of a table.

    Attributes
    ----------
    columns : Columns
    target : str
        One of ``TARGETS``.
    q : float, optional
        Of a quantile; default 0.5.
    scale : (float, float), optional
        The lowest and the highest answer that can be.
    missing : tuple of str
        Texts that stand for an empty cell; no others do, so that "None" and "NA" can be answers.
    by : str, optional
        A column; there is one estimate for each of its values.
    """

    columns: Columns
    target: str = "mean"
    q: float | None = None
    scale: tuple[float, float] | None = None
    missing: tuple[str, ...] = ()
    by: str | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise InputError(f"there is no target {self.target!r}.", mend=near_match(self.target, TARGETS))
        if self.q is not None:
            self._goes_with("q", ("quantile",))
            open_unit("q", self.q)
        for name, targets in (
            ("features", REGRESSIONS),
            ("groups", ("difference",)),
            ("label_other", ("difference",)),
        ):
            if getattr(self.columns, name):
                self._goes_with(name, targets)
        if self.target in REGRESSIONS and not self.columns.regressors:
            raise InputError(f"the target {self.target!r} needs 'features'.", mend="name numeric columns")
        if self.target == "difference" and not (self.columns.groups or self.columns.label_other):
            raise InputError(
                "the target 'difference' needs 'groups', or 'label_other' and 'prediction_other'.",
                mend="name a column with two values, or the second answer to each row and its prediction",
            )
        if self.scale is not None:
            self._goes_with("scale", tuple(name for name in TARGETS if name not in CHOICES))
            low, high = self.scale
            if not low < high:
                raise InputError(f"'scale' must be LOW,HIGH with LOW < HIGH; got {low:g},{high:g}.")
        if self.by is not None and self.by in (self.columns.groups, self.columns.label, *self.columns.predictions):
            raise InputError(f"'by' cannot be the column {self.by!r}, which has another part already.")

    def refuse(self, settings: Settings) -> None:
        """Raise where settings do not go with the target."""
        if settings.coefficients is not None:
            self._goes_with("coefficients", VECTORS)
        if settings.simultaneous:
            self._goes_with("simultaneous", VECTORS)

    def _goes_with(self, name: str, targets: tuple[str, ...]) -> None:
        if self.target not in targets:
            raise InputError(f"'{name}' goes with {_listed(targets)}; the target is {self.target!r}.")

    @property
    def in_words(self) -> bool:
        """Whether answers are words, not numbers."""
        return self.target == "proportions"

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that split the table into samples."""
        return tuple(name for name in (self.by, self.columns.groups) if name is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are read, each once."""
        return tuple(dict.fromkeys([*self.columns.names, *self.keys]))


def _listed(names: tuple[str, ...]) -> str:
    """``a, b or c``."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
