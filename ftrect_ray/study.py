"""The study file: every setting of a run, with its unit, its default and the reason for it.

Nothing outside this module knows YAML, and nothing below ``pipeline`` takes a whole :class:`Study`:
rooms take the part that they need.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ftrect_ray.errors import InputError, InputErrors, near_match

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
MAX_STUDY_BYTES = 1 << 20


Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """A frozen piece of a study; unknown keys are errors, numbers must be finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _yes_is_no_number(cls, values: Any) -> Any:
        """YAML reads ``yes`` as True, and Python would take True for 1."""
        for name, value in values.items() if isinstance(values, dict) else ():
            items = value if isinstance(value, list) else [value]
            if (
                name in cls.model_fields
                and cls.model_fields[name].annotation is not bool
                and True in map(_is_bool, items)
            ):
                raise ValueError(f"{name!r} must not be yes or no (true or false); got {value!r}")
        return values


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


class Data(Part):
    """Which table, and what its columns mean.

    Exactly one origin: ``source`` (a named data set), ``table`` (one file in which rows without an answer
    are the unlabelled ones), or ``labeled`` with ``unlabeled``. Files are csv, jsonl or parquet, local or a
    URI. The text is the column ``text``, or ``prompt`` with ``{column}`` fields filled in.
    """

    source: str | None = None
    table: str | None = None
    labeled: str | None = None
    unlabeled: str | None = None
    text: str | None = None
    prompt: str | None = None
    label: str = "label"
    id: str | None = "id"
    scale: tuple[float, float] | None = None
    prediction: str | None = None
    max_rows: Count = 50_000_000
    max_bytes: Count = 20 * 2**30

    @model_validator(mode="after")
    def _one_origin(self) -> Data:
        origins = [
            self.source is not None,
            self.table is not None,
            self.labeled is not None or self.unlabeled is not None,
        ]
        if sum(origins) != 1:
            raise ValueError("name exactly one origin: 'source', or 'table', or 'labeled' with 'unlabeled'")
        if (self.labeled is None) != (self.unlabeled is None):
            raise ValueError("'labeled' and 'unlabeled' go together")
        if (self.text is None) == (self.prompt is None):
            raise ValueError("give 'text' (a column) or 'prompt' (a template with {column} fields), not both")
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ValueError(f"'scale' must be [low, high] with low < high; got {list(self.scale)}")
        return self


class MeanTarget(Part):
    """The mean answer."""

    kind: Literal["mean"] = "mean"


class QuantileTarget(Part):
    """The q-quantile of the answers."""

    kind: Literal["quantile"]
    q: Share = 0.5


class OlsTarget(Part):
    """Coefficients of the linear regression of the answer on numeric columns (an intercept is added)."""

    kind: Literal["ols"]
    features: Annotated[list[str], Field(min_length=1)]


Target = Annotated[MeanTarget | QuantileTarget | OlsTarget, Field(discriminator="kind")]


class Lora(Part):
    """Low-rank adapters on all linear modules (values of FTR's Wine Reviews runs)."""

    rank: Count = 8
    alpha: Count = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05


class Model(Part):
    """The language model: a named one, a local folder, or a Hugging Face id.

    ``adapter``: ``full`` trains all weights, ``lora`` low-rank adapters, ``head`` the readout alone.
    ``pooling``: the mean over tokens (encoders) or the last token (causal models); ``auto`` looks at the model.
    ``max_tokens``: longer texts are cut, and the report says how many were.
    ``freeze_embeddings``: with few labels the embedding table learns nothing, and it is half of a small model.
    """

    name: Annotated[str, Field(min_length=1, max_length=300)] = "minilm"
    revision: str | None = None
    adapter: Literal["full", "lora", "head"] = "full"
    lora: Lora = Lora()
    pooling: Literal["auto", "mean", "last"] = "auto"
    max_tokens: Annotated[int, Field(ge=8, le=131_072)] = 128
    freeze_embeddings: bool = True


class Pilots(Part):
    """Small fine-tunes that measure the scaling law inside the label budget.

    ``sizes``: labels that one pilot consumes (its early-stopping rows included); nested subsets.
    ``seeds``: repetitions of each size with another nested order.
    ``validation``: labels on which the residual variance is measured; default a quarter of the budget.
    """

    sizes: Annotated[list[Annotated[int, Field(ge=10)]], Field(min_length=1)] = [50, 100, 200]
    seeds: Annotated[int, Field(ge=1, le=100)] = 2
    validation: Annotated[int, Field(ge=20)] | None = None
    max_failures: Annotated[int, Field(ge=0)] = 1

    @field_validator("sizes")
    @classmethod
    def _increasing(cls, sizes: list[int]) -> list[int]:
        if sorted(set(sizes)) != sizes:
            raise ValueError(f"must increase strictly; got {sizes}")
        return sizes


