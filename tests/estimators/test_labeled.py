"""The labelled rows: shapes, folds, options that contradict each other."""

import numpy as np
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.blocks import Block, InMemory
from ftrect_ray.estimators.labeled import at_their_rates, checked, selected, shares
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Settings

Y, F = [1.0, 2.0, 4.0, 3.0], [1.5, 2.5, 3.0, 3.5]
TWO = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])


def of(Y=Y, Yhat=F, unlabeled=(1.0, 2.0, 3.0), **options):
    return checked(Y, Yhat, unlabeled, Settings.of(options))


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        of(*arguments, **options)
    return str(caught.value)


# ------------------------------------------------------------------------------------------- what passes


def test_one_model():
    labeled, unlabeled = of()
    assert (labeled.n, labeled.models, labeled.finite, labeled.carries_imputed) == (4, 1, False, False)
    assert labeled.Y.tolist() == [[y] for y in Y]
    assert labeled.Yhat.tolist() == [[f] for f in F]
    assert labeled.share.tolist() == [[1.0]] * 4
    assert labeled.weights.tolist() == [1.0] * 4
    assert labeled.model_weights.tolist() == [1.0]
    assert unlabeled.whole.F.tolist() == [[1.0], [2.0], [3.0]]


def test_models_without_folds_weigh_alike():
    labeled, _ = of(unlabeled=TWO)
    assert labeled.share is None
    assert labeled.model_weights.tolist() == [0.5, 0.5]
    assert labeled.own(np.array([[1.0], [3.0]])).tolist() == [[2.0]] * 4
    assert labeled.mixed(np.array([1, 1, 1, 3.0])).tolist() == [0.75, 0.75]


def test_folds_name_the_model_that_did_not_see_the_row():
    labeled, _ = of(unlabeled=TWO, folds=[0, 1, 1, 1])
    assert labeled.share.tolist() == [[1, 0], [0, 1], [0, 1], [0, 1]]
    assert labeled.model_weights.tolist() == [0.25, 0.75]
    assert labeled.own(np.array([[1.0, 10.0], [3.0, 30.0]])).tolist() == [[1.0, 10.0]] + [[3.0, 30.0]] * 3
    assert labeled.mixed(np.array([2, 0, 1, 1.0])).tolist() == [0.5, 0.5]


def test_weights_shift_the_share_of_models():
    labeled, _ = of(unlabeled=TWO, folds=[0, 1, 1, 1], sample=Sample(weights=[3, 1, 1, 1]))
    assert labeled.model_weights.tolist() == [0.5, 0.5]
    assert labeled.weights.tolist() == [3.0, 1.0, 1.0, 1.0]


