"""What an evaluation replays, checked before anything is done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ftrect_ray.errors import InputError, InputErrors, near_match
from ftrect_ray.evaluation.designs import DESIGNS, NEEDS_ZERO_SHOT, PilotRule, fewest_labels, sizes_of_pilots
from ftrect_ray.evaluation.population import Population
from ftrect_ray.study import MeanTarget, Model, Study, Training, digest

Lane = Literal["fast", "finetune"]
OBJECTIVES = ("variance", "mse")
#: Designs that the slow lane replays where nobody names any: FTR's rows, with a coarse grid, and ours.
FINETUNE_DESIGNS = (
    "mean", "finetune-only", "ppi", "ppi++", "recalibrated", "split-ramp-up", "split-10", "split-20", "split-40",
    "recycle", "sequential", "crossfit-2", "crossfit-5", "rotation-2-5", "auto",
)  # fmt: skip
#: Design that every other is compared with, replication by replication; it is always replayed.
CLASSICAL = "mean"
#: The planner's choice of a design.
AUTO = "auto"
MOST_REPLICATIONS = 1_000_000
#: Two budgets at which equal rules agree, and others do not: V may be a share of the labels, or a number of them.
RULES_AT = (100, 1000)
#: Raised by one when records of an older program must not be mixed with new ones.
FORMAT = 1


@dataclass(frozen=True)
class Candidate:
    """A model and how it is trained."""

    model: Model
    training: Training

    @property
    def key(self) -> str:
        """Names it by its content."""
        return digest([self.model.model_dump(), self.training.model_dump()])


@dataclass(frozen=True)
class EvaluationSpec:
    """Replication × budget × design × objective × model, on one fully answered table.

    Attributes
    ----------
    study : Study
        Its data, models, training, alpha and seed are used.
    replications : int
        Fresh draws of the labels, for each budget.
    budgets : tuple of int
        Labels of one replication.
    designs : tuple of str
        See ``evaluation.designs``; ``mean`` is replayed besides.
    objectives : tuple of str
        What the fine-tunes minimise: ``variance``, ``mse``.
    lane : {"fast", "finetune"}
        ``fast``: the backbone stays frozen, its features are computed once, and every fit is a closed form.
    texts : int, optional
        Unlabelled texts of one replication; default all that are left.
    target_rows : int, optional
        Rows of the table that are the population, drawn once; default all.
    distinct : bool
        Rows with the text of an earlier one are left out.
    untrained : Model, optional
        Its answers to its prompt, without any training, are what is rectified by the designs that fine-tune nothing,
        where the table has no column of predictions and the candidate no prompt of its own.
    pilots : PilotRule, optional
        How ``auto`` and the ramp-up designs measure; default as the study says.
    max_finetunes : int, optional
        What ``auto`` may choose; default as the study says.
    notes : tuple of str
        Remarks for the page.
    """

    study: Study
    replications: int
    budgets: tuple[int, ...]
    designs: tuple[str, ...]
    objectives: tuple[str, ...] = ("variance",)
    lane: Lane = "fast"
    texts: int | None = None
    target_rows: int | None = None
    distinct: bool = False
    untrained: Model | None = None
    pilots: PilotRule | None = None
    max_finetunes: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if problems := [*_wrong_numbers(self), *_wrong_names(self)]:
            raise InputErrors(problems)

    @property
    def candidates(self) -> dict[str, Candidate]:
        """The study's models by name, in its order; in the fast lane their backbones are frozen."""
        found = {
            name or Path(study.model.name).name: Candidate(study.model, study.training)
            for name, study in self.study.contenders.items()
        }
        if self.lane == "finetune":
            return found
        return {
            name: Candidate(candidate.model.model_copy(update={"adapter": "head"}), candidate.training)
            for name, candidate in found.items()
        }

    @property
    def finetunes_allowed(self) -> int:
        """What ``auto`` may choose."""
        return self.study.max_finetunes if self.max_finetunes is None else self.max_finetunes

    def pilot_rule(self, budget: int) -> PilotRule:
        """How pilots spend ``budget`` labels."""
        return self.pilots or rule_of(self.study, budget)

    def remarks(self, population: Population) -> tuple[str, ...]:
        """``notes``, a population smaller than asked for, and pilots that a budget has no room for."""
        told = []
        if len(population) < (self.target_rows or 0):
            told.append(f"The population has {len(population):,} rows, where {self.target_rows:,} were asked for.")
        for budget in self.budgets if AUTO in self.designs else ():
            rule = self.pilot_rule(budget)
            if beyond := sorted(set(rule.sizes or ()) - set(sizes_of_pilots(AUTO, rule, budget) or ())):
                named = ", ".join(map(str, beyond))
                told.append(f"{budget} labels have no room for pilots of {named}: ‘auto’ does without them there.")
        return (*self.notes, *told)

    @property
    def replayed(self) -> tuple[str, ...]:
        """``designs`` with the one that they are compared with, which comes first."""
        return (CLASSICAL, *(name for name in self.designs if name != CLASSICAL))

    def check_against(self, population: Population) -> None:
        """Refuse what the table does not allow.

        Raises
        ------
        InputErrors
            A budget is not below the number of rows, or allows fewer different draws than there are replications; more
            texts than are left.
        """
        n, problems = len(population), []
        if np.ptp(population.rows.answers) == 0:
            problems.append(InputError("all answers are equal: no design can save anything", where="data.label"))
        for budget in self.budgets:
            if budget > n - 2:
                problems.append(
                    InputError(
                        f"a budget of {budget} labels leaves {max(n - budget, 0)} unlabelled rows: the table has {n}",
                        where="--budgets",
                        mend=f"budgets must be at most {n - 2}",
                    )
                )
            elif n < 64 and math.comb(n, budget) < self.replications:
                problems.append(
                    InputError(
                        f"{self.replications} replications, but {n} rows have only {math.comb(n, budget)} different "
                        f"sets of {budget} labels",
                        where="--replications",
                        mend="give a larger table, or fewer replications",
                    )
                )
        if self.texts is not None and not problems and self.texts > (left := n - max(self.budgets)):
            problems.append(
                InputError(
                    f"{self.texts:,} unlabelled texts, and {max(self.budgets)} labels leave {left:,} of {n:,} rows",
                    where="--texts",
                    mend=f"ask for {left} at most, or leave it out to take all",
                )
            )
        if problems:
            raise InputErrors(problems)

    def asked(self, candidate: Candidate) -> Model | None:
        """The model whose answers to its prompt are rectified, where the table has no column of predictions."""
        return candidate.model if candidate.model.has_answers else self.untrained

    def identity(self, population: Population) -> dict[str, Any]:
        """What records must share to stand in one folder, beside their own key."""
        return {
            "format": FORMAT,
            "data": population.digest,
            "seed": self.study.seed,
            "alpha": self.study.alpha,
            "pilots": digest([asdict(self.pilot_rule(n)) for n in RULES_AT]),
            "max_finetunes": self.finetunes_allowed,
            "untrained": None if self.untrained is None else digest(self.untrained.model_dump()),
            "lane": self.lane,
            "texts": self.texts,
        }


