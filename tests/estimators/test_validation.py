"""What an estimator may be given: what passes, and every refusal to the letter."""

import numpy as np
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.validation import LARGEST, answers, column_names, finite, is_number, open_unit, shown


def refused(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return str(caught.value)


def test_numbers_pass_uncopied():
    given = np.array([1.0, -2.0])
    assert finite("Y", given, (1,)) is given
    assert finite("Y", [1, 2], (1,)).dtype == np.float64
    assert finite("Y", np.array([True, False]), (1,)).tolist() == [1.0, 0.0]
    assert finite("Y", np.array([1, 2.5], dtype=object), (1,)).tolist() == [1.0, 2.5]
    assert finite("Y", 3, (0, 1)).shape == ()
    assert finite("Y", [], (1,)).shape == (0,)
    assert finite("Y", [LARGEST, -LARGEST], (1,)).tolist() == [1e100, -1e100]
    assert finite("Y", np.ma.array([1.0, 2.0]), (1,)).tolist() == [1.0, 2.0]


DROP = " — drop that row, or treat it as unlabelled"
CONVERT = " — drop or convert the rows that are not numbers"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, np.nan], "'Y' must be finite; got nan at position 1." + DROP),
        ([np.inf, 1, np.nan], "'Y' must be finite; got inf at position 0 (2 such values)." + DROP),
        ([1, -np.inf], "'Y' must be finite; got -inf at position 1." + DROP),
        ([1, None], "'Y' must be finite; got nan at position 1." + DROP),
        ([[1, 2], [3, np.nan]], "'Y' must be finite; got nan at position (1, 1)." + DROP),
        ([1, "two"], "'Y' must hold numbers only." + CONVERT),
        ([1, {}], "'Y' must hold numbers only." + CONVERT),
        ([[1], [2, 3]], "'Y' must hold numbers only." + CONVERT),
        ([1j, 2], "'Y' must hold real numbers; got complex128. — take the real part"),
        (np.array([1, 2], dtype="M8[s]"), "'Y' must hold numbers; got datetime64[s]. — convert times to numbers"),
        (np.array([1, 2], dtype="m8[s]"), "'Y' must hold numbers; got timedelta64[s]. — convert times to numbers"),
        (
            np.ma.array([1.0, 2.0], mask=[0, 1]),
            "'Y' must not be masked. — drop the masked rows, or treat them as unlabelled",
        ),
        (1.0, "'Y' must have 1 or 2 dimension(s); got shape ()."),
        ([[[1]]], "'Y' must have 1 or 2 dimension(s); got shape (1, 1, 1)."),
        ([1, 1e200], "'Y' must not exceed 1e+100 in size; got 1e+200. — divide the numbers by a constant"),
        ([1, -2e100], "'Y' must not exceed 1e+100 in size; got 2e+100. — divide the numbers by a constant"),
    ],
)
def test_refusals(values, message):
    assert refused(finite, "Y", values, (1, 2)) == message


def test_answers_are_two_at_least():
    assert answers([1, 2]).tolist() == [1.0, 2.0]
    for few in ([], [1.0]):
        expected = f"'Y' must have at least 2 rows; got {len(few)}. — a variance needs two answers"
        assert refused(answers, few) == expected
    assert refused(answers, [[1], [2]]) == "'Y' must have 1 dimension(s); got shape (2, 1)."
    assert refused(answers, [1.0], "Z").startswith("'Z' must have")


def test_column_names():
    assert column_names(None, 3) == ("x0", "x1", "x2")
    assert column_names(["a", 5], 2) == ("a", "5")
    assert refused(column_names, ["a"], 2) == "'names' must have one name a column (2); got 1."
    assert refused(column_names, ["a", "b", "a"], 3) == "'names' must differ; got 'a' twice."


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, float("nan"), float("inf"), "5%", None, True])
def test_open_unit_refuses(value):
    assert refused(open_unit, "q", value) == f"'q' must be in (0, 1); got {shown(value)}."


def test_open_unit_takes():
    assert open_unit("q", 1e-300) == 1e-300
    assert isinstance(open_unit("q", np.float32(0.5)), float)


def test_what_is_a_number():
    assert [is_number(x) for x in (1, 1.0, np.int8(1), np.float32(1), True, "1", None, 1j)] == [True] * 4 + [False] * 4


def test_shown():
    shows = [shown(x) for x in (0.5, 2.0, np.float64(1e-9), float("nan"), -np.inf, 3, "a", [1])]
    assert shows == ["0.5", "2", "1e-09", "nan", "-inf", "3", "'a'", "[1]"]
