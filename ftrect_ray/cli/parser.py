"""The grammar of ``ftrect``: commands, options, and one-line errors with a near match."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import NoReturn

from ftrect_ray import __version__
from ftrect_ray.errors import InputError, near_match

TARGETS = ["mean", "proportions", "difference", "quantile", "ols", "logistic", "poisson", "multinomial"]
#: GiB; beyond it is a slip of the unit.
MOST_MEMORY = 1e6


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors follow our grammar and suggest the option that was meant."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        unknown = re.search(r"argument ([^:]*): invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if unknown:
            option, word, known = unknown.groups()
            what = f"{option!r} cannot be {word!r}" if option.startswith("-") else f"unknown command {word!r}"
            choices = [name.strip("' ") for name in known.split(",")]
            raise InputError(what, where=self.prog, mend=near_match(word, choices))
        lone = re.fullmatch(r"argument (?:-\w, |-\w/)?(--[^:/]*): expected one argument", message)
        if lone:
            mend = f"give it one; one that begins with '-' as {lone[1]}=-…"
            raise InputError(f"{lone[1]!r} needs a value", where=self.prog, mend=mend)
        raise InputError(message, where=self.prog, mend=f"see '{self.prog} --help'")

    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings if option.startswith("--")]


def parse(parser: Parser, commands: dict[str, Parser], arguments: list[str]) -> argparse.Namespace:
    """Parse, and name the near match of an unknown option of the command that was chosen."""
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        chosen = commands.get(getattr(known, "command", ""), parser)
        name = unknown[0].partition("=")[0]
        if name.startswith("-"):
            raise InputError(f"unknown option {name!r}", where=chosen.prog, mend=near_match(name, chosen.options()))
        raise InputError(f"unexpected argument {name!r}", where=chosen.prog, mend=f"see '{chosen.prog} --help'")
    return known


# ------------------------------------------------------------------------------------------ option types


def open_unit(name: str) -> Callable[[str], float]:
    """A number inside (0, 1), bounds excluded."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < 1:
            raise InputError(f"{name!r} must be in (0, 1); got {text}", mend="write it as a fraction, for example 0.05")
        return value

    return convert


def positive(name: str, most: float = math.inf) -> Callable[[str], float]:
    """A finite number above 0, and not above ``most``."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name!r} must be a number > 0; got {text}")
        if value > most:
            raise InputError(f"{name!r} must be at most {most:g}; got {text}")
        return value

    return convert


def not_negative(name: str) -> Callable[[str], float]:
    """A finite number, 0 or above."""

    def convert(text: str) -> float:
        value = number(name)(text)
        if value < 0:
            raise InputError(f"{name!r} must be a number >= 0; got {text}")
        return value

    return convert


def whole(name: str, least: int = 0, most: int | None = None) -> Callable[[str], int]:
    """An integer between ``least`` and ``most``."""

    def convert(text: str) -> int:
        limit = f" and <= {most}" if most is not None else ""
        try:
            value = int(text)
        except ValueError:
            raise InputError(f"{name!r} must be a whole number; got {text}") from None
        if value < least or (most is not None and value > most):
            raise InputError(f"{name!r} must be >= {least}{limit}; got {text}")
        return value

    return convert


def number(name: str) -> Callable[[str], float]:
    """A finite number."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{name!r} must be a number; got {text}")
        return value

    return convert


def names(option: str) -> Callable[[str], tuple[str, ...]]:
    """``A,B``: at least one, each once."""

    def convert(text: str) -> tuple[str, ...]:
        listed = [name.strip() for name in text.split(",")]
        if not all(listed) or len(set(listed)) < len(listed):
            raise InputError(f"{option!r} takes different names with commas between them; got {text!r}")
        return tuple(listed)

    return convert


def name_of(option: str) -> Callable[[str], str]:
    """A name of 1 to 300 characters."""

    def convert(text: str) -> str:
        if not 0 < len(text.strip()) <= 300:
            raise InputError(f"{option!r} must not be empty, nor longer than 300 characters")
        return text

    return convert