class Training(Part):
    """The fine-tune under Ray Train and DeepSpeed.

    ``batch_size`` is the rows of one optimiser step over all workers. ``stopping_fraction`` is the share of
    a fine-tune's own labels that choose its epoch. ``precision`` ``auto`` is bf16 where the processor has it.
    ``gpus_per_worker`` ``auto`` is 1 where the cluster has GPUs and 0 elsewhere.
    """

    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    zero_stage: Literal[1, 2, 3] = 2
    gpus_per_worker: Literal["auto"] | Annotated[int, Field(ge=0, le=1)] = "auto"
    cpus_per_worker: Count = 1
    epochs: Count = 8
    min_epochs: Count = 3
    patience: Count = 3
    batch_size: Count = 16
    learning_rate: Rate = 1e-4
    head_learning_rate: Rate = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip: Rate = 1.0
    stopping_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.15
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    max_failures: Annotated[int, Field(ge=0)] = 2

    @model_validator(mode="after")
    def _epochs(self) -> Training:
        if self.min_epochs > self.epochs:
            raise ValueError(f"'min_epochs' ({self.min_epochs}) must be ≤ 'epochs' ({self.epochs})")
        return self


class Inference(Part):
    """Batch prediction under Ray Data.

    ``actors`` ``auto``: one per GPU, or per CPU. ``shard_rows``: rows of one output file, the unit that a
    killed run does not repeat. ``batch_tokens``: padded tokens of one forward pass (measured best on CPU; raise
    it on a GPU).
    ``max_error_share``: above this share of texts without a prediction the estimate is refused.
    """

    actors: Literal["auto"] | Count = "auto"
    shard_rows: Count = 2000
    batch_tokens: Annotated[int, Field(ge=256)] = 2048
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    max_error_share: Annotated[float, Field(ge=0, le=1)] = 0.2


class Study(Part):
    """One study: a table, a question, a model, a budget of human answers.

    ``labels``: the budget, rows whose answers may be used for anything at all; default every labelled row.
    ``design``: how the labels are spent; ``auto`` compares the predicted variances after the pilots.
    ``folds``: folds of ``design: crossfit``. ``max_finetunes``: what ``auto`` may spend on final fine-tunes.
    ``finetune_labels``: labels that train under ``split`` and ``recycle``; default the law's s*.
    ``alpha``: the intervals have level 1 − alpha. ``seed``: every random choice of the run follows from it.
    """

    study: Annotated[str, Field(pattern=NAME_PATTERN)]
    data: Data
    target: Target = MeanTarget()
    labels: Annotated[int, Field(ge=2)] | None = None
    design: Literal["auto", "crossfit", "split", "recycle", "rectify-only", "classical"] = "auto"
    folds: Annotated[int, Field(ge=2, le=20)] = 2
    max_finetunes: Annotated[int, Field(ge=0, le=20)] = 2
    finetune_labels: Annotated[int, Field(ge=10)] | None = None
    model: Model = Model()
    objective: Literal["variance", "mse"] = "variance"
    pilots: Pilots | None = Pilots()
    training: Training = Training()
    inference: Inference = Inference()
    alpha: Share = 0.05
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 7

    @model_validator(mode="after")
    def _coherent(self) -> Study:
        if self.design == "auto" and self.pilots is None:
            raise ValueError("'design: auto' needs 'pilots', or name a design")
        if self.design in ("split", "recycle") and self.pilots is None and self.finetune_labels is None:
            raise ValueError(f"'design: {self.design}' without 'pilots' needs 'finetune_labels'")
        if self.design == "rectify-only" and self.data.prediction is None:
            raise ValueError("'design: rectify-only' needs 'data.prediction', the column with the predictions")
        return self


# ----------------------------------------------------------------------------------------------- reading