def test_all_models_predictions_are_averaged_over_those_that_did_not_see_the_row():
    both = np.array([[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [4.0, 6.0]])
    assert of(Yhat=both, unlabeled=TWO, folds=[0, 1, 0, 1])[0].Yhat.ravel().tolist() == [1.0, 8.0, 3.0, 6.0]
    mask = np.array([[1, 1], [1, 0], [0, 1], [1, 1]], dtype=bool)
    rotated, _ = of(Yhat=both, unlabeled=TWO, folds=mask)
    assert rotated.Yhat.ravel().tolist() == [5.0, 2.0, 7.0, 5.0]
    assert rotated.model_weights.tolist() == [0.5, 0.5]
    assert of(Yhat=[[f] for f in F])[0].Yhat.ravel().tolist() == F


def test_labels_chosen_with_known_probability():
    sample = Sample(probabilities=[0.5, 0.25, 1, 1], weights=[1, 2, 3, 4], strata=list("abab"))
    other = Sample(weights=[1, 1, 1], strata=list("aba"))
    labeled, _ = of(sample=sample, sample_unlabeled=other)
    assert labeled.weights.tolist() == [2.0, 8.0, 3.0, 4.0]
    assert labeled.carries_imputed
    block = labeled.as_block()
    assert block.weights.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert block.strata.tolist() == list("abab")
    assert block.F.tolist() == [[f] for f in F]


def test_labelled_rows_as_imputed_ones_repeat_their_own_prediction():
    labeled, _ = of(unlabeled=TWO, folds=[0, 1, 1, 1], population="finite")
    assert labeled.carries_imputed
    assert labeled.as_block().F.tolist() == [[f, f] for f in F]


def test_a_selection_of_rows_takes_everything_along():
    labeled, _ = of(
        unlabeled=TWO,
        folds=[0, 1, 1, 1],
        sample=Sample(
            weights=[1, 2, 3, 4], probabilities=[0.1, 0.2, 0.3, 0.4], strata=list("abab"), clusters=[5, 6, 7, 8]
        ),
        sample_unlabeled=Sample(weights=[1, 1, 1], strata=list("aba"), clusters=[1, 2, 3]),
    )
    taken = labeled.take(np.array([3, 0, 3]))
    assert taken.Y.ravel().tolist() == [3.0, 1.0, 3.0]
    assert taken.Yhat.ravel().tolist() == [3.5, 1.5, 3.5]
    assert taken.share.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert taken.drawn.weights.tolist() == [4.0, 1.0, 4.0]
    assert taken.drawn.probabilities.tolist() == [0.4, 0.1, 0.4]
    assert taken.drawn.strata.tolist() == ["b", "a", "b"]
    assert taken.drawn.clusters.tolist() == [8, 5, 8]
    assert (taken.models, taken.finite, taken.drawn.known_total) == (2, False, False)
    bare = of(unlabeled=TWO)[0].take(np.array([1]))
    assert bare.share is None
    assert bare.drawn.plain


def test_strata_of_a_finite_population_give_their_rates():
    labeled, _ = of(
        unlabeled=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        population="finite",
        sample=Sample(strata=list("aabb")),
        sample_unlabeled=Sample(strata=list("abbbbb")),
    )
    np.testing.assert_allclose(labeled.drawn.probabilities, [2 / 3, 2 / 3, 2 / 7, 2 / 7])
    plain, blocks = of(population="finite")
    assert plain.drawn.probabilities is None
    assert at_their_rates(plain, blocks) is plain
    infinite, blocks = of(sample=Sample(strata=list("aabb")))
    assert at_their_rates(infinite, blocks) is infinite


# ------------------------------------------------------------------------------------------- refusals


MASK = (
    "'folds' as a mask must be bool of shape (4, 2) with a True in every row, the models that did not see it; "
    "got {} of shape {}."
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"Y": [1.0]}, "'Y' must have at least 2 rows; got 1. — a variance needs two answers"),
        ({"Yhat": [1.0, 2.0]}, "'Yhat' must have as many rows as 'Y' (4); got 2."),
        ({"Yhat": 1.0}, "'Yhat' must have 1 or 2 dimension(s); got shape ()."),
        ({"unlabeled": np.empty((3, 0))}, "'Yhat_unlabeled' must have at least one column."),
        (
            {"unlabeled": [1.0, np.inf]},
            "'Yhat_unlabeled' must be finite; got inf at position 1. — drop that row, or treat it as unlabelled",
        ),
        (
            {"Yhat": np.ones((4, 2))},
            "'Yhat' with 2 columns needs 'folds' and as many columns in 'Yhat_unlabeled'; got 1.",
        ),
        (
            {"Yhat": np.ones((4, 2)), "unlabeled": TWO},
            "'Yhat' with 2 columns needs 'folds' and as many columns in 'Yhat_unlabeled'; got 2.",
        ),
        (
            {"Yhat": np.ones((4, 3)), "unlabeled": TWO, "folds": [0, 1, 0, 1]},
            "'Yhat' with 3 columns needs 'folds' and as many columns in 'Yhat_unlabeled'; got 2.",
        ),
        ({"unlabeled": TWO, "folds": [0, 1]}, "'folds' must have as many rows as 'Y' (4); got 2."),
        (
            {"unlabeled": TWO, "folds": [0, 0, 0, 0]},
            "'folds' must hold each of 0..1, one for each column of 'Yhat_unlabeled'; got ['0'].",
        ),
        (
            {"unlabeled": TWO, "folds": [0, 1, 2, 0]},
            "'folds' must hold each of 0..1, one for each column of 'Yhat_unlabeled'; got ['0', '1', '2'].",
        ),
        (
            {"unlabeled": TWO, "folds": [0, 0.5, 1, 1]},
            "'folds' must hold each of 0..1, one for each column of 'Yhat_unlabeled'; got ['0', '0.5', '1'].",
        ),
        (
            {"folds": [0, 0, 0, 1]},
            "'folds' must hold each of 0..0, one for each column of 'Yhat_unlabeled'; got ['0', '1'].",
        ),
        ({"unlabeled": TWO, "folds": np.ones((4, 2))}, MASK.format("float64", (4, 2))),
        ({"unlabeled": TWO, "folds": np.ones((4, 3), dtype=bool)}, MASK.format("bool", (4, 3))),
        (
            {"unlabeled": TWO, "folds": np.array([[1, 1], [0, 0], [1, 0], [1, 0]], dtype=bool)},
            MASK.format("bool", (4, 2)),
        ),
        ({"sample": Sample(weights=[1, 1])}, "'sample.weights' must have one entry a row (4); got 2."),
        (
            {"sample_unlabeled": Sample(weights=[1, 1])},
            "'sample_unlabeled.weights' must have one entry a row (3); got 2.",
        ),
        (
            {"sample": Sample(weights=[0, 2, 0, 0])},
            "'sample' must give at least 2 labelled rows a weight above 0; got 1. — a variance needs two answers",
        ),
        (
            {"sample_unlabeled": Sample(probabilities=[1, 1, 1])},
            "'sample_unlabeled.probabilities' has no meaning. — give the labelled rows' in 'sample.probabilities'",
        ),
    ],
)
def test_bad_arrays(arguments, message):
    assert refused(**arguments) == message


