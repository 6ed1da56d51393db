"""Every model's prediction of every text, under Ray Data, in shards that a killed run does not repeat.

The table is cut into shards of fixed rows. A shard of one model is one file, written whole and then renamed,
that carries a key: the hash of its rows, of the model's files and of the settings. What has its key is kept;
the rest is the work of a pool of actors, each of which holds one model at a time.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from ftrect_ray import errors
from ftrect_ray.shards import Shard, backbone_key, plan_shards, read_facts, sweep
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Inference

#: A second shard waits at each actor while it computes the first, so that none idles between two. More
#: would pile the work up at the actor that starts first.
QUEUED_PER_ACTOR = 2


@dataclass(frozen=True)
class InferenceSummary:
    """What the predictions of a run hold, and what this call cost.

    Attributes
    ----------
    rows : int
        Predictions that the run now holds: texts times models, those without a value included.
    errors : dict of str to int
        Texts without a prediction by reason, summed over the models.
    texts_cut : int
        Texts that were longer than a model reads (the most over the models).
    computed, kept : int
        Shards computed by this call, and found done.
    seconds : float
        Wall time of this call.
    model_seconds : float
        Seconds inside the models, summed over the actors of this call.
    actors : int
        Actors that computed at least one shard.
    """

    rows: int
    errors: dict[str, int]
    texts_cut: int
    computed: int
    kept: int
    seconds: float
    model_seconds: float
    actors: int


def predict_all(
    storage: RunStorage, models: Sequence[str], inference: Inference, *, actors: int, cpus: float = 1, gpus: float = 0
) -> InferenceSummary:
    """Write ``predictions/<model>/shard-*.parquet`` for every model, computing only what is not there yet.

    A shard has the columns ``id``, ``prediction`` (float64, answer's unit, null where there is none) and
    ``error`` (string, null where there is a prediction), one row a text, in the order of the table. That of a model
    with answer options also has ``probabilities``, one number an option in the order of the study.

    Models that differ in the readout of one frozen backbone share its pass over a shard.

    Parameters
    ----------
    storage : RunStorage
        A run with ``table.parquet`` and ``model/<model>/`` as ``Predictor.save`` writes it. A local path must
        be shared by all nodes; from behind a URI each actor downloads the model.
    models : sequence of str
        Names of models of the run.
    inference : Inference
    actors : int
        Size of the pool.
    cpus, gpus : float
        Of one actor.

    Returns
    -------
    InferenceSummary

    Raises
    ------
    FtrectError
        As ``Predictor.load`` does. Ray must be initialised if any shard is missing.
    """
    started = time.monotonic()
    texts = storage.read_table("table.parquet").select(["id", "text"])
    parts = [texts.slice(start, inference.shard_rows) for start in range(0, texts.num_rows, inference.shard_rows)]
    shards = list(plan_shards(parts, models, storage, inference.precision))
    facts = {shard: found for shard in shards if (found := read_facts(storage, shard)) is not None}
    missing = [shard for shard in shards if shard not in facts]
    sweep(storage, shards)
    computed = _compute(missing, parts, storage, inference, actors=actors, cpus=cpus, gpus=gpus) if missing else {}
    facts.update(computed)
    reasons: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    for shard, found in facts.items():
        reasons.update(found["errors"])
        cut[shard.model] += found["cut"]
    return InferenceSummary(
        rows=texts.num_rows * len(models),
        errors=dict(reasons.most_common()),
        texts_cut=max(cut.values(), default=0),
        computed=len(computed),
        kept=len(shards) - len(computed),
        seconds=time.monotonic() - started,
        model_seconds=sum(found["seconds"] for found in computed.values()),
        actors=len({found["actor"] for found in computed.values()}),
    )


# --------------------------------------------------------------------------------------------- under Ray


def _compute(
    missing: Sequence[Shard],
    parts: Sequence[pa.Table],
    storage: RunStorage,
    inference: Inference,
    *,
    actors: int,
    cpus: float,
    gpus: float,
) -> dict[Shard, dict[str, Any]]:
    """Have the missing shards predicted and written by a pool of actors; their facts."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    from ftrect_ray.scorer import Scorer

    tasks = _tasks(missing, storage)
    references = {index: ray.put(parts[index]) for index in sorted({shard.index for shard in missing})}
    rows = [len(task) * parts[task[0].index].num_rows for task in tasks]
    settings = DataContext.get_current().copy()
    settings.enable_progress_bars = settings.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells its plans; the bar below tells the progress
    facts: dict[Shard, dict[str, Any]] = {}
    with DataContext.current(settings), _bar(sum(rows)) as bar:
        # One block a task: a block goes to one actor as a whole, so fewer blocks than actors leave some idle.
        positions = [{"position": position} for position in range(len(tasks))]
        results = ray.data.from_items(positions, override_num_blocks=len(tasks)).map_batches(
            Scorer,
            fn_constructor_args=(tasks, references, storage.uri, inference),
            batch_size=1,
            compute=ActorPoolStrategy(size=min(actors, len(tasks)), max_tasks_in_flight_per_actor=QUEUED_PER_ACTOR),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        for result in results.iter_rows():
            found = json.loads(result["facts"])
            if "refusal" in found:
                kind, what, where, mend = found["refusal"]
                raise getattr(errors, kind)(what, where=where, mend=mend)
            facts.update(zip(tasks[result["position"]], found["shards"], strict=True))
            bar.update(rows[result["position"]])
    return facts


def _tasks(missing: Sequence[Shard], storage: RunStorage) -> list[tuple[Shard, ...]]:
    """What an actor does in one call: a shard, for all models that read out the same frozen features of it."""
    backbones = {model: backbone_key(storage, model) for model in dict.fromkeys(shard.model for shard in missing)}
    tasks: dict[tuple[str, int], list[Shard]] = {}
    for shard in missing:
        tasks.setdefault((backbones[shard.model], shard.index), []).append(shard)
    return [tuple(task) for task in tasks.values()]


def _bar(texts: int) -> tqdm[Any]:
    """Progress on stderr, where that is a terminal."""
    return tqdm(total=texts, unit="text", desc="predict", file=sys.stderr, disable=not sys.stderr.isatty())