def pair(option: str) -> Callable[[str], tuple[float, float]]:
    """``LOW,HIGH``."""

    def convert(text: str) -> tuple[float, float]:
        parts = text.split(",")
        if len(parts) != 2:
            raise InputError(f"{option!r} takes two numbers LOW,HIGH; got {text!r}", mend=f"for example {option} 1,10")
        low, high = (number(option)(part) for part in parts)
        return low, high

    return convert


def law(text: str) -> tuple[float, float, float]:
    """``A,ALPHA,B`` of the scaling law a·s^-α + b."""
    try:
        a, exponent, b = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"'--law' takes three numbers A,ALPHA,B; got {text!r}", mend="for example --law 10.21,0.21,1.98"
        ) from None
    return a, exponent, b


def rotations(text: str) -> tuple[tuple[int, int], ...]:
    """``P/Q,P/Q``: p of q folds train."""
    found = [re.fullmatch(r"(\d{1,3})/(\d{1,3})", part.strip()) for part in text.split(",")]
    pairs = tuple((int(match[1]), int(match[2])) for match in found if match)
    if len(pairs) < len(found) or any(not 0 < p < q for p, q in pairs):
        raise InputError(f"'--rotations' takes P/Q with 0 < P < Q; got {text!r}", mend="for example 2/3,1/3")
    return tuple(dict.fromkeys(pairs))


def build() -> tuple[Parser, dict[str, Parser]]:
    """The parser and its commands by name."""
    parser = Parser(
        prog="ftrect", description="What people think, from few human answers and much text: fine-tune, then rectify."
    )
    parser.add_argument("--version", action="version", version=f"ftrect {__version__}")
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    group = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    commands: dict[str, Parser] = {}

    def command(name: str, help_text: str) -> Parser:
        commands[name] = group.add_parser(name, help=help_text, description=help_text, parents=[common])
        return commands[name]

    init = command("init", "Write a commented study file to start from.")
    init.add_argument("study", metavar="STUDY.yaml")
    init.add_argument("--preset", choices=["0.5b", "7b", "70b"], help="settings for a model of this size")

    validate = command("validate", "Report every error of a study file and its data; run nothing.")
    _study_options(validate)
    validate.add_argument("--json", action="store_true", help="one JSON object on stdout")

    run = command("run", "Run the whole study; the same command again continues.")
    _study_options(run)
    _run_options(run)
    run.add_argument("--dry-run", action="store_true", help="print what would run, and about how long")
    run.add_argument("--json", action="store_true", help="print estimate.json on stdout")

    for name, help_text in _STAGE_HELP.items():
        stage = command(name, help_text)
        _study_options(stage)
        _run_options(stage)

    _estimate(
        command(
            "estimate", "Rectify predictions that are already in a table; rows without a label are the unlabelled ones."
        )
    )
    _plan(command("plan", "What a scaling law says of labels (split, folds, width), or a model's size of machines."))

    _evaluate(command("evaluate", "Replay designs many times on a table whose every answer is known; it continues."))

    _sample(command("sample", "Choose which rows to label next: more often where the model is likely to be far off."))

    export = command("export", "Write a model of a run as a folder that others can use without this package.")
    export.add_argument("run", metavar="RUN_DIR", help="a path or URI")
    export.add_argument("-o", "--output", required=True, metavar="DIR", help="new or empty")
    export.add_argument("--model", metavar="NAME", help="for example fold-0; default the only one")
    export.add_argument("--merge", action="store_true", help="the whole backbone, the adapter merged into it")
    export.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="of the stored weights")
    export.add_argument("--json", action="store_true", help="one JSON object on stdout")

    serve = command("serve", "Answer questions about finished runs over HTTP.")
    serve.add_argument("runs", metavar="RUN_DIR", nargs="+")
    serve.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1; another needs FTRECT_API_KEY")
    serve.add_argument("--port", type=whole("--port", 1, 65535), default=8000)

    submit = command("submit", "Run the study as a job of a Ray cluster.")
    _study_options(submit)
    submit.add_argument("-o", "--output", required=True, metavar="RUN_DIR", help="storage that the whole cluster sees")
    submit.add_argument("--address", required=True, metavar="http://HEAD:8265")
    submit.add_argument("--submission-id", help="submitting the same id again is refused by the cluster")
    submit.add_argument("--no-wait", action="store_true", help="return once the job is accepted")

    data = command("data", "Named data sets and models.")
    actions = data.add_subparsers(dest="action", metavar="list|fetch", required=True, parser_class=Parser)
    actions.add_parser("list", help="what there is", parents=[common])
    fetch = actions.add_parser("fetch", help="download and check one", parents=[common])
    fetch.add_argument("name", metavar="NAME")
    return parser, commands


