"""Every design: who trains and who rectifies, identities, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ftrect_ray.allocation.pilot_rows import FOLDED
from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators import classical_mean, mean
from ftrect_ray.evaluation.designs import (
    DESIGNS,
    NEEDS_ZERO_SHOT,
    PilotRule,
    Replication,
    fewest_labels,
    sizes_of_pilots,
)
from ftrect_ray.evaluation.designs.piloted import Pilots
from ftrect_ray.evaluation.frozen import FrozenLearner
from ftrect_ray.ledger import Ledger, Use

N, LABELS = 1500, 200
SCHEMES = ["cross-fitted", "cross-validated", "shared", "ramp-up"]


class Watched:
    """A learner that remembers whose labels it saw."""

    def __init__(self, learner) -> None:
        self.learner, self.seen = learner, []

    def learn(self, own, seeds, objective, where=None):
        self.seen += [np.asarray(rows) for rows in own]
        return self.learner.learn(own, seeds, objective, where)


class Level:
    """A model that learns the level of its answers and nothing else: the fewer they are, the farther it is off."""

    def __init__(self, y: np.ndarray) -> None:
        self.y = y

    def learn(self, own, seeds, objective, where=None):
        return np.tile([self.y[rows].mean() for rows in own], (N, 1))


class Constant:
    """A model that learned nothing."""

    def learn(self, own, seeds, objective, where=None):
        return np.full((N, len(own)), 2.5)


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 12), answers (N,): half of the variance is linear in the features."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 12)).astype(np.float32)
    return x, x @ rng.normal(size=12) / np.sqrt(12) + rng.normal(size=N)


def replication(table, learner=None, seed: int = 0, labels: int = LABELS, **further) -> Replication:
    x, y = table
    labeled = np.random.default_rng([seed, labels]).permutation(N)[:labels]
    given = {"zero_shot": 0.5 * y + np.random.default_rng(1).normal(size=N)} | further
    return Replication(labeled, y, learner or FrozenLearner(x, y), seed, **given)


@pytest.mark.parametrize(
    ("name", "scheme"), [(name, SCHEMES[0]) for name in DESIGNS] + [("auto", scheme) for scheme in SCHEMES[1:]]
)
def test_no_label_shapes_a_model_and_rectifies_it(name, scheme, table):
    """Every charge goes through the product's ledger, which raises on a leak; and no training is left uncharged."""
    watched = Watched(FrozenLearner(*table))
    drawn = replication(table, watched, pilots=PilotRule(scheme=scheme))
    result = DESIGNS[name](drawn)
    ledger = Ledger(map(str, range(LABELS)))
    for charge in result.charges:
        assert len(np.unique(charge.places)) == len(charge.places)
        ledger.record(charge.use, charge.model, map(str, charge.places))
    charged = [
        set(drawn.labeled[charge.places]) for charge in result.charges if charge.use in (Use.FINETUNE, Use.PILOT_TRAIN)
    ]
    for rows in watched.seen:
        assert set(rows) in charged
    trained = [charge for charge in result.charges if charge.use == Use.FINETUNE and "line" not in charge.model]
    assert len(trained) == result.finetunes
    assert max((len(charge.places) for charge in trained), default=0) == pytest.approx(result.n_finetune, abs=1)
    assert result.pilots == sum(charge.use == Use.PILOT_TRAIN for charge in result.charges)


@pytest.mark.parametrize("name", [name for name in DESIGNS if name != "finetune-only"])
def test_other_rows_answers_change_nothing(name, table):
    x, y = table
    here = DESIGNS[name](replication(table))
    elsewhere = y.copy()
    unlabeled = replication(table).unlabeled
    elsewhere[unlabeled] = 1e6
    there = DESIGNS[name](replication((x, elsewhere), zero_shot=replication(table).zero_shot))
    assert (here.value, here.interval, here.chosen) == (there.value, there.interval, there.chosen)


@pytest.mark.parametrize("name", sorted(set(DESIGNS) - NEEDS_ZERO_SHOT - {"finetune-only", "recycle"}))
def test_a_model_that_learned_nothing_gives_the_classical_estimate_of_the_labels_that_rectify(name, table):
    result = DESIGNS[name](replication(table, Constant(), zero_shot=None))
    drawn = replication(table)
    charged = [c.places for c in result.charges if c.use in (Use.RECTIFY, Use.CLASSICAL)]
    places = np.arange(LABELS) if name == "sequential" else np.unique(np.concatenate(charged))
    expected = classical_mean(drawn.y[places])
    assert result.value == pytest.approx(expected.value, rel=1e-9)
    assert result.std_error == pytest.approx(expected.std_error, rel=1e-9)


def test_the_sample_mean_is_the_classical_one(table):
    drawn = replication(table)
    result, expected = DESIGNS["mean"](drawn), classical_mean(drawn.y)
    assert (result.value, result.std_error) == pytest.approx((expected.value, expected.std_error), rel=1e-12)
    np.testing.assert_allclose(result.interval, expected.interval, rtol=1e-12)


