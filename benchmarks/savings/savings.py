"""What every design saves, and whether its intervals hold: `ftrect evaluate` on the default data and on Wine Reviews.

    make savings                                                   (hours on two cores; the same command continues)
    make savings WINE=winemag-130k-v2.csv
    .venv/bin/python benchmarks/savings/savings.py --output benchmarks/results --lanes finetune

The fast lane replays every design a thousand times with frozen features and closed forms. The slow lane fine-tunes:
all weights of MiniLM, and SmolLM2's answers to a prompt through LoRA; a replication of a design is minutes of one core.
All labels that trained, stopped or sized a model are charged. Writes ``savings.json`` and ``savings.md``; a folder of
runs keeps what is done.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ftrect_ray.evaluation.designs import NEEDS_ZERO_SHOT, PilotRule
from ftrect_ray.evaluation.driver import evaluate
from ftrect_ray.evaluation.presets import PROMPTS, preset
from ftrect_ray.evaluation.spec import AUTO, EvaluationSpec, Lane, default_designs
from ftrect_ray.evaluation.summary import ANY
from ftrect_ray.evaluation.titles import table_rows
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Candidate, Model, Pilots, Training

BUDGETS = {"fast": (300, 500, 700, 1000), "finetune": (300, 1000)}
REPLICATIONS = {"fast": 1000, "finetune": 30}
#: What the slow lane has time for; --designs names others, which join them.
FINETUNE_DESIGNS = ("mean", "crossfit-2", "auto")
#: Of the slow lane, by budget: unlabelled texts, since each fine-tune predicts them all; of n labels and m texts the
#: share n/(n + m) of what a model explains stays in the variance, a ninth and a thirteenth.
TEXTS = {300: 2_400, 1000: 12_000}
TEXTS_PER_LABEL = 8
#: Of the planner. Two is what a study allows it unless told otherwise.
MAX_FINETUNES = {"fast": 5, "finetune": 2}
#: What the fast lane replays with the mean square too: FTR's rows. With a free intercept both are one (FTR, Remark 1).
WITH_MSE = frozenset({"split-5", "split-10", "split-20", "split-30", "split-40", "crossfit-2", "crossfit-5"})
#: Designs that the fast lane leaves out, for they cost most of its time: splits beyond the best one, and more or other
#: folds than the planner's.
LEFT_OUT = frozenset({"split-50", "split-60", "crossfit-3", "crossfit-10"}) | {
    f"rotation-{turn}" for turn in ("1-3", "1-4", "2-4", "1-5", "3-5")
}
#: Of a model that knows the task from its prompt: few epochs, and a high rate for the adapter alone.
OF_PROMPTED = Training(workers=1, epochs=3, min_epochs=2, patience=2, learning_rate=5e-4)
#: The slow lane's pilots; the fast lane has those of ``evaluation.designs``, five fits of each size.
PILOTS = Pilots(scheme="shared", sizes=[50, 100, 200], seeds=1)

#: By lane and name, for a data set.
MODELS: dict[Lane, dict[str, Callable[[str], Candidate]]] = {
    "fast": {
        "minilm": lambda data: Candidate(model=Model(name="minilm")),
        "smollm2": lambda data: Candidate(model=_prompted(data, adapter="head", layer=24)),
    },
    "finetune": {
        "minilm": lambda data: Candidate(model=Model(name="minilm")),
        "smollm2": lambda data: Candidate(model=_prompted(data, adapter="lora"), training=OF_PROMPTED),
    },
}
TITLES = {
    ("minilm", "fast"): "MiniLM frozen, closed form",
    ("smollm2", "fast"): "SmolLM2-135M frozen, features of a prompt's last token, closed form",
    (ANY, "fast"): "the planner chooses the model too",
    ("minilm", "finetune"): "MiniLM, all weights fine-tuned",
    ("smollm2", "finetune"): "SmolLM2-135M, its answers to a prompt, LoRA",
    (ANY, "finetune"): "fine-tunes, the planner chooses the model too",
}
DATA = {"vader": "Default data", "wine": "Wine Reviews"}


@dataclass(frozen=True)
class Case:
    """One evaluation; models and designs that are named later join it. ``texts``: unlabelled ones, None for all."""

    data: str
    lane: Lane
    budgets: tuple[int, ...]
    texts: int | None = None

    @property
    def name(self) -> str:
        return "-".join([self.data, self.lane, *([] if self.texts is None else [str(self.texts)])])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the table and its JSON")
    parser.add_argument(
        "--wine", type=Path, help="csv with 'description' and 'points'; without it the default data alone"
    )
    parser.add_argument("--data", default="vader,wine", help="default both; wine needs --wine")
    parser.add_argument("--lanes", default="fast,finetune")
    parser.add_argument("--models", default="minilm,smollm2")
    parser.add_argument("--replications", type=int, help="default 1,000, in the slow lane 30")
    parser.add_argument("--budgets", help="default 300,500,700,1000, in the slow lane 300,1000")
    parser.add_argument("--designs", help="default all, in the slow lane some")
    parser.add_argument("--rows", type=int, help="of the population; default all")
    parser.add_argument("--texts", type=int, help="unlabelled ones of a replication; slow lane some, else all")
    parser.add_argument(
        "--runs", type=Path, default=Path(tempfile.gettempdir()) / "ftrect-savings", help="folder of the runs"
    )
    parser.add_argument("--table-only", action="store_true", help="write the table of what is measured")
    options = parser.parse_args()
    if unknown := sorted(set(options.data.split(",")) - set(DATA)):
        parser.error(f"--data {unknown[0]!r} is none of {', '.join(DATA)}")
    options.output.mkdir(parents=True, exist_ok=True)
    record = options.output / "savings.json"
    done: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    for case in () if options.table_only else cases(options):
        print(case.name, flush=True)
        done[case.name] = joined(done.get(case.name), {"data": case.data, "lane": case.lane, **measured(case, options)})
        RunStorage.open(options.output).write_json(done, record.name)
        (options.output / "savings.md").write_text(table(done))
    (options.output / "savings.md").write_text(table(done))
    return 0


def cases(options: argparse.Namespace) -> list[Case]:
    """The quick lane first."""
    data = [name for name in options.data.split(",") if name != "wine" or options.wine is not None]
    lanes: list[Lane] = [lane for lane in get_args(Lane) if lane in options.lanes.split(",")]
    return [case for lane in lanes for name in data for case in _of_lane(name, lane, options)]


def _of_lane(data: str, lane: Lane, options: argparse.Namespace) -> list[Case]:
    """One evaluation of all budgets, or in the slow lane one of each, with as many texts as it has time for."""
    budgets = tuple(map(int, options.budgets.split(","))) if options.budgets else BUDGETS[lane]
    if lane == "fast":
        return [Case(data, lane, budgets, options.texts)]
    texts = {budget: options.texts or TEXTS.get(budget, TEXTS_PER_LABEL * budget) for budget in budgets}
    return [Case(data, lane, (budget,), texts[budget]) for budget in budgets]


def measured(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """What ``ftrect evaluate`` says, as far as the table needs it."""
    fast = case.lane == "fast"
    study, further = preset(case.data, reviews(options.wine, options.runs) if case.data == "wine" else None, ())
    study = study.model_copy(
        update={
            "model": Model(),
            "candidates": {name: MODELS[case.lane][name](case.data) for name in options.models.split(",")},
            "training": Training(workers=1),
            "pilots": PILOTS,
        }
    )
    further |= {"pilots": PilotRule() if fast else None, "max_finetunes": MAX_FINETUNES[case.lane]}
    further |= {"budgets": case.budgets, "target_rows": options.rows or further["target_rows"]}
    every = default_designs(study, case.budgets, "fast", further["untrained"])
    designs = tuple(name for name in every if name not in LEFT_OUT) if fast else FINETUNE_DESIGNS
    if options.designs:
        designs = tuple(options.designs.split(","))
    documents = [
        evaluate(
            EvaluationSpec(
                study=study,
                replications=options.replications or REPLICATIONS[case.lane],
                designs=tuple(name for name in designs if objective == "variance" or name in WITH_MSE),
                objectives=(objective,),
                lane=case.lane,
                texts=case.texts,
                **further,
            ),
            str(options.runs / case.name),
        )
        for objective in (["mse", "variance"] if WITH_MSE & set(designs) and fast else ["variance"])
    ]
    last = documents[-1]
    kept = {key: last[key] for key in ("replications", "budgets", "alpha", "population", "texts")}
    return kept | {"rows": [row for document in reversed(documents) for row in document["rows"]]}


def joined(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured ``now``, and the models, budgets and designs of ``before`` that it does not have.

    A regret of ``now`` goes where ``before`` has a design beside it that saves more: it was told without it.
    """

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in ("model", "objective", "budget", "design"))

    if before is None:
        return dict(now)
    known = {key(row) for row in now["rows"]}
    others = [row for row in before["rows"] if key(row) not in known]
    theirs, ours = _most_saved(others), _most_saved(now["rows"])

    def compared(row: Mapping[str, Any]) -> dict[str, Any]:
        whole = ours[key(row)[:-1]] >= theirs.get(key(row)[:-1], -math.inf)
        return {name: value for name, value in row.items() if whole or "regret" not in name}

    return {
        **now,
        "budgets": sorted({*before["budgets"], *now["budgets"]}),
        "rows": [*map(compared, now["rows"]), *others],
    }