@pytest.mark.parametrize("name", ["weights", "probabilities", "clusters"])
@pytest.mark.parametrize("side", ["sample", "sample_unlabeled"])
def test_a_finite_population_goes_with_simple_samples(name, side):
    rows = 4 if side == "sample" else 3
    if (name, side) == ("probabilities", "sample_unlabeled"):
        return
    assert refused(population="finite", **{side: Sample(**{name: [1] * rows})}) == (
        f"a finite population goes with simple or stratified random labels, not with '{name}'. "
        f"— drop '{name}', or take population='infinite'"
    )


@pytest.mark.parametrize("name", ["strata", "clusters", "weights"])
@pytest.mark.parametrize("side", ["sample", "sample_unlabeled"])
def test_one_table_is_known_alike_on_both_sides(name, side):
    given = {"sample": {"probabilities": [0.5] * 4}, "sample_unlabeled": {}}
    given[side][name] = [1] * (4 if side == "sample" else 3)
    samples = {key: Sample(**value) for key, value in given.items()}
    assert refused(**samples) == f"'{name}' must be given for the labelled and the unlabelled rows, or for neither."
    if name == "strata":
        alone = {side: Sample(strata=given[side]["strata"])}
        assert refused(population="finite", **alone) == (
            "'strata' must be given for the labelled and the unlabelled rows, or for neither."
        )
        of(**alone)  # two samples may be drawn in two ways


@pytest.mark.parametrize("name", ["strata", "clusters"])
def test_names_of_two_kinds_are_not_compared(name):
    sides = {"sample": Sample(**{name: ["1", "1", "2", "2"]}), "sample_unlabeled": Sample(**{name: [1, 2, 2]})}
    assert refused(**sides) == f"'{name}' must be text in both samples, or numbers in both; got <U1 and int64."
    of(sample=Sample(**{name: [1.0, 1.0, 2.0, 2.0]}), sample_unlabeled=sides["sample_unlabeled"])


def test_clusters_are_not_cut_by_folds():
    options = {"unlabeled": TWO, "sample": Sample(clusters=list("xyyz"))}
    assert refused(folds=[0, 1, 0, 0], **options) == (
        "cluster 'y' lies in more than one fold. — draw folds of whole clusters: draw_folds"
    )
    of(folds=[0, 1, 1, 0], **options)
    of(sample=Sample(clusters=list("xyyz")), folds=[0, 0, 0, 0])


def test_a_stratum_of_the_table_without_labels_is_named():
    sides = {"sample": Sample(strata=list("aabb")), "sample_unlabeled": Sample(strata=list("abz"))}
    assert refused(population="finite", **sides) == (
        "stratum 'z' has no labelled row. — label some, or merge it with a stratum like it"
    )


def test_shares_of_one_model_and_of_several():
    assert shares(None, 2, 1).tolist() == [[1.0], [1.0]]
    assert shares(None, 2, 3) is None
    assert shares([1, 0], 2, 2).tolist() == [[0.0, 1.0], [1.0, 0.0]]


# ------------------------------------------------------------------------------------------- coefficients


def test_coefficients_by_name_or_place():
    names = ("a", "b", "c")
    assert selected(names, Settings()).tolist() == [0, 1, 2]
    assert selected(names, Settings.of({"coefficients": ["c", 0]})).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("wished", "message"),
    [
        ("incme", "there is no coefficient 'incme'. — did you mean 'income'?"),
        (2, "there is no coefficient 2. — count from 0 to 1"),
        (-1, "there is no coefficient -1. — count from 0 to 1"),
    ],
)
def test_coefficients_that_are_not_there(wished, message):
    with pytest.raises(InputError) as caught:
        selected(("age", "income"), Settings.of({"coefficients": wished}))
    assert str(caught.value) == message


def test_an_empty_table_has_no_strata():
    labeled, _ = of(
        unlabeled=[], population="finite", sample=Sample(strata=list("aabb")), sample_unlabeled=Sample(strata=[])
    )
    assert labeled.drawn.probabilities.tolist() == [1.0] * 4
    assert at_their_rates(labeled, InMemory(Block(np.empty((0, 1)), strata=np.array([])))).n == 4