def test_ppi_is_the_rectified_mean_with_full_weight_and_recalibration_mends_a_wrong_scale(table):
    drawn = replication(table)
    f = drawn.zero_shot
    expected = mean(drawn.y, f[drawn.labeled], f[drawn.unlabeled], lam=1.0)
    assert DESIGNS["ppi"](drawn).interval == pytest.approx(expected.interval, rel=1e-12)
    upside_down = replace(drawn, zero_shot=-3 * f)
    tuned, recalibrated = DESIGNS["ppi++"](upside_down), DESIGNS["recalibrated"](upside_down)
    assert tuned.lam == 0
    assert recalibrated.std_error < 0.95 * tuned.std_error
    same = DESIGNS["recalibrated"](drawn)
    assert recalibrated.value == pytest.approx(same.value, rel=1e-9)
    constant = DESIGNS["recalibrated"](replace(drawn, zero_shot=np.ones(N)))
    assert constant.value == pytest.approx(drawn.y.mean(), rel=1e-9)


def test_cross_fitting_is_the_rotation_that_leaves_one_fold(table):
    drawn = replication(table)
    one, other = DESIGNS["crossfit-3"](drawn), DESIGNS["rotation-1-3"](drawn)
    assert (one.n_finetune, other.n_finetune) == (pytest.approx(133, abs=1), pytest.approx(67, abs=1))
    assert one.std_error != other.std_error
    rectified = [len(c.places) for c in other.charges if c.use == Use.RECTIFY]
    assert sum(rectified) == 2 * LABELS


def test_the_batches_grow_by_one_factor(table):
    result = DESIGNS["sequential"](replication(table))
    ends = [len(c.places) for c in result.charges if c.use == Use.FINETUNE]
    assert ends == [20, 36, 63, 112]
    assert [len(c.places) for c in result.charges if c.use == Use.RECTIFY] == [16, 27, 49, 88]