def _prompted(data: str, **settings: Any) -> Model:
    return Model(name="smollm2", max_tokens=192, options=PROMPTS[data], **settings)


def _most_saved(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], float]:
    """By model, objective and budget, over the designs that a study of the model may take; and over all models."""
    most: dict[tuple[Any, ...], float] = {}
    for row in rows:
        possible = row["design"] not in NEEDS_ZERO_SHOT and row.get("saved") is not None
        for model in (row["model"], ANY):
            of = (model, row["objective"], row["budget"])
            most[of] = max(most.get(of, -math.inf), row["saved"] if possible else -math.inf)
    return most


def reviews(file: Path, runs: Path) -> str:
    """The texts and points of ``file`` alone, in a new one: a part of the data set may end in the middle of a row."""
    with file.open(encoding="utf-8", newline="") as given:
        rows = [
            (row["description"], row["points"]) for row in csv.DictReader(given) if row["description"] and row["points"]
        ]
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / "reviews.csv").open("w", encoding="utf-8", newline="") as cut:
        csv.writer(cut).writerows([("description", "points"), *rows])
    return str(runs / "reviews.csv")


# -------------------------------------------------------------------------------------------------- the table


def table(done: Mapping[str, Any]) -> str:
    """Savings and coverage of every design, one table an evaluation, and what the planner knew."""
    lines = [
        "# What the designs save",
        "",
        "Command: `make savings WINE=…` (`python benchmarks/savings/savings.py --output benchmarks/results --wine …`)",
        "",
        "Saved: the share of labels that could be left out at the precision of the sample mean of all labels,",
        "1 − mean estimated variance / that of the sample mean, ± one Monte-Carlo error, paired by replication.",
        "In brackets the coverage of the 95 % interval of the population's mean. Every label that trained, stopped or",
        "sized a model is charged. Grid-best chooses the split by the outcome, which nobody can who has one study.",
        "PPI rectifies what an untrained SmolLM2-135M answers to a prompt, whatever the section's model. The planner's",
        "variance is compared with the listed designs that a study of the section's model can have.",
    ]
    for result in done.values():
        there = {row["model"] for row in result["rows"]}
        for model in (name for name in (*MODELS[result["lane"]], ANY) if name in there):
            lines += ["", *_section(model, result)]
    return "\n".join(lines) + "\n"