def rule_of(study: Study, budget: int) -> PilotRule:
    """How the pilots of ``study`` spend ``budget`` labels."""
    pilots = study.pilots
    if pilots is None:
        return PilotRule()
    sizes = tuple(pilots.sizes)
    return PilotRule(
        scheme=pilots.scheme,
        sizes=sizes,
        ramp=sizes if pilots.scheme == "ramp-up" else None,
        seeds=pilots.seeds,
        folds=pilots.folds,
        validation=(pilots.validation or budget // 4) / budget,
    )


def default_designs(
    study: Study, budgets: Sequence[int], lane: Lane, untrained: Model | None, pilots: PilotRule | None = None
) -> tuple[str, ...]:
    """What is replayed where nobody names designs: all that ``budgets`` and models allow, in the slow lane fewer."""
    there, beyond = _possible(study, lane, untrained), left_out(study, budgets, lane, untrained, pilots)
    return tuple(name for name in there if name not in beyond)


def left_out(
    study: Study, budgets: Sequence[int], lane: Lane, untrained: Model | None, pilots: PilotRule | None = None
) -> tuple[str, ...]:
    """What :func:`default_designs` leaves out because the smallest budget is too small for it or for its pilots."""
    least = max(min(budgets, default=0), 1)
    rule = pilots or rule_of(study, least)
    return tuple(
        name
        for name in _possible(study, lane, untrained)
        if fewest_labels(name) > least or sizes_of_pilots(name, rule, least) == ()
    )


def _possible(study: Study, lane: Lane, untrained: Model | None) -> tuple[str, ...]:
    given = has_untrained(study, untrained)
    names = DESIGNS if lane == "fast" else FINETUNE_DESIGNS
    return tuple(name for name in names if given or name not in NEEDS_ZERO_SHOT)


def has_untrained(study: Study, untrained: Model | None) -> bool:
    """Whether there are predictions of a model that saw no label: a column of the table, or an answered prompt."""
    models = [untrained, *(one.model for one in study.contenders.values())]
    return study.data.prediction is not None or any(model is not None and model.has_answers for model in models)


def parse_counts(option: str, text: str) -> tuple[int, ...]:
    """``300,500`` as increasing whole numbers.

    Raises
    ------
    InputError
    """
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{option!r} takes whole numbers with commas between them; got {text!r}",
            mend=f"for example {option} 300,500",
        ) from None
    return counts


