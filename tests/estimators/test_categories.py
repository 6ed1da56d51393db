"""Categorical answers: what is one, what is refused, and in which words."""

import numpy as np
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.categories import categorical, categories_of, indicators, positions


class Missing:
    """Neither text nor number, as pandas' NA."""

    def __repr__(self):
        return "<NA>"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["None", "NA", ""], ["None", "NA", ""]),
        (np.array(["b", "a"]), ["b", "a"]),
        (np.array(["b", "a"], dtype=object), ["b", "a"]),
        ([3, 1], [3, 1]),
        ([1.0, 2.0], [1, 2]),
        (np.array([1, 2], dtype=np.uint8), [1, 2]),
        (np.array([1.0, 2.0], dtype=object), [1, 2]),
        ([True, False], [True, False]),
        (np.array([True, np.False_], dtype=object), [True, False]),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),
    ],
)
def test_what_is_a_category(given, expected):
    found = categorical("Y", given, (1, 2))
    assert found.tolist() == expected
    assert found.dtype.kind in "Uib"
    assert found.dtype != object


def test_large_whole_numbers_keep_all_their_digits():
    assert categorical("Y", [2**60 + 1, 2**60]).tolist() == [2**60 + 1, 2**60]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", None], r"'Y' must name a category in every row; got None at position 1\. — drop these rows"),
        (["a", float("nan"), None], r"in every row; got nan at position 1 \(2 such values\)\."),
        ([1.0, float("nan")], r"in every row; got nan at position 1\."),
        (np.array([np.nan, 1.0]), r"in every row; got nan at position 0\."),
        ([1.0, 0.5], r"'Y' must hold text, whole numbers or yes/no; got 0.5 at position 1\. — for numbers take mean"),
        ([1.0, float("inf")], r"text, whole numbers or yes/no; got inf at position 1\."),
        ([b"a", b"b"], r"got b'a' at position 0 \(2 such values\)\."),
        (["a", Missing()], r"got <NA> at position 1\."),
        (np.array([1j, 2]), r"got 1j at position 0 \(2 such values\)\."),
        ([1, "a"], r"'Y' must hold one kind of value; got numbers and text\. — convert all to text"),
        ([True, 1], r"'Y' must hold one kind of value; got numbers and yes/no\."),
        ([["a"]], r"'Y' must have 1 dimension\(s\); got shape \(1, 1\)\."),
        ([["a"], ["b", "c"]], r"got \['a'\] at position 0"),
    ],
)
def test_what_is_none(given, message):
    with pytest.raises(InputError, match=message):
        categorical("Y", given)


def test_the_position_of_a_table_is_its_row():
    with pytest.raises(InputError, match=r"'F' must name a category in every row; got None at position 1\."):
        categorical("F", [["a", "b"], ["a", None]], (2,))


def test_categories_are_the_sorted_values_of_all_parts_or_as_given():
    parts = {"Y": np.array(["b", "a"]), "Yhat": np.array([["cc"], ["a"]])}
    assert categories_of(None, parts).tolist() == ["a", "b", "cc"]
    assert categories_of(["b", "a", "cc"], parts).tolist() == ["b", "a", "cc"]
    assert categories_of(None, {"Y": np.array([2, 1]), "Yhat": np.array([], dtype=object)}).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("given", "parts", "message"),
    [
        (None, {"Y": np.array([1]), "Yhat": np.array(["1"])}, r"'Yhat' must hold numbers as 'Y' does; got text\."),
        (["1"], {"Y": np.array([1])}, r"'Y' must hold text as 'categories' does; got numbers\."),
        (["a", "b", "a"], {"Y": np.array(["a"])}, r"different names, at least one; got 'a' twice\."),
        (
            ["a", None],
            {"Y": np.array(["a"])},
            r"^'categories' must name a category in every row; got None at position 1",
        ),
        ([], {"Y": np.array(["a"])}, r"'categories' must be different names, at least one; got no category\."),
    ],
)
def test_categories_that_do_not_fit(given, parts, message):
    with pytest.raises(InputError, match=message):
        categories_of(given, parts)


def test_positions_follow_the_given_order():
    known = np.array(["low", "mid", "high"])
    assert positions("Y", np.array([["high", "low"], ["mid", "mid"]]), known).tolist() == [[2, 0], [1, 1]]
    assert positions("Y", np.empty((0, 2)), known).shape == (0, 2)
    with pytest.raises(
        InputError, match=r"'Y' holds 'hihg', which is not among 'categories'\. — did you mean 'high'\?"
    ):
        positions("Y", np.array(["hihg", "low"]), known)
    with pytest.raises(InputError, match=r"'Y' holds 9, which is not among 'categories'\. — choose from: 1, 2"):
        positions("Y", np.array([1, 9]), np.array([1, 2]))
    with pytest.raises(InputError, match="'Y' holds 'a'"):
        positions("Y", np.array(["a"]), known)


def test_indicators():
    assert indicators(np.array([[2], [0]]), 3).tolist() == [[[0, 0, 1]], [[1, 0, 0]]]