def _section(model: str, result: Mapping[str, Any]) -> list[str]:
    budgets, population = result["budgets"], result["population"]
    texts = f", {result['texts']:,} unlabelled texts each" if result["texts"] else ""
    own = [row for row in result["rows"] if row["model"] == model]
    replications = max(row["replications"] + row["unavailable"] for row in own)
    honest = max(row["coverage_honest"] for row in own if row["design"] == "mean")
    alone = f", {budgets[0]:,} labels" if len(budgets) == 1 else ""
    lines = [
        f"## {DATA[result['data']]}: {TITLES[model, result['lane']]}{alone}",
        "",
        f"{replications:,} replications of each budget, {population['rows']:,} rows{texts}. "
        f"The Monte-Carlo error of the coverage of honest intervals is {100 * honest:.1f} points.",
        "",
        "| design | " + " | ".join(f"{budget:,} labels" for budget in budgets) + " |",
        "|---|" + "---|" * len(budgets),
    ]
    rows = table_rows(result["rows"], model)
    for row in rows:
        cells = [_cell(row.by_budget.get(budget, {})) for budget in budgets]
        lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    for row in rows:
        if row.design == AUTO:
            lines += _planned([row.by_budget.get(budget, {}) for budget in budgets], budgets)
    return lines


def _planned(found: Sequence[Mapping[str, Any]], budgets: Sequence[int]) -> list[str]:
    """What the planner predicted, how far from the best design it came out, and what it chose."""
    ratios = [_number(one, "predicted_ratio", "{:.3f} ± {:.3f}", 1) for one in found]
    regrets = [_number(one, "regret", "{:.1f} ± {:.1f} %", 100) for one in found]
    chosen = "; ".join(f"{budget:,}: {one.get('chosen')}" for budget, one in zip(budgets, found, strict=True))
    return [
        "| planner: predicted / realised length | " + " | ".join(ratios) + " |",
        "| planner: variance over the best design's | " + " | ".join(regrets) + " |",
        "",
        f"The planner chose, by number of labels, {chosen}.",
    ]


def _cell(row: Mapping[str, Any]) -> str:
    if row.get("coverage") is None:
        return "–"
    return f"{_number(row, 'saved', '{:.1f} ± {:.1f} %', 100)} ({100 * row['coverage']:.1f} %)"


def _number(row: Mapping[str, Any], name: str, how: str, unit: float) -> str:
    value = row.get(name)
    return "–" if value is None else how.format(unit * value, unit * row[f"{name}_error"])


if __name__ == "__main__":
    raise SystemExit(main())
