"""Options: defaults, what is understood, and every refusal."""

import numpy as np
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Bootstrap, Options, Settings


def refused(**options):
    with pytest.raises(InputError) as caught:
        Settings.of(options)
    return str(caught.value)


def test_defaults():
    found = Settings.of({})
    assert (found.alpha, found.lam, found.lam_range, found.folds) == (0.05, "tuned", (0.0, 1.0), None)
    assert (found.alternative, found.null, found.coefficients, found.simultaneous) == ("two-sided", 0.0, None, False)
    assert (found.sample, found.sample_unlabeled, found.population) == (None, None, "infinite")
    assert (found.quantiles, found.bootstrap) == ("t", None)
    assert found.tunes
    assert set(Settings.__dataclass_fields__) == set(Options.__annotations__)


def test_none_is_the_default():
    names = set(Settings.__dataclass_fields__) - {"alpha", "lam"}
    found = Settings.of(dict.fromkeys(names))
    assert all(getattr(found, name) == getattr(Settings(), name) for name in names)


def test_what_is_given_is_kept():
    sample, bootstrap = Sample(weights=[1.0]), Bootstrap()
    found = Settings.of(
        {
            "alpha": np.float64(0.1),
            "lam_range": [0.2, 1.5],
            "null": [1, 2],
            "coefficients": ["a", np.int64(1)],
            "simultaneous": True,
            "sample": sample,
            "population": "finite",
            "quantiles": "normal",
            "alternative": "smaller",
            "bootstrap": bootstrap,
        }
    )
    assert (found.alpha, found.lam_range, found.coefficients) == (0.1, (0.2, 1.5), ("a", 1))
    assert found.null.tolist() == [1.0, 2.0]
    assert (found.simultaneous, found.population, found.quantiles) == (True, "finite", "normal")
    assert (found.alternative, found.bootstrap, found.sample) == ("smaller", bootstrap, sample)
    assert isinstance(Settings.of({"null": 3}).null, float)


@pytest.mark.parametrize(("given", "kept"), [("b", ("b",)), (0, (0,)), (np.int32(2), (2,)), ((1, "x"), (1, "x"))])
def test_one_coefficient_or_some(given, kept):
    assert Settings.of({"coefficients": given}).coefficients == kept


@pytest.mark.parametrize("lam", ["tuned", "per-coordinate", "crossfit"])
def test_lam_that_is_found(lam):
    assert Settings.of({"lam": lam}).lam == lam
    assert Settings.of({"lam": lam}).tunes


@pytest.mark.parametrize("lam", [0, 1, 0.5, np.float32(0.25), np.int64(1)])
def test_lam_that_is_given(lam):
    found = Settings.of({"lam": lam})
    assert found.lam == lam
    assert isinstance(found.lam, float)
    assert not found.tunes


@pytest.mark.parametrize("lam", [[0.0, 1.0], (0.5,), np.array([0.25, 0.5, 1])])
def test_lam_of_each_coordinate(lam):
    found = Settings.of({"lam": lam})
    assert found.lam.tolist() == list(lam)
    assert not found.tunes


RULE = "'lam' must be 'tuned', 'per-coordinate', 'crossfit' or a number in [0, 1]; got "


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpah": 0.1}, "there is no option 'alpah'. — did you mean 'alpha'?"),
        ({"alpha": 0}, "'alpha' must be in (0, 1); got 0."),
        ({"alpha": 1.0}, "'alpha' must be in (0, 1); got 1."),
        ({"alpha": float("nan")}, "'alpha' must be in (0, 1); got nan."),
        ({"alpha": None}, "'alpha' must be in (0, 1); got None."),
        ({"lam": -0.001}, RULE + "-0.001."),
        ({"lam": 1.001}, RULE + "1.001."),
        ({"lam": "auto"}, RULE + "'auto'."),
        ({"lam": True}, RULE + "True."),
        ({"lam": None}, RULE + "None."),
        ({"lam": []}, RULE + "[]."),
        ({"lam": [0.5, 1.5]}, RULE + "[0.5, 1.5]."),
        ({"lam": [-0.5, 0.5]}, RULE + "[-0.5, 0.5]."),
        ({"lam": [[0.5]]}, RULE + "[[0.5]]."),
        (
            {"lam": [0.5, np.nan]},
            "'lam' must be finite; got nan at position 1. — drop that row, or treat it as unlabelled",
        ),
        ({"lam_range": (0.5, 0.4)}, "'lam_range' must be (low, high) with 0 <= low <= high; got (0.5, 0.4)."),
        ({"lam_range": (-0.1, 0.4)}, "'lam_range' must be (low, high) with 0 <= low <= high; got (-0.1, 0.4)."),
        ({"lam_range": (0.5,)}, "'lam_range' must be (low, high) with 0 <= low <= high; got (0.5,)."),
        ({"null": "x"}, "'null' must hold numbers only. — drop or convert the rows that are not numbers"),
        ({"null": [[1]]}, "'null' must have 0 or 1 dimension(s); got shape (1, 1)."),
        ({"coefficients": []}, "'coefficients' must be names or positions, each once; got []."),
        ({"coefficients": ["a", "a"]}, "'coefficients' must be names or positions, each once; got ['a', 'a']."),
        ({"coefficients": 1.5}, "'coefficients' must be names or positions, each once; got 1.5."),
        ({"coefficients": [True]}, "'coefficients' must be names or positions, each once; got [True]."),
        ({"coefficients": [None]}, "'coefficients' must be names or positions, each once; got [None]."),
        ({"alternative": "less"}, "'alternative' must be 'two-sided' or 'larger' or 'smaller'; got 'less'."),
        ({"population": "all"}, "'population' must be 'infinite' or 'finite'; got 'all'."),
        ({"quantiles": "z"}, "'quantiles' must be 't' or 'normal'; got 'z'."),
        ({"simultaneous": "yes"}, "'simultaneous' must be True or False; got 'yes'."),
        ({"bootstrap": True}, "'bootstrap' must be a Bootstrap; got True. — write Bootstrap()"),
    ],
)
def test_refusals(options, message):
    assert refused(**options) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "bca"}, "'bootstrap.kind' must be 'studentised' or 'percentile'; got 'bca'."),
        ({"replications": 98}, "'bootstrap.replications' must be at least 99; got 98."),
        ({"replications": 1e3}, "'bootstrap.replications' must be at least 99; got 1000.0."),
        ({"seed": -1}, "'bootstrap.seed' must be a whole number, at least 0; got -1."),
        ({"seed": "x"}, "'bootstrap.seed' must be a whole number, at least 0; got 'x'."),
    ],
)
def test_bootstrap_refusals(arguments, message):
    with pytest.raises(InputError) as caught:
        Bootstrap(**arguments)
    assert str(caught.value) == message


def test_bootstrap_defaults():
    assert Bootstrap() == Bootstrap("studentised", 1999, 0)
    assert Bootstrap("percentile", 99).replications == 99
