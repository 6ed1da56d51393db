"""Second moments that merge: counts, means and comoments of rows within strata, and totals of clusters.

The sampling unit is the row, or the cluster where there are clusters. ``Moments`` is what every variance in this
room is made of: the covariance of a sum over independent units drawn within strata,

    Σ_h n_h/(n_h − 1) · Σ_{u in h} (z_u − z̄_h)(z_u − z̄_h)',

the linearised variance of survey sampling (Binder 1983; R's survey::svyrecvar). One stratum of rows is the sample
covariance with ddof = 1. Parts are merged by the update of Chan, Golub & LeVeque (1983), which is stable where a
difference of sums of squares is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftrect_ray.errors import StatisticalRefusal

ROUNDING = 1e-15
"""Deviations below this share of the values are rounding: a column of equal numbers has variance exactly 0."""

ONE_STRATUM = np.zeros(1, dtype=np.int8)
"""The name of no strata; a user's own names are of another type (:func:`~ftrect_ray.estimators.samples.drawn`)."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and comoment of p columns over the units of each of s strata.

    Attributes
    ----------
    strata : ndarray (s,)
        Their names, sorted; a single 0 where there are none.
    count : ndarray (s,)
    mean : ndarray (s, p)
    below : ndarray (s, p)
        What comes after the last digit of the mean: their sum is exact to twice as many digits, so that merging
        thousands of parts costs none.
    comoment : ndarray (s, p, p)
        Σ (z − z̄)(z − z̄)'.
    """

    strata: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    below: np.ndarray
    comoment: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, strata: np.ndarray | None = None) -> Moments:
        """Of rows (b, p); ``strata`` (b,) names their strata."""
        if strata is None:
            count, mean, below, comoment = _moments(values)
            return cls(ONE_STRATUM, np.array([count]), mean[None], below[None], comoment[None])
        order = np.argsort(strata, kind="stable")
        names, starts = np.unique(strata[order], return_index=True)
        parts = [_moments(rows) for rows in np.split(values[order], starts[1:])][: len(names)]
        width = values.shape[1]
        return cls(
            names,
            np.array([part[0] for part in parts], dtype=np.int64),
            np.array([part[1] for part in parts]).reshape(len(names), width),
            np.array([part[2] for part in parts]).reshape(len(names), width),
            np.array([part[3] for part in parts]).reshape(len(names), width, width),
        )

    def merge(self, other: Moments) -> Moments:
        """Of both sets of units together."""
        if np.array_equal(self.strata, other.strata):
            one, two = self, other
        else:
            names = np.union1d(self.strata, other.strata)
            one, two = self._over(names), other._over(names)
        count = one.count + two.count
        share = two.count / np.maximum(count, 1)
        gap = (two.mean - one.mean) + (two.below - one.below)
        gap[np.abs(gap) <= ROUNDING * np.abs(one.mean)] = 0.0
        cross = (one.count * share)[:, None, None] * gap[:, :, None] * gap[:, None, :]
        mean, lost = _sum_and_rest(one.mean, share[:, None] * gap)
        return Moments(one.strata, count, mean, one.below + lost, one.comoment + two.comoment + cross)

    def _over(self, names: np.ndarray) -> Moments:
        where = np.searchsorted(names, self.strata)

        def placed(part: np.ndarray) -> np.ndarray:
            whole = np.zeros((len(names), *part.shape[1:]), dtype=part.dtype)
            whole[where] = part
            return whole

        return Moments(names, *map(placed, (self.count, self.mean, self.below, self.comoment)))

    def times(self, matrix: np.ndarray) -> Moments:
        """Moments of ``z @ matrix``, with ``matrix`` (p, d)."""
        comoment = matrix.T @ self.comoment @ matrix
        return Moments(self.strata, self.count, self.mean @ matrix, self.below @ matrix, comoment)

    def plus(self, constant: np.ndarray) -> Moments:
        """Moments of ``z + constant``, with ``constant`` (p,)."""
        mean, lost = _sum_and_rest(self.mean, constant)
        return Moments(self.strata, self.count, mean, self.below + lost, self.comoment)

    def count_in(self, strata: np.ndarray) -> np.ndarray:
        """Units in each of the named strata; 0 where there is none."""
        known = dict(zip(self.strata.tolist(), self.count.tolist(), strict=True))
        return np.array([known.get(name, 0) for name in strata.tolist()])

    @property
    def stratified(self) -> bool:
        """Whether the strata are the user's."""
        return self.strata.dtype != ONE_STRATUM.dtype

    @property
    def units(self) -> int:
        """Sampling units."""
        return int(self.count.sum())

    @property
    def freedom(self) -> int:
        """Degrees of freedom: units less strata."""
        return self.units - int(np.count_nonzero(self.count))

    @property
    def total(self) -> np.ndarray:
        """Sum over the units (p,)."""
        return self.count @ self.mean

    def covariance(self, keep: np.ndarray | None = None) -> np.ndarray:
        """Covariance (p, p) of the sum over the units.

        Parameters
        ----------
        keep : ndarray (s,), optional
            Finite population correction of each stratum, 1 − n_h/N_h.

        Raises
        ------
        StatisticalRefusal
            A stratum with a single unit; it is named.
        """
        if (self.count == 1).any():
            lonely = self.strata[np.argmax(self.count == 1)]
            raise StatisticalRefusal(
                f"stratum {str(lonely)!r} has one sampling unit, so its variance is unknown"
                if self.stratified
                else "one sampling unit has no variance",
                mend="merge it with a stratum like it, or sample more units",
            )
        factor = np.where(self.count > 1, self.count / np.maximum(self.count - 1, 1), 0.0)
        return np.asarray(np.tensordot(factor if keep is None else factor * keep, self.comoment, axes=1))


