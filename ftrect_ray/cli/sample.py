"""``ftrect sample``: which rows of a table to label next, with the probabilities that an estimate needs."""

from __future__ import annotations

import json
import os
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from ftrect_ray.allocation.sampling import NextLabels, ResidualSpread, next_labels, residual_spread
from ftrect_ray.errors import EnvironmentFault, InputError
from ftrect_ray.streaming.cells import Cells
from ftrect_ray.study import Data
from ftrect_ray.tables.reading import read_any

PROBABILITY, CHOSEN, ROW = "probability", "chosen", "row"
SUFFIXES = (".csv", ".parquet")


def sample_table(options: Namespace) -> int:
    """Draw, write, and say what was drawn."""
    output = Path(options.output)
    _refuse_output(output)
    limits = {name: Data.model_fields[name].default for name in ("max_rows", "max_bytes")}
    table = read_any(options.table, **limits).combine_chunks()
    if not table.num_rows:
        raise InputError("the table has no rows", where=options.table)
    cells = Cells(table.to_batches()[0], 0, options.table, options.missing)
    kept = _kept_columns(options, cells)
    answers, predictions = cells.numbers(options.label), cells.numbers(options.prediction)
    labelled = ~np.isnan(answers)
    random, predicted = options.earlier == "random", ~np.isnan(predictions)
    if (blind := ~predicted & (random | ~labelled)).any():
        rule = "must be given" + ("" if random else " where there is no label")
        raise cells.wrong(options.prediction, blind, rule, "predict every row first, or leave these rows out")
    usable = labelled & predicted
    spread = residual_spread(answers[usable], predictions[usable])
    expected = spread.at(np.where(predicted, predictions, spread.centers[0]))  # without one: there for certain
    drawn = next_labels(
        expected, labelled, options.labels, earlier=options.earlier, floor=options.floor, seed=options.seed
    )
    _write(_written(table, kept, drawn, options), output)
    facts = _facts(options, output, labelled, spread, drawn)
    print(json.dumps(facts, indent=2, allow_nan=False) if options.json else _told(facts, options))
    return 0


def _refuse_output(output: Path) -> None:
    if output.suffix not in SUFFIXES:
        raise InputError("the file's ending names no format", where=str(output), mend="end it in .csv or .parquet")
    if output.exists():
        mend = "choose another name; a second draw in its place would not be the same rows"
        raise InputError("the file is there already", where=str(output), mend=mend)
    if not output.parent.is_dir():
        raise InputError("there is no such folder", where=str(output.parent), mend="create it first")


def _kept_columns(options: Namespace, cells: Cells) -> list[str]:
    """Columns that are written beside the probability, the id first."""
    named = [] if options.id is None else [options.id]
    if named:
        _, codes = cells.coded(options.id)
        repeated = np.bincount(codes)[codes] > 1
        if repeated.any():
            raise cells.wrong(options.id, repeated, "must name each row once", "leave out '--id' to number the rows")
    wished = cells.batch.schema.names if options.columns is None else options.columns
    for name in wished:
        cells.column(name)  # refuses a column that is not there
    if options.all_rows:
        wished = list(dict.fromkeys([*wished, options.prediction]))  # what an estimate needs
    kept = [*named, *(name for name in wished if name not in (*named, options.label))]
    added = [PROBABILITY, *([CHOSEN] if options.all_rows else []), *([] if named else [ROW])]
    twice = next((name for name in added if name in (*kept, options.label)), None)
    if twice is not None:
        mend = "rename it, or name the columns to write with '--columns'"
        raise InputError(f"the table has a column {twice!r}, which this command writes", where=cells.where, mend=mend)
    return kept


def _written(table: pa.Table, kept: list[str], drawn: NextLabels, options: Namespace) -> pa.Table:
    rows = np.arange(table.num_rows)
    columns: dict[str, pa.ChunkedArray | pa.Array] = {} if options.id is not None else {ROW: pa.array(rows + 1)}
    columns |= {name: table.column(name) for name in kept}
    if options.all_rows:
        columns[options.label] = table.column(options.label)
    columns[PROBABILITY] = pa.array(drawn.probabilities)
    if options.all_rows:
        columns[CHOSEN] = pa.array(np.isin(rows, drawn.chosen).astype(np.int8))
        return pa.table(columns)
    return pa.table(columns).take(pa.array(drawn.chosen))


def _write(table: pa.Table, output: Path) -> None:
    """By a rename: the whole file or none."""
    try:
        handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.", suffix=output.suffix)
        os.close(handle)
        try:
            if output.suffix == ".csv":
                pc.write_csv(table, name)
            else:
                pq.write_table(table, name, compression="zstd")
            os.chmod(name, 0o644)
            os.replace(name, output)
        finally:
            Path(name).unlink(missing_ok=True)
    except pa.ArrowException as error:
        what, mend = f"cannot write the table: {error}", "write parquet, or name the columns to write with '--columns'"
        raise InputError(what, where=str(output), mend=mend) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise EnvironmentFault(f"cannot write the file: {reason}", where=str(output)) from None


def _facts(
    options: Namespace, output: Path, labelled: np.ndarray, spread: ResidualSpread, drawn: NextLabels
) -> dict[str, object]:
    chance = drawn.probabilities[~labelled]
    return {
        "file": str(output),
        "labels": len(drawn.chosen),
        "candidates": len(chance),
        "earlier": {"labels": int(labelled.sum()), "counted_as": options.earlier},
        "probability": {"smallest": float(chance.min()), "largest": float(chance.max()), "mean": float(chance.mean())},
        "residual_spread": {"predictions": spread.centers.tolist(), "spread": spread.spreads.tolist()},
        "worth": drawn.worth,
        "floor": options.floor,
        "seed": options.seed,
    }


def _told(facts: dict[str, object], options: Namespace) -> str:
    chance, known, spread = facts["probability"], facts["earlier"], facts["residual_spread"]
    assert isinstance(chance, dict) and isinstance(known, dict) and isinstance(spread, dict)  # noqa: PT018
    low, high = min(spread["spread"]), max(spread["spread"])
    random = options.earlier == "random"
    lines = [
        f"{facts['file']}: {facts['labels']} of {facts['candidates']} rows without a label, "
        f"with probability {chance['smallest']:.3g} to {chance['largest']:.3g} (mean {chance['mean']:.3g}"
        + (", the draw from before included)" if random else ")"),
        f"residuals of {known['labels']} labels: {low:.3g} to {high:.3g} over the range of the predictions; "
        f"the {facts['labels']} labels are forecast to be worth {facts['worth']:.0f} drawn with equal probabilities",
    ]
    earlier = "as '--all-rows' writes it, in this or another file" if random else "1"
    lines.append(
        f"next: their answers into column {options.label!r} of a table with {options.prediction!r} of every row and "
        f"'{PROBABILITY}' of every label (labels from before: {earlier}), "
        f"then 'ftrect estimate --probability {PROBABILITY}'"
    )
    return "\n".join(lines)