class _StudyLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and aliases, and reads ``1e-5`` as the number that it is."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not allowed", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                )
            if isinstance(key_node.value, str):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_StudyLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StudyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def parse_yaml(text: str, *, where: str) -> Any:
    """One YAML document as plain Python values; tags, aliases and duplicate keys are refused.

    Raises
    ------
    InputError
        Naming line and column.
    """
    try:
        return yaml.load(text, Loader=_StudyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        problem = error.problem or "not valid YAML"
        if "could not determine a constructor" in problem:
            raise InputError(
                f"YAML tags are not allowed: {problem.split()[-1]}", where=place, mend="write plain values"
            ) from None
        raise InputError(
            f"cannot read YAML: {problem}", where=place, mend="mend the line, then run 'ftrect validate'"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot read YAML: {str(error).splitlines()[0]}", where=where, mend="save the file as UTF-8 text"
        ) from None


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file and apply ``key.sub=value`` overrides (values are YAML).

    Raises
    ------
    InputErrors
        All problems at once, each with its dotted key.
    """
    where = str(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_STUDY_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cannot read the study file: {error.strerror}",
            where=where,
            mend="'ftrect init STUDY.yaml' writes one to start from",
        ) from None
    if len(raw) > MAX_STUDY_BYTES:
        raise InputError(
            f"the study file is larger than {MAX_STUDY_BYTES} bytes",
            where=where,
            mend="a study file holds settings, not data",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the study file is not UTF-8 text (byte {error.start})", where=where, mend="save it as UTF-8"
        ) from None
    return parse_study(text, overrides, where=where)


def parse_study(text: str, overrides: Sequence[str] = (), *, where: str = "study") -> Study:
    """:func:`load_study` for text that is already in memory."""
    document = parse_yaml(text, where=where)
    if not isinstance(document, dict):
        kind = "empty" if document is None else f"a {type(document).__name__}"
        raise InputError(
            f"a study file is a mapping of settings; this one is {kind}",
            where=where,
            mend="'ftrect init STUDY.yaml' writes one to start from",
        )
    for override in overrides:
        _apply(document, override)
    try:
        return Study.model_validate(document)
    except ValidationError as error:
        raise InputErrors([_input_error(problem, where) for problem in error.errors()]) from None


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise InputError(f"--set takes key.sub=value; got {override!r}", mend="for example --set training.epochs=4")
    node = document
    for name in path[:-1]:
        child = node.get(name)
        if not isinstance(child, dict):
            child = node[name] = {}
        node = child
    node[path[-1]] = parse_yaml(value, where=f"--set {key}")


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """The keys that the part of the study at ``location`` knows."""
    part: Any = Study
    for step in location:
        if step in ("mean", "quantile", "ols"):
            part = {"mean": MeanTarget, "quantile": QuantileTarget, "ols": OlsTarget}[str(step)]
            continue
        field = getattr(part, "model_fields", {}).get(str(step))
        if field is None:
            return []
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        part = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return list(getattr(part, "model_fields", {}))


def _input_error(problem: Any, where: str) -> InputError:
    location = list(problem["loc"])
    if location[:1] == ["target"]:
        del location[1:2]  # the union's tag is not a key of the file
    location = [step for step in location if not (isinstance(step, str) and ("[" in step or step in ("int", "float")))]
    key = ".".join(str(step) for step in location)
    kind, value = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        return InputError(
            f"unknown key {key!r}", where=where, mend=near_match(location[-1], _fields_at(problem["loc"][:-1]))
        )
    if kind == "missing":
        return InputError(f"{key!r} is missing", where=where, mend=f"add '{location[-1]}: …'")
    if kind == "union_tag_invalid":
        return InputError(
            f"'{key}.kind' must be one of {problem['ctx']['expected_tags']}; got {problem['ctx']['tag']!r}", where=where
        )
    shown = "" if isinstance(value, dict) else f"; got {value!r}"
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        shown = "" if isinstance(value, (dict, list)) else shown
        return InputError(
            f"{key!r}: {message}{shown}" if key else message,
            where=where,
            mend="see 'ftrect init' for the commented settings",
        )
    return InputError(f"{key!r}: {_lower(message)}{shown}", where=where, mend=_remedy(kind))


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _remedy(kind: str) -> str:
    return {
        "greater_than": "the interval is open: the bound itself is not allowed",
        "less_than": "the interval is open: the bound itself is not allowed",
        "string_pattern_mismatch": "letters, digits, '.', '_' and '-', 128 at most, first a letter or digit",
    }.get(kind, "see 'ftrect init' for the commented settings")


def default_study_text() -> str:
    """The commented study file that ``ftrect init`` writes and ``make demo`` runs."""
    return (Path(__file__).parent / "default_study.yaml").read_text(encoding="utf-8")


def dump_study(study: Study) -> str:
    """The whole study, defaults included, as YAML that :func:`parse_study` reads back."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def digest(value: Any) -> str:
    """Sixteen hex digits that name a JSON-able value; equal values, equal digest."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