def refuse_other(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuse a folder whose records are of another evaluation; further models, budgets and designs may join them.

    Parameters
    ----------
    before, now : mapping
        ``identity`` and ``models`` (name to key) of both.

    Raises
    ------
    InputError
        Naming what differs.
    """
    changed = [name for name, value in before["identity"].items() if now["identity"].get(name) != value]
    changed += [f"model {name}" for name, key in before["models"].items() if now["models"].get(name, key) != key]
    if changed:
        raise InputError(
            f"the folder holds results of another evaluation: {', '.join(changed)} differ",
            where=where,
            mend="choose another folder with -o; replications, budgets, designs and models may be added to this one",
        )


def _wrong_numbers(spec: EvaluationSpec) -> list[InputError]:
    problems = []
    if spec.replications < 2:
        problems.append(
            InputError(
                f"{spec.replications} replications have no Monte-Carlo error",
                where="--replications",
                mend="give 2 at least; hundreds tell a coverage from its promise",
            )
        )
    if spec.replications > MOST_REPLICATIONS:
        problems.append(
            InputError(
                f"{spec.replications} replications are more than {MOST_REPLICATIONS:,}",
                where="--replications",
                mend="a thousand tell a coverage to 0.7 points",
            )
        )
    if spec.budgets and min(spec.budgets) < 2:
        problems.append(InputError(f"a budget must be at least 2 labels; got {min(spec.budgets)}", where="--budgets"))
    if not spec.budgets or list(spec.budgets) != sorted(set(spec.budgets)):
        problems.append(
            InputError(
                f"budgets must increase strictly; got {', '.join(map(str, spec.budgets)) or 'none'}", where="--budgets"
            )
        )
    for name, value in (("--texts", spec.texts), ("target rows", spec.target_rows)):
        if value is not None and value < 2:
            problems.append(InputError(f"{name} must be at least 2; got {value}", where=name))
    if not isinstance(spec.study.target, MeanTarget):
        problems.append(
            InputError(
                f"an evaluation replays the mean; the study asks for {spec.study.target.kind}",
                where="target",
                mend="add --set target='{kind: mean}'",
            )
        )
    return problems


def _wrong_names(spec: EvaluationSpec) -> list[InputError]:
    if not spec.budgets or min(spec.budgets) < 2:
        return []
    problems = [*_unknown("--designs", spec.designs, DESIGNS), *_unknown("--objectives", spec.objectives, OBJECTIVES)]
    problems += _unknown("--lane", [spec.lane], get_args(Lane))
    if problems:
        return problems
    if not has_untrained(spec.study, spec.untrained) and (needing := NEEDS_ZERO_SHOT & set(spec.designs)):
        problems.append(
            InputError(
                f"{', '.join(sorted(needing))} rectify predictions of an untrained model, and there are none",
                where="--designs",
                mend="give 'data.prediction' (a column) or 'model.options' (a prompt), or leave them out",
            )
        )
    for name in spec.designs:
        if (fewest := fewest_labels(name)) > min(spec.budgets):
            problems.append(
                InputError(
                    f"design {name!r} needs {fewest} labels; the smallest budget is {min(spec.budgets)}",
                    where="--budgets",
                    mend=f"raise the budget, or leave {name!r} out of --designs",
                )
            )
        elif sizes_of_pilots(name, spec.pilot_rule(min(spec.budgets)), min(spec.budgets)) == ():
            problems.append(
                InputError(
                    f"the pilots of design {name!r} have no room in {min(spec.budgets)} labels",
                    where="--budgets",
                    mend=f"raise the budget, lower pilots.sizes, or leave {name!r} out of --designs",
                )
            )
    return problems


def _unknown(option: str, names: Sequence[str], known: Sequence[str] | Mapping[str, Any]) -> list[InputError]:
    problems = [
        InputError(f"{option} does not know {name!r}", where=option, mend=near_match(name, known))
        for name in names
        if name not in known
    ]
    if not names or len(set(names)) < len(names):
        problems.append(InputError(f"{option} takes different names; got {', '.join(names) or 'none'}", where=option))
    return problems