@pytest.mark.parametrize("name", ["split-ramp-up", "recycle"])
def test_a_ramp_up_is_charged_in_full(name, table):
    rule = PilotRule(ramp=(10, 20, 40, 80))
    result = DESIGNS[name](replication(table, pilots=rule))
    spent = np.unique(
        np.concatenate([c.places for c in result.charges if c.use in (Use.PILOT_TRAIN, Use.PILOT_MEASURE)])
    )
    [selected] = [c.places for c in result.charges if c.use == Use.SELECT]
    np.testing.assert_array_equal(np.sort(selected), spent)
    [own] = [c.places for c in result.charges if c.use == Use.FINETUNE]
    assert len(own) == result.n_finetune >= len(spent)
    assert np.isin(spent, own).all()
    measured = {len(c.places) for c in result.charges if c.use == Use.PILOT_MEASURE}
    assert measured == {40}  # a fifth of the budget
    assert result.predicted_length == pytest.approx(result.length, rel=0.3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pilots_measure_what_a_model_leaves_out_of_sample(scheme, table):
    pilots = Pilots(replication(table, pilots=PilotRule(scheme=scheme, seeds=2)))
    pilots.run(scheme, (20, 40, 80, 150))
    law = pilots.fit(np.arange(200))
    assert law.sizes[-1] == {"cross-validated": 120, "cross-fitted": 150, "shared": 150}.get(scheme, law.sizes[-1])
    x, y = table
    rest = np.setdiff1d(np.arange(N), replication(table).labeled)
    own = replication(table).labeled[:120]
    f = FrozenLearner(x, y).learn([own], [0], "variance")[:, 0]
    assert law.curve.variance(120.0) == pytest.approx(np.var((y - f)[rest]), rel=0.25)
    assert pilots.models == len(law.sizes) * (5 if scheme in FOLDED else 1)


def test_all_folds_of_a_pilot_are_one_measurement(table):
    pilots = Pilots(replication(table))
    pilots.run("cross-validated", (50, 200))
    assert [one.count for one in pilots.measured] == [50, 200]
    assert [one.size for one in pilots.measured] == [40, 160]
    np.testing.assert_array_equal(np.sort(pilots.measured[1].positions), np.arange(LABELS))


def test_cross_fitted_pilots_are_measured_on_all_labels_each(table):
    pilots = Pilots(replication(table))
    sizes = sizes_of_pilots("auto", PilotRule(sizes=(5, 50, 160, 161)), LABELS)
    assert sizes == (50, 160)  # no fewer than ten; for the last there is no room outside a fold
    pilots.run("cross-fitted", sizes)
    assert [(one.size, one.count) for one in pilots.measured] == [(50, LABELS), (160, LABELS)]
    for one in pilots.measured:
        np.testing.assert_array_equal(np.sort(one.positions), np.arange(LABELS))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_models_level_is_no_part_of_what_it_leaves(scheme, table):
    """A rectified mean does not pay for it, and with it a curve that is flat would fall."""
    pilots = Pilots(replication(table, Level(table[1])))
    pilots.run(scheme, (20, 40, 80, 150))
    parts: dict[str, list[np.ndarray]] = {}
    for charge in pilots.charges:
        if charge.use == Use.PILOT_MEASURE:
            parts.setdefault(charge.model.partition("-f")[0], []).append(pilots.replication.y[charge.places])
    assert len(parts) == len(pilots.measured)
    for one, folds in zip(pilots.measured, parts.values(), strict=True):
        squares = sum(np.sum((answers - answers.mean()) ** 2) for answers in folds)
        assert one.variance == pytest.approx(squares / (one.count - len(folds)))
    if scheme == "cross-fitted":  # the same folds measure all sizes
        assert np.ptp([one.variance for one in pilots.measured]) < 1e-9
        assert pilots.fit(np.arange(LABELS)).status == "flat"


def test_auto_says_what_it_chose_and_how_long_the_interval_would_be(table):
    x, y = table
    good = DESIGNS["auto"](replication((x, y), zero_shot=None))
    assert good.chosen in {f"crossfit-{k}" for k in range(2, 6)}
    alone = DESIGNS[good.chosen](replication((x, y), zero_shot=None)) if good.chosen in DESIGNS else good
    assert good.value == alone.value
    assert good.predicted_length == pytest.approx(good.length, rel=0.15)
    noise = np.random.default_rng(2).normal(size=(N, 12)).astype(np.float32)
    lost = DESIGNS["auto"](replication(table, FrozenLearner(noise, y), zero_shot=None))
    assert lost.std_error <= 1.02 * classical_mean(replication(table).y).std_error
    guesses = 9 + 3 * (y + 0.1 * noise[:, 0]), noise[:, 1]  # of a wrong level and scale, and void
    oracle = DESIGNS["auto"](replication(table, FrozenLearner(noise, y), zero_shot=None, existing=guesses))
    assert (oracle.chosen, oracle.finetunes) == ("rectify-only", 0)
    assert oracle.std_error < 0.4 * lost.std_error
    others = DESIGNS["auto"](replication(table, FrozenLearner(noise, y), zero_shot=guesses[0]))
    assert others.chosen == lost.chosen  # what PPI rectifies may be another model's, and is no study's of this one
    assert DESIGNS["auto"](replication(table, zero_shot=None, max_finetunes=0)).chosen == "classical"
    equal = DESIGNS["auto"](replication((x, np.full(N, 3.0)), zero_shot=None))
    assert (equal.chosen, equal.std_error) == ("classical", 0.0)


@pytest.mark.parametrize("name", DESIGNS)
def test_too_few_labels_and_missing_predictions_are_refused(name, table):
    if fewest_labels(name) > 2:
        with pytest.raises(StatisticalRefusal, match="labels are too few"):
            DESIGNS[name](replication(table, labels=fewest_labels(name) - 1))
    result = DESIGNS[name](replication(table, labels=fewest_labels(name)))
    assert np.isfinite([result.value, result.std_error]).all()
    if name in NEEDS_ZERO_SHOT:
        with pytest.raises(InputError, match="no predictions to rectify"):
            DESIGNS[name](replication(table, zero_shot=None))


def test_an_unknown_design_has_a_near_name():
    with pytest.raises(InputError, match="did you mean 'crossfit-5'"):
        fewest_labels("crosfit-5")


class Diverging:
    """A learner of which every model with fewer than ``least`` rows diverges."""

    def __init__(self, learner: FrozenLearner, least: int) -> None:
        self.learner, self.least = learner, least

    def learn(self, own, seeds, objective, where=None):
        if min(map(len, own)) < self.least:
            raise StatisticalRefusal("the fine-tune diverged")
        return self.learner.learn(own, seeds, objective, where)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_pilot_that_diverged_was_charged_and_tells_nothing(scheme, table):
    """As in a study: the others are measured, and the ramp-up climbs on."""
    whole, part = (
        Pilots(replication(table, Diverging(FrozenLearner(*table), least), pilots=PilotRule(scheme=scheme)))
        for least in (0, 35)
    )
    for pilots in (whole, part):
        pilots.run(scheme, (20, 40, 80, 120, 150))
    kept = [one for one in whole.measured if one.size >= 35]
    assert [one.nested for one in part.measured][: len(kept)] == [one.nested for one in kept]
    assert [one.variance for one in part.measured][: len(kept)] == [one.variance for one in kept]
    small = {charge.model for charge in part.charges if len(charge.places) < 35}
    assert small >= {
        charge.model for charge in whole.charges if charge.use == Use.PILOT_TRAIN and len(charge.places) < 35
    }
    with pytest.raises(StatisticalRefusal, match="diverged"):
        Pilots(replication(table, Diverging(FrozenLearner(*table), 1000))).run(scheme, (20, 40, 80))
