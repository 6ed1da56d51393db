"""Which labels train and measure each pilot, under every scheme."""

from __future__ import annotations

import numpy as np
import pytest

from ftrect_ray.allocation.pilot_rows import PilotDraw, largest_size, pilot_draws
from ftrect_ray.errors import InputError

SIZES = (10, 20, 40)
SCHEMES = ("shared", "ramp-up", "cross-validated", "cross-fitted")


def draws(
    scheme: str,
    n: int = 100,
    sizes: tuple[int, ...] = SIZES,
    seeds: int = 2,
    clusters: np.ndarray | None = None,
    folds: int = 5,
) -> list[PilotDraw]:
    return pilot_draws(n, sizes, seeds, scheme, validation=25, folds=folds, seed=7, clusters=clusters)


def by_name(found: list[PilotDraw]) -> dict[str, tuple[list[int], list[int]]]:
    return {draw.name: (draw.own.tolist(), draw.measure.tolist()) for draw in found}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("clustered", [False, True])
def test_no_label_trains_and_measures_one_pilot_nor_does_its_cluster(scheme: str, clustered: bool) -> None:
    clusters = np.arange(100) // 2 if clustered else None
    for draw in draws(scheme, clusters=clusters):
        own, measure = (part if clusters is None else clusters[part] for part in (draw.own, draw.measure))
        assert not set(own) & set(measure)
        assert len(set(draw.own)) == len(draw.own)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_same_seed_same_draws_and_another_seed_others(scheme: str) -> None:
    first, other = draws(scheme), pilot_draws(100, SIZES, 2, scheme, 25, 5, 8)
    assert by_name(first) == by_name(draws(scheme))
    assert by_name(first) != by_name(other)


@pytest.mark.parametrize(
    ("scheme", "sizes"),
    [
        ("shared", (10, 15, 20, 40)),
        ("ramp-up", (*SIZES, 60)),
        ("cross-validated", (*SIZES, 80)),
        ("cross-fitted", (*SIZES, 80)),
    ],
)
def test_a_larger_plan_contains_the_smaller_one(scheme: str, sizes: tuple[int, ...]) -> None:
    assert by_name(draws(scheme)).items() <= by_name(draws(scheme, sizes=sizes, seeds=3)).items()


@pytest.mark.parametrize("scheme", ["shared", "ramp-up"])
def test_one_validation_set_measures_all(scheme: str) -> None:
    found = draws(scheme)
    assert {tuple(draw.measure) for draw in found} == {tuple(found[0].measure)}
    assert len(found[0].measure) == 25
    assert [(len(draw.own), draw.size, draw.repetition) for draw in found] == [(s, s, r) for r in (0, 1) for s in SIZES]


@pytest.mark.parametrize("scheme", ["shared", "ramp-up"])
def test_sizes_are_nested_within_a_repetition(scheme: str) -> None:
    small, middle, large, again, *_ = draws(scheme)
    assert set(small.own) < set(middle.own) < set(large.own)
    assert small.own.tolist() != again.own.tolist()
    assert (set(small.own) == set(again.own)) == (scheme == "ramp-up")  # a ramp-up that stops has spent N_s alone


def test_cross_validation_measures_each_nested_label_once_by_a_model_of_the_other_folds() -> None:
    found = draws("cross-validated")
    assert [draw.name for draw in found[:6]] == [f"pilot-s10-r0-f{k}" for k in range(5)] + ["pilot-s20-r0-f0"]
    nested = []
    for size in SIZES:
        folds = [draw for draw in found if (draw.size, draw.repetition) == (size, 0)]
        measured = np.concatenate([draw.measure for draw in folds])
        assert len(folds) == 5
        assert len(set(measured)) == len(measured) == size
        assert all(set(draw.own) | set(draw.measure) == set(measured) for draw in folds)
        assert {len(draw.own) for draw in folds} == {size * 4 // 5}
        nested.append(set(measured))
    assert nested[0] < nested[1] < nested[2]
    assert {len(draw.own) for draw in draws("cross-validated", sizes=(100,))} == {80}  # the whole budget


def test_cross_fitting_measures_each_size_on_every_label_once_and_the_folds_are_those_of_all_sizes() -> None:
    found = draws("cross-fitted")
    assert [draw.name for draw in found[:6]] == [f"pilot-s10-r0-f{k}" for k in range(5)] + ["pilot-s20-r0-f0"]
    sizes = {size: [draw for draw in found if (draw.size, draw.repetition) == (size, 0)] for size in SIZES}
    for size, folds in sizes.items():
        assert sorted(np.concatenate([draw.measure for draw in folds])) == list(range(100))
        assert {len(draw.own) for draw in folds} == {size}
    for small, middle, large in zip(*sizes.values(), strict=True):
        assert small.measure.tolist() == middle.measure.tolist() == large.measure.tolist()
        assert set(small.own) < set(middle.own) < set(large.own)
    again = [draw.measure.tolist() for draw in found if draw.repetition == 1]
    assert sizes[10][0].measure.tolist() not in again
    clustered = draws("cross-fitted", clusters=np.arange(100) // 2)
    assert {len(draw.measure) for draw in clustered} == {20}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_largest_size_is_the_largest_that_can_be_drawn(scheme: str) -> None:
    for n in (100, 101):
        largest = largest_size(n, scheme, 25, 5)
        found = draws(scheme, n=n, sizes=(10, largest), seeds=1)
        assert max(draw.size for draw in found) == largest
        with pytest.raises(InputError, match=f"asks for {largest + 1} "):
            draws(scheme, n=n, sizes=(10, largest + 1), seeds=1)


def test_a_cluster_that_the_validation_rows_cut_trains_no_pilot() -> None:
    clusters = np.arange(100) // 7
    found = draws("shared", clusters=clusters)
    assert not set(clusters[found[0].measure]) & set(clusters[found[-1].own])


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(InputError, match=r"unknown pilot scheme 'ramp_up' — did you mean 'ramp-up'\?"):
        draws("ramp_up")
    with pytest.raises(InputError, match="asks for 80 of 100 labels; 75 are left beside 25 validation rows"):
        draws("ramp-up", sizes=(10, 80))
    with pytest.raises(InputError, match="asks for 101 of 100 labels"):
        draws("cross-validated", sizes=(101,))
    with pytest.raises(InputError, match="10 labels of 4 clusters are too few for 5 folds"):
        draws("cross-validated", clusters=np.arange(100) // 3)
    with pytest.raises(InputError, match="30 labels are too few for 20 folds of 2 .* lower pilots.folds, or raise 'l"):
        draws("cross-fitted", n=30, sizes=(10, 20), folds=20)
    one_alone = np.r_[np.zeros(98), 1, 2]  # three clusters in three folds, two of them of one row
    with pytest.raises(InputError, match="100 labels of 3 clusters are too few for 3 folds of 2"):
        draws("cross-fitted", folds=3, clusters=one_alone)
    with pytest.raises(InputError, match="asks for 81 of 100 labels; outside one of 5 folds there are 80"):
        draws("cross-fitted", sizes=(10, 81))
    with pytest.raises(InputError, match=r"100 labels of 2 clusters are too few for 5 folds .* or raise 'labels'"):
        draws("cross-fitted", clusters=np.arange(100) // 50)