_STAGE_HELP = {
    "pilot": "Pilot fine-tunes at several sizes (Ray Tune).",
    "allocate": "Fit the scaling law and choose the design.",
    "finetune": "The final fine-tunes (Ray Train with DeepSpeed).",
    "predict": "Predict every text (Ray Data).",
    "rectify": "The rectified estimate.",
    "report": "Write report.html and its figures.",
}


def _study_options(parser: Parser) -> None:
    parser.add_argument("study", metavar="STUDY.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.SUB=VALUE", help="override one setting")


def _run_options(parser: Parser) -> None:
    parser.add_argument("-o", "--output", metavar="RUN_DIR", help="a path or URI; default runs/<study>")
    parser.add_argument("--address", help="a Ray cluster; default a local one, or the cluster that runs this job")
    parser.add_argument(
        "--update", action="store_true", help="accept a changed study or changed data; redo what that invalidates"
    )


def _estimate(parser: Parser) -> None:
    parser.add_argument("table", metavar="TABLE", help="csv, jsonl or parquet; rows without a label are unlabelled")
    columns = parser.add_argument_group("columns")
    columns.add_argument("--label", required=True, metavar="COL", help="the answers")
    columns.add_argument(
        "--prediction",
        required=True,
        type=names("--prediction"),
        metavar="COL[,COL…]",
        help="by models that never saw the row's label; several, with --fold: column k by the model without fold k",
    )
    columns.add_argument("--fold", metavar="COL", help="fold 0, 1, … of each labelled row")
    columns.add_argument(
        "--features", type=names("--features"), default=(), metavar="A,B", help="of regressions; an intercept is added"
    )
    columns.add_argument("--groups", metavar="COL", help="of a difference: a column with two values")
    columns.add_argument("--label-other", metavar="COL", help="of a paired difference: the second answer to the row")
    columns.add_argument("--prediction-other", metavar="COL", help="and its prediction")
    columns.add_argument("--weight", metavar="COL", help="units of the population that a row stands for")
    columns.add_argument("--strata", metavar="COL", help="rows were drawn within these")
    columns.add_argument("--cluster", metavar="COL", help="sampling units that hold several rows")
    columns.add_argument("--probability", metavar="COL", help="with which a labelled row was chosen for labelling")
    columns.add_argument("--density-ratio", metavar="COL", help="target population over this sample (covariate shift)")
    columns.add_argument("--by", metavar="COL", help="an estimate for each value of this column")

    question = parser.add_argument_group("question")
    question.add_argument("--target", default="mean", choices=TARGETS)
    question.add_argument("--q", type=open_unit("q"), metavar="Q", help="of --target quantile; default 0.5")
    question.add_argument(
        "--coefficients", type=names("--coefficients"), metavar="A,B", help="report (and tune) these alone"
    )
    question.add_argument("--alpha", type=open_unit("alpha"), default=0.05, help="intervals have level 1 - alpha")
    question.add_argument("--alternative", choices=["two-sided", "larger", "smaller"], default="two-sided")
    question.add_argument("--null", type=number("--null"), metavar="VALUE", help="that p-values are of; default 0")
    question.add_argument("--simultaneous", action="store_true", help="all coefficients' intervals hold together")
    question.add_argument(
        "--population", choices=["infinite", "finite"], default="infinite", help="finite: this very table"
    )

    method = parser.add_argument_group("method")
    method.add_argument(
        "--lam",
        default="tuned",
        metavar="tuned|per-coordinate|crossfit|NUMBER",
        help="weight of the predictions: 1 is PPI, 0 the classical estimate",
    )
    method.add_argument("--quantiles", choices=["t", "normal"], default="t", help="that intervals rest on")
    method.add_argument("--bootstrap", choices=["studentised", "percentile"], help="loads the columns into memory")
    method.add_argument(
        "--replications", type=whole("--replications", 99), metavar="B", help="of --bootstrap; default 1999"
    )
    method.add_argument("--seed", type=whole("--seed"), help="of --bootstrap; default 0")

    reading = parser.add_argument_group("reading")
    reading.add_argument(
        "--missing",
        type=names("--missing"),
        default=(),
        metavar="NA,None",
        help="texts that count as empty; others do not",
    )
    reading.add_argument("--scale", type=pair("--scale"), metavar="LOW,HIGH", help="labels outside are refused")
    reading.add_argument("--max-rows", type=whole("--max-rows", 1), metavar="N", help="refuse a larger table")
    reading.add_argument("--max-bytes", type=whole("--max-bytes", 1), metavar="N", help="once decoded")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _evaluate(parser: Parser) -> None:
    parser.add_argument("study", metavar="STUDY.yaml", nargs="?", help="its table must be fully answered")
    parser.add_argument("--preset", choices=["wine", "vader"], help="instead of a study")
    parser.add_argument("--table", metavar="FILE", help="of --preset wine: a csv with 'description' and 'points'")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.SUB=VALUE", help="override one setting")
    parser.add_argument("--replications", type=whole("--replications", 2), required=True, metavar="R")
    parser.add_argument("--budgets", metavar="B,B", help="labels; default the preset's, or the study's")
    parser.add_argument("--designs", type=names("--designs"), metavar="A,B", help="default: all, or FTR's and ours")
    parser.add_argument(
        "--objectives", type=names("--objectives"), metavar="A,B", help="variance, mse; default variance"
    )
    parser.add_argument(
        "--lane", choices=["fast", "finetune"], default="fast", help="fast: frozen features, closed forms"
    )
    parser.add_argument("--texts", type=whole("--texts", 2), metavar="M", help="unlabelled texts of a replication")
    parser.add_argument(
        "--rows", type=whole("--rows", 2), metavar="N", help="a random sample of the table is the population"
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="a path or URI; default evaluations/<study>")
    parser.add_argument("--address", help="a Ray cluster; default a local one, or the cluster that runs this job")
    parser.add_argument("--dry-run", action="store_true", help="print what would be replayed")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _sample(parser: Parser) -> None:
    parser.epilog = (
        "Rows without a label are the candidates. Each gets a known probability, in proportion to how far the model "
        "is off where it predicts the like, learned from the rows that have a label; the file names the rows that "
        "were drawn. With their answers in the table, and the probability beside every label, 'ftrect estimate "
        "--probability probability' is valid for the mean of this table, and of the population that it is a random "
        "sample of. Labels from before count with probability 1 (--earlier fixed: always valid, also if the model was "
        "trained on them, but they then speak for no other row); or, if they are a simple random sample of this "
        "table and were predicted by models that did not see them, with their share of the chance (--earlier random: "
        "the better use of them). --all-rows writes that number beside them."
    )
    parser.add_argument("table", metavar="TABLE", help="csv, jsonl or parquet")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="new; .csv or .parquet")
    parser.add_argument("--label", required=True, metavar="COL", help="the answers so far, at least 10")
    parser.add_argument("--prediction", required=True, metavar="COL", help="of every row without a label")
    parser.add_argument("--labels", required=True, type=whole("--labels", 1), metavar="N", help="to buy")
    parser.add_argument("--id", metavar="COL", help="of each row; default: its number, counted from 1")
    parser.add_argument(
        "--columns", type=names("--columns"), metavar="A,B", help="to write beside it; default all, without the label"
    )
    parser.add_argument("--earlier", choices=["fixed", "random"], default="fixed", help="see below; default fixed")
    parser.add_argument(
        "--all-rows",
        action="store_true",
        help="write the whole table with 'probability' and 'chosen'; fill in the answers and estimate from it "
        "(columns of lists and structs are left out)",
    )
    parser.add_argument(
        "--floor",
        type=positive("--floor"),
        default=0.25,
        metavar="F",
        help="no probability below F·N/rows; default 0.25; 1 is simple random sampling",
    )
    parser.add_argument("--seed", type=whole("--seed"), default=0, help="default 0")
    parser.add_argument(
        "--missing", type=names("--missing"), default=(), metavar="NA,None", help="texts that count as no label"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _plan(parser: Parser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--law", type=law, metavar="A,ALPHA,B", help="Var(Y - f) = A·s^-ALPHA + B after s labels")
    what.add_argument(
        "--model",
        type=name_of("--model"),
        metavar="ID",
        help="0.5b, 7b, 70b, a named model, a folder with config.json, or a Hugging Face id",
    )

    labels = parser.add_argument_group("with --law")
    labels.add_argument("--labels", type=whole("--labels", 2), metavar="N", help="needed")
    labels.add_argument("--unlabeled", type=whole("--unlabeled", 1), metavar="M", help="default: unlimited")
    labels.add_argument(
        "--variance", type=positive("--variance"), metavar="S2", help="Var(Y); to compare with the classical mean"
    )
    labels.add_argument(
        "--half-width",
        type=positive("--half-width"),
        metavar="W",
        help="also say how many labels this half-width needs",
    )
    labels.add_argument("--alpha", type=open_unit("alpha"), help="default 0.05")
    labels.add_argument(
        "--population", choices=["infinite", "finite"], help="finite: the mean of this very table, N + M rows"
    )
    labels.add_argument(
        "--rectify-variance",
        type=positive("--rectify-variance"),
        metavar="V",
        help="Var(Y - f) of predictions that exist already",
    )
    labels.add_argument(
        "--max-finetunes", type=whole("--max-finetunes"), metavar="K", help="of the choice; default any"
    )
    labels.add_argument(
        "--spent",
        type=whole("--spent"),
        metavar="N",
        help="labels that pilots train on or measure with: a split that they size cannot rectify with them",
    )
    labels.add_argument(
        "--rotations", type=rotations, metavar="P/Q[,P/Q…]", help="also: P of Q folds train, rotated Q times"
    )
    labels.add_argument(
        "--difference",
        type=positive("--difference"),
        metavar="D",
        help="also the power to see it between the means of two equal groups",
    )
    labels.add_argument("--power", type=open_unit("--power"), help="that is wished for --difference; default 0.8")

    costs = parser.add_argument_group("costs, with --law")
    costs.add_argument("--label-price", type=not_negative("--label-price"), metavar="C", help="of one label")
    costs.add_argument("--gpu-hour-price", type=not_negative("--gpu-hour-price"), metavar="C", help="of a device-hour")
    costs.add_argument(
        "--seconds-per-label",
        type=not_negative("--seconds-per-label"),
        metavar="S",
        help="device-seconds of a whole fine-tune over its labels",
    )
    costs.add_argument(
        "--seconds-per-text", type=not_negative("--seconds-per-text"), metavar="S", help="to predict one text"
    )

    memory = parser.add_argument_group("with --model")
    memory.add_argument("--gpus", type=whole("--gpus", 1, 1024), metavar="N", help="needed; one worker each")
    memory.add_argument(
        "--gpu-memory", type=positive("--gpu-memory", MOST_MEMORY), metavar="GIB", help="needed; of one GPU"
    )
    memory.add_argument("--host-memory", type=positive("--host-memory", MOST_MEMORY), metavar="GIB", help="of one host")
    memory.add_argument(
        "--gpus-per-node", type=whole("--gpus-per-node", 1), metavar="N", help="default 8, or all where fewer"
    )
    memory.add_argument("--adapter", choices=["full", "lora", "head"], help="default full")
    memory.add_argument("--lora-rank", type=whole("--lora-rank", 1), metavar="R", help="default 8")
    memory.add_argument(
        "--options", type=whole("--options", 2, 200), metavar="K", help="read K answer options instead of a head"
    )
    memory.add_argument("--tokens", type=whole("--tokens", 8, 131_072), metavar="T", help="of a text; default 128")
    memory.add_argument("--batch", type=whole("--batch", 1), metavar="B", help="texts of a step, all GPUs; default 16")
    memory.add_argument("--precision", choices=["bf16", "fp32"], help="default bf16")
    memory.add_argument("--zero-stage", type=int, choices=[1, 2, 3], help="this one only")
    memory.add_argument("--offload", choices=["none", "optimizer", "parameters"], help="this one only")
    memory.add_argument(
        "--gradient-checkpointing", choices=["yes", "no", "auto"], help="default auto: where it is needed"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
