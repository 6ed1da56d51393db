"""The difference between two groups of a table."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.difference import difference_of, refuse_common_clusters
from ftrect_ray.estimators.moments import ClusterTotals
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.streaming.passes import Gathered
from ftrect_ray.streaming.prepared import Prepared
from ftrect_ray.streaming.rows import Key
from ftrect_ray.streaming.targets import Table
from ftrect_ray.streaming.words import in_order


@dataclass(frozen=True, eq=False)
class Contrast:
    """The mean of one group less that of the other.

    Attributes
    ----------
    groups : dict of str to Prepared
        Two, independent of each other, by their names.
    settings : Settings
    """

    groups: dict[str, Prepared]
    settings: Settings

    @property
    def names(self) -> tuple[str, str]:
        """Of the groups; the second is taken from the first."""
        first, second = self.groups
        return first, second

    def rectified(self) -> Estimate:
        """Of two rectified means, with a λ each."""
        return difference_of({name: group.rectified() for name, group in self.groups.items()}, self.settings)

    def classical(self) -> Estimate:
        """Of the labels alone: Welch's test."""
        return difference_of({name: group.classical() for name, group in self.groups.items()}, self.settings)


def contrast(table: Table, samples: dict[Key, Gathered]) -> Contrast:
    """The two groups of a table; the first is the one whose name sorts first.

    Raises
    ------
    InputError
        Another number of groups or of λ, a bootstrap, or a cluster that lies in both.
    """
    column, settings = table.question.columns.groups, table.settings
    by_name = {key[-1]: (key, sample) for key, sample in samples.items()}
    names = in_order(by_name)
    if len(names) != 2:
        raise InputError(
            f"column {column!r} must hold two groups; got {len(names)}: {', '.join(map(repr, names[:5]))}"
            + (", …" if len(names) > 5 else ""),
            where=table.reader.where,
            mend="name a column with two values",
        )
    if settings.bootstrap is not None:
        raise InputError("'bootstrap' does not go with 'groups'.", mend="take the t interval")
    lams = settings.lam if np.ndim(settings.lam) else (settings.lam, settings.lam)
    if len(lams) != 2:
        raise InputError(f"'lam' must have one entry a group (2); got {len(lams)}.")
    groups = {}
    for name, lam in zip(names, lams, strict=True):
        own = replace(settings, lam=lam, null=0.0, alternative="two-sided")
        groups[name] = replace(table, settings=own).prepared(*by_name[name])
    one, two = (_clusters(group, by_name[name][1]) for name, group in groups.items())
    refuse_common_clusters(one, two)
    return Contrast(groups, settings)


def _clusters(group: Prepared, gathered: Gathered) -> set[str]:
    """Names of all clusters of a group."""
    own, totals = group.labeled.drawn.clusters, gathered.sums.totals
    names = set() if own is None else set(own.astype(str).tolist())
    return names | set(totals.clusters.astype(str).tolist()) if isinstance(totals, ClusterTotals) else names
