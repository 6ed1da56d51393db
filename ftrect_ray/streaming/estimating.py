"""Estimates from tables of any length: how a question is asked, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from ftrect_ray.errors import FtrectError, InputError
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Options, Settings
from ftrect_ray.streaming.answering import answers_to, each
from ftrect_ray.streaming.columns import Columns
from ftrect_ray.streaming.questions import Question

if TYPE_CHECKING:
    from typing_extensions import Unpack

OF_QUESTION = ("q", "scale", "missing")
OF_SOURCE = ("max_rows", "max_bytes")
IN_COLUMNS = ("folds", "sample", "sample_unlabeled")


class StreamOptions(Options, total=False):
    """Options of :func:`estimate_stream`: those of the estimators, and

    q : float, default 0.5
        Of a quantile.
    scale : (float, float), optional
        The lowest and the highest answer that can be; labels outside are refused.
    missing : sequence of str, default ()
        Texts that stand for an empty cell. No others do, so that "None" and "NA" can be answers.
    max_rows, max_bytes : int
        Of a path: a file with more rows, or with more bytes once decoded, is refused.
    """

    q: float
    scale: tuple[float, float]
    missing: Sequence[str]
    max_rows: int
    max_bytes: int


@overload
def estimate_stream(
    source: Any, columns: Columns, target: str = "mean", *, by: None = None, **options: Unpack[StreamOptions]
) -> Estimate: ...
@overload
def estimate_stream(
    source: Any, columns: Columns, target: str = "mean", *, by: str, **options: Unpack[StreamOptions]
) -> dict[str, Estimate | FtrectError]: ...
def estimate_stream(
    source: Any, columns: Columns, target: str = "mean", *, by: str | None = None, **options: Unpack[StreamOptions]
) -> Estimate | dict[str, Estimate | FtrectError]:
    """A rectified estimate from a table of any length.

    Rows with a label are gathered in memory, for labels are scarce; rows without one are read and forgotten. The
    result is that of the estimator of the same name on arrays in memory, and does not depend on how rows are cut into
    batches. Passes over the source: one for mean, proportions, difference and OLS; three for a quantile; five to seven
    for logistic, Poisson and multinomial regression; one more for a bootstrap, which holds all rows in memory.

    Parameters
    ----------
    source : str, path, pa.Table, pyarrow dataset, iterable of pa.RecordBatch, or ray.data.Dataset
        A path names a csv, jsonl or parquet file. An iterator, which can be read once only, does for targets that
        read once. A Ray dataset is summarised by tasks, block by block, wherever the blocks lie.
    columns : Columns
    target : {"mean", "proportions", "difference", "quantile", "ols", "logistic", "poisson", "multinomial"}
        Answers and predictions are numbers, but for proportions, where they are words. Multinomial: options 0 (the
        outside one), 1, 2, …, with ``features`` of the row.
    by : str, optional
        A column: an estimate for each of its values, from the same pass; targets that read more than once do so for
        each value.
    **options
        See :class:`StreamOptions`. ``folds``, ``sample`` and ``sample_unlabeled`` are given as columns.

    Returns
    -------
    Estimate, or with ``by`` a dict of them
        A group that cannot be estimated has the error instead. Each interval has level 1 − alpha by itself: of k
        groups without any difference about k·alpha differ "significantly" (divide alpha by k to guard against it).

    Raises
    ------
    InputError
        Options that do not go together, columns that are not there, cells that cannot be read, fewer than two labels.
    StatisticalRefusal
        Rows without a prediction, or what the estimator refuses.

    Examples
    --------
    >>> import pyarrow as pa
    >>> table = pa.table({"trust": [1.0, 2.0, 4.0, None, None, None], "model": [1.0, 2.0, 3.0, 2.0, 3.0, 4.0]})
    >>> est = estimate_stream(table, Columns(label="trust", prediction="model"), lam=1.0)
    >>> round(est.value, 4), est.n, est.m
    (3.3333, 3, 3)
    """
    given: Mapping[str, Any] = options
    for name in IN_COLUMNS:
        if name in given:
            raise InputError(
                f"'{name}' is given as columns here.", mend="see Columns: fold, weight, strata, cluster, …"
            )
    settings = Settings.of({k: v for k, v in given.items() if k not in (*OF_QUESTION, *OF_SOURCE)})
    asked = {name: given[name] for name in OF_QUESTION if name in given}
    asked["missing"] = tuple(asked.get("missing", ()))
    limits = {name: given[name] for name in OF_SOURCE if name in given}
    found = answers_to(Question(columns, target, by=by, **asked), settings, source, **limits)
    return found[""].rectified() if by is None else each(found, lambda answer: answer.rectified())
