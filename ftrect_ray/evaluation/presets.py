"""Evaluations that come with the product: the authors' protocol for Wine Reviews, and the default data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ftrect_ray.errors import InputError
from ftrect_ray.evaluation.designs import PilotRule
from ftrect_ray.study import Model, Options, Study
from ftrect_ray.study_file import parse_study

#: Reviews whose mean is the truth in FTR's Wine Reviews, where the file has as many.
TARGET_REVIEWS = 15_000

#: Sizes of FTR's pilots.
RAMP = tuple(range(50, 701, 50))


@dataclass(frozen=True)
class Preset:
    """A study, and how it is evaluated unless the command says otherwise.

    Attributes
    ----------
    study : str
        YAML; ``{table}`` stands for the file's name in quotes.
    needs_table : bool
    pilots : PilotRule
        Unless the user says otherwise.
    notes : tuple of str
        What a reader of the page should know.
    """

    study: str
    needs_table: bool
    budgets: tuple[int, ...] = (300, 500, 700, 1000)
    distinct: bool = False
    target_rows: int | None = None
    pilots: PilotRule = field(default_factory=PilotRule)
    notes: tuple[str, ...] = ()


#: Made-up examples, then the text: an untrained SmolLM2 orders texts by these words.
PROMPTS = {
    "wine": Options(
        prompt="Review: Thin and sour, with an odd smell of rubber.\nQuality: poor\n\n"
        "Review: Deep, complex and beautifully balanced, with a finish that never ends.\nQuality: excellent\n\n"
        "Review: {text}\nQuality:",
        answers={"poor": 82, "fair": 85, "good": 88, "great": 91, "excellent": 94},
        chat="no",
    ),
    "vader": Options(
        prompt="Text: What a wonderful surprise, I am so happy!\nFeeling: very positive\n\n"
        "Text: The bus was late again and I got soaked.\nFeeling: negative\n\n"
        "Text: The meeting is on Monday.\nFeeling: neutral\n\nText: {text}\nFeeling:",
        answers={"very negative": -3, "negative": -1.5, "neutral": 0, "positive": 1.5, "very positive": 3},
        chat="no",
    ),
}

PRESETS: dict[str, Preset] = {
    "wine": Preset(
        needs_table=True,
        distinct=True,
        target_rows=TARGET_REVIEWS,
        notes=(
            "FTR samples 25,000 of 119,955 unique reviews, keeps 10,000 for a law outside the budget, and the mean of "
            "the other 15,000 is the truth. Here every label is charged, so nothing is kept aside: the target is "
            "15,000 unique reviews, or all where the file has fewer.",
        ),
        pilots=PilotRule(scheme="ramp-up", sizes=RAMP, ramp=RAMP),
        study=f"""\
study: wine-reviews
data: {{table: {{table}}, text: description, label: points, id: null, scale: [80, 100]}}
model:
  name: smollm2
  adapter: lora
  lora: {{rank: 8, alpha: 16, dropout: 0.05, targets: all-linear}}
  pooling: last
  max_tokens: 192
max_finetunes: 5
pilots: {{scheme: ramp-up, sizes: {list(RAMP)}, seeds: 1}}
training:
  workers: 1
  epochs: 20
  min_epochs: 4
  patience: 4
  batch_size: 128
  learning_rate: 2.0e-4
  head_learning_rate: 5.0e-4
  weight_decay: 0.01
  clip: 1.0
""",
    ),
    "vader": Preset(
        needs_table=False,
        study="""\
study: vader-valence
data: {source: vader, text: text, label: rating, id: id, scale: [-4, 4]}
max_finetunes: 5
""",
    ),
}


def preset(name: str, table: str | None, overrides: Sequence[str]) -> tuple[Study, dict[str, Any]]:
    """The study of a preset, and what an ``EvaluationSpec`` takes from it.

    Raises
    ------
    InputError
        It needs a table, or has no use for one.
    """
    chosen = PRESETS[name]
    if chosen.needs_table and table is None:
        raise InputError(f"preset {name!r} needs the file of its table", where="--table", mend="give --table FILE")
    if table is not None and not chosen.needs_table:
        raise InputError(f"preset {name!r} has its own table", where="--table", mend="leave --table out")
    text = chosen.study if table is None else chosen.study.replace("{table}", json.dumps(table))
    study = parse_study(text, overrides, where=f"preset {name}")
    untrained = Model(name="smollm2", max_tokens=192, options=PROMPTS[name])
    settings = {"distinct": chosen.distinct, "target_rows": chosen.target_rows, "notes": chosen.notes}
    renamed = any(override.partition("=")[0].split(".")[0].strip() == "pilots" for override in overrides)
    pilots = None if renamed else chosen.pilots
    return study, settings | {"budgets": chosen.budgets, "untrained": untrained, "pilots": pilots}
