"""How rows came into a sample: what is understood, and every refusal."""

import numpy as np
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.samples import Sample, drawn


def refused(sample, rows=3, side="sample"):
    with pytest.raises(InputError) as caught:
        drawn(sample, rows, side)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_nothing_known_is_a_simple_random_sample():
    for sample in (None, Sample()):
        found = drawn(sample, 3, "sample")
        assert found.plain
        assert not found.known_total
        assert (found.weights, found.probabilities, found.strata, found.clusters) == (None,) * 4


@pytest.mark.parametrize("name", ["weights", "density_ratio", "probabilities", "strata", "clusters"])
def test_anything_known_is_not(name):
    assert not drawn(Sample(**{name: [1, 1, 1]}), 3, "sample").plain


def test_weights_and_density_ratios_multiply():
    assert drawn(Sample(weights=[1, 2, 0]), 3, "s").weights.tolist() == [1.0, 2.0, 0.0]
    assert drawn(Sample(density_ratio=[1, 2, 0]), 3, "s").weights.tolist() == [1.0, 2.0, 0.0]
    assert drawn(Sample(weights=[1, 2, 3], density_ratio=[4, 5, 6]), 3, "s").weights.tolist() == [4.0, 10.0, 18.0]


def test_probabilities_up_to_one():
    found = drawn(Sample(probabilities=[1, 0.5, 1e-9], total="known"), 3, "s")
    assert found.probabilities.tolist() == [1.0, 0.5, 1e-9]
    assert found.known_total
    assert not drawn(Sample(probabilities=[1, 1, 1]), 3, "s").known_total


def test_names_are_kept_and_never_of_the_type_that_means_none():
    assert drawn(Sample(strata=["a", "None", "NA"]), 3, "s").strata.tolist() == ["a", "None", "NA"]
    for dtype in (np.int8, np.uint16, bool, np.int64):
        assert drawn(Sample(strata=np.array([0, 1, 1], dtype=dtype)), 3, "s").strata.dtype == np.int64
    assert drawn(Sample(clusters=np.array([1, "x", 2.5], dtype=object)), 3, "s").clusters.tolist() == ["1", "x", "2.5"]
    assert drawn(Sample(clusters=[0.5, 1.5, 0.5]), 3, "s").clusters.tolist() == [0.5, 1.5, 0.5]


NEVER = " — a row that could not have been chosen cannot be labelled"
NAME = " — give these rows a name of their own"


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (5, "'sample' must be a Sample; got int. — write Sample(weights=w)"),
        (Sample(weights=[1, 2]), "'sample.weights' must have one entry a row (3); got 2."),
        (Sample(weights=[1, -2, -1]), "'sample.weights' must not be negative; got -2 at position 1 (2 such rows)."),
        (Sample(weights=[0, 0, 0]), "'sample.weights' must not be all 0."),
        (
            Sample(density_ratio=[1, 1, -0.5]),
            "'sample.density_ratio' must not be negative; got -0.5 at position 2 (1 such rows).",
        ),
        (
            Sample(weights=[1, np.nan, 1]),
            "'sample.weights' must be finite; got nan at position 1. — drop that row, or treat it as unlabelled",
        ),
        (Sample(weights=[[1, 1, 1]]), "'sample.weights' must have 1 dimension(s); got shape (1, 3)."),
        (
            Sample(probabilities=[0.5, 0, 2]),
            "'sample.probabilities' must be in (0, 1], 1e-100 or above; got 0 at position 1 (2 such rows)." + NEVER,
        ),
        (
            Sample(probabilities=[0.5, 1, 1.0001]),
            "'sample.probabilities' must be in (0, 1], 1e-100 or above; got 1.0001 at position 2 (1 such rows)."
            + NEVER,
        ),
        (Sample(total="both"), "'sample.total' must be 'estimated' or 'known'; got 'both'."),
        (Sample(total="known"), "'sample.total' may be 'known' with 'sample.probabilities' only."),
        (Sample(strata=["a", "b"]), "'sample.strata' must have one entry a row (3); got shape (2,)."),
        (Sample(strata=[["a", "b", "c"]]), "'sample.strata' must have one entry a row (3); got shape (1, 3)."),
        (
            Sample(clusters=np.array(["a", None, None], dtype=object)),
            "'sample.clusters' must name every row; 2 are missing, the first at position 1." + NAME,
        ),
        (
            Sample(clusters=[1.0, 2.0, np.nan]),
            "'sample.clusters' must name every row; 1 are missing, the first at position 2." + NAME,
        ),
        (
            Sample(strata=np.array(["2020-01-01", "NaT", "NaT"], dtype="M8[D]")),
            "'sample.strata' must name every row; 2 are missing, the first at position 1." + NAME,
        ),
    ],
)
def test_refusals(sample, message):
    assert refused(sample) == message


def test_the_side_is_named():
    assert refused(Sample(weights=[1]), side="sample_unlabeled").startswith("'sample_unlabeled.weights' must")


def test_no_rows_need_no_weight():
    assert drawn(Sample(weights=[]), 0, "sample_unlabeled").weights.tolist() == []