def _sum_and_rest(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``one + two`` as a float, and what rounding took from it (Knuth's two-sum)."""
    total = one + two
    from_two = total - one
    return total, (one - (total - from_two)) + (two - from_two)


def _moments(values: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and below (p,), comoment (p, p) of rows (b, p), in two corrected passes (Chan et al., 1983)."""
    count, width = values.shape
    if count == 0:
        return 0, np.zeros(width), np.zeros(width), np.zeros((width, width))
    if width == 1:  # pairwise summation and one dot product: a column of 10⁷ rows costs less than numpy's var
        column = np.ascontiguousarray(values[:, 0])
        level = column.sum() / count
        off = column - level
        slip = off.sum() / count
        spread = max(float(off @ off) - count * slip**2, 0.0)
        if spread <= count * (ROUNDING * level) ** 2:
            spread = 0.0
        return count, *_sum_and_rest(np.array([level]), np.array([slip])), np.array([[spread]])
    ones = np.ones(count)  # a product with it sums down columns several times faster than sum(axis=0)
    mean = ones @ values / count
    deviation = values - mean
    slips = ones @ deviation / count
    comoment = deviation.T @ deviation - count * np.outer(slips, slips)
    mean, below = _sum_and_rest(mean, slips)
    equal = np.diagonal(comoment) <= count * (ROUNDING * mean) ** 2
    comoment[equal, :] = 0.0
    comoment[:, equal] = 0.0
    return count, mean, below, comoment


@dataclass(frozen=True, eq=False)
class ClusterTotals:
    """Totals of p columns over the rows of each cluster; clusters may be spread over many parts.

    Attributes
    ----------
    strata, clusters : ndarray (c,)
        The cluster's stratum (all 0 where there are none) and its name; a cluster lies within one stratum.
    totals : ndarray (c, p)
    """

    strata: np.ndarray
    clusters: np.ndarray
    totals: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, clusters: np.ndarray, strata: np.ndarray | None = None) -> ClusterTotals:
        """Of rows (b, p) with their clusters and strata (b,)."""
        none = np.zeros(len(values), dtype=ONE_STRATUM.dtype)
        return cls(none if strata is None else strata, clusters, values)._gathered()

    def _gathered(self) -> ClusterTotals:
        names, first, codes = np.unique(self.clusters, return_index=True, return_inverse=True)
        strata = self.strata[first]
        astray = self.strata != strata[codes]
        if astray.any():
            name = self.clusters[np.argmax(astray)]
            raise StatisticalRefusal(
                f"cluster {str(name)!r} lies in more than one stratum", mend="name clusters uniquely across strata"
            )
        width = self.totals.shape[1]
        totals = np.empty((len(names), width))
        for column in range(width):
            totals[:, column] = np.bincount(codes, weights=self.totals[:, column], minlength=len(names))
        return ClusterTotals(strata, names, totals)

    def merge(self, other: ClusterTotals) -> ClusterTotals:
        """Of the rows of both."""
        return ClusterTotals(
            np.concatenate([self.strata, other.strata]),
            np.concatenate([self.clusters, other.clusters]),
            np.concatenate([self.totals, other.totals]),
        )._gathered()

    def times(self, matrix: np.ndarray) -> ClusterTotals:
        """Totals of ``z @ matrix``, with ``matrix`` (p, d)."""
        return ClusterTotals(self.strata, self.clusters, self.totals @ matrix)

    @property
    def stratified(self) -> bool:
        """Whether the strata are the user's."""
        return self.strata.dtype != ONE_STRATUM.dtype

    @property
    def total(self) -> np.ndarray:
        """Sum over the clusters (p,)."""
        return np.asarray(self.totals.sum(axis=0))

    def moments(self) -> Moments:
        """The clusters as sampling units."""
        return Moments.of(self.totals, self.strata if self.stratified else None)


Totals = Moments | ClusterTotals


def totals_of(values: np.ndarray, strata: np.ndarray | None = None, clusters: np.ndarray | None = None) -> Totals:
    """Moments of rows (b, p), or totals of their clusters where there are any."""
    return Moments.of(values, strata) if clusters is None else ClusterTotals.of(values, clusters, strata)


def merged(one: Totals, two: Totals) -> Totals:
    """Of the rows of both, which are both with clusters or both without."""
    if isinstance(one, Moments) and isinstance(two, Moments):
        return one.merge(two)
    if isinstance(one, ClusterTotals) and isinstance(two, ClusterTotals):
        return one.merge(two)
    raise TypeError("rows with clusters and rows without cannot be merged")


def moments_of(totals: Totals) -> Moments:
    """Moments of the sampling units."""
    return totals if isinstance(totals, Moments) else totals.moments()
