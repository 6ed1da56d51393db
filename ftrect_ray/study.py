"""The study file: every setting of a run, with its unit, its default and the reason for it.

Nothing below ``pipeline`` takes a whole :class:`Study`: rooms take the part that they need. How a study is
written down is the business of ``study_file``.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


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

    ``weight``, ``strata``, ``cluster``: columns that say how the rows were sampled: how many units of the population
    a row stands for; groups within which rows were drawn; sampling units that hold several rows (a respondent's
    answers, say). Clusters are never cut between rows that train a model and rows that rectify it.
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
    weight: str | None = None
    strata: str | None = None
    cluster: str | None = None
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


def _distinct(features: list[str]) -> list[str]:
    if len(set(features)) < len(features):
        raise ValueError(f"a feature may be named once; got {features}")
    return features


Features = Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]


class MeanTarget(Part):
    """The mean answer."""

    kind: Literal["mean"] = "mean"


class QuantileTarget(Part):
    """The q-quantile of the answers."""

    kind: Literal["quantile"]
    q: Share = 0.5


class Regression(Part):
    """Coefficients of a regression of the answer on numeric columns (an intercept is added).

    ``coefficient``: the feature whose coefficient is of interest, for ``objective: coefficient``.
    """

    features: Features
    coefficient: str | None = None

    @model_validator(mode="after")
    def _is_a_feature(self) -> Regression:
        if self.coefficient is not None and self.coefficient not in self.features:
            raise ValueError(f"'coefficient' {self.coefficient!r} is not one of 'features': {self.features}")
        return self


class OlsTarget(Regression):
    """Linear regression."""

    kind: Literal["ols"]


class LogisticTarget(Regression):
    """Log-odds of an answer that is 0 or 1."""

    kind: Literal["logistic"]


class PoissonTarget(Regression):
    """Log-rates of an answer that is a count."""

    kind: Literal["poisson"]


Target = Annotated[
    MeanTarget | QuantileTarget | OlsTarget | LogisticTarget | PoissonTarget, Field(discriminator="kind")
]
TARGETS: dict[str, type[Part]] = {
    "mean": MeanTarget,
    "quantile": QuantileTarget,
    "ols": OlsTarget,
    "logistic": LogisticTarget,
    "poisson": PoissonTarget,
}


class Lora(Part):
    """Low-rank adapters on all linear modules (values of FTR's Wine Reviews runs).

    ``targets``: names of the modules that get one. ``more``: further fields of ``peft.LoraConfig``, ``use_dora`` say.
    """

    rank: Count = 8
    alpha: Count = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    more: dict[str, Any] = {}


class Options(Part):
    """A prompt around each text, and the answer read off the probabilities of its options, which works untrained.

    ``prompt``: with one ``{text}`` field; a text that is too long is cut inside it. ``answers``: options as the model
    would write them, and the number that each stands for. Without them, and always with ``adapter: head``, a regression
    head reads the hidden state of the prompt's last token instead. ``system``: the system message, where there is a
    chat template. ``chat``: put the prompt into the tokenizer's chat template; ``auto``, where it has one.
    """

    prompt: Annotated[str, Field(min_length=1, max_length=20_000)]
    answers: Annotated[dict[str, float], Field(max_length=200)] = {}
    system: str | None = None
    chat: Literal["auto", "yes", "no"] = "auto"

    @field_validator("answers", mode="before")
    @classmethod
    def _words(cls, answers: Any) -> Any:
        """YAML reads ``1:`` as a number and ``no:`` as False."""
        if not isinstance(answers, dict):
            return answers
        for option in answers:
            if _is_bool(option):
                raise ValueError(f"the option {option} was read as true or false: put it into quotes, 'yes' or 'no'")
        return {str(option): value for option, value in answers.items()}

    @model_validator(mode="after")
    def _sound(self) -> Options:
        if self.prompt.count("{text}") != 1:
            raise ValueError(
                f"'prompt' must have the field {{text}} once; it has it {self.prompt.count('{text}')} times"
            )
        if any(not option.strip() for option in self.answers):
            raise ValueError("an option of 'answers' is empty")
        if len({option.strip() for option in self.answers}) < len(self.answers):
            raise ValueError(f"two options of 'answers' differ in blanks only; got {list(self.answers)}")
        if self.answers and len(set(self.answers.values())) < 2:
            raise ValueError("'answers' must stand for at least two different numbers")
        return self


class Model(Part):
    """The language model: a named one, a local folder, or a Hugging Face id.

    ``adapter``: ``full`` trains all weights, ``lora`` low-rank adapters, ``head`` the readout alone, in closed form.
    ``pooling``: the mean over tokens (encoders) or the last token (causal models); ``auto`` looks at the model.
    ``max_tokens``: longer texts are cut, and the report says how many were.
    ``freeze_embeddings``: with few labels the embedding table learns nothing, and it is half of a small model.
    ``options``: put a prompt around each text (causal models), and read the answer off its options' probabilities.
    ``layer``: the regression head reads the states of this hidden layer (0: embeddings, -1: the last but one, default:
    the last); those above are left out. The middle ones often know more, and cost less.
    """

    name: Annotated[str, Field(min_length=1, max_length=300)] = "minilm"
    revision: str | None = None
    adapter: Literal["full", "lora", "head"] = "full"
    lora: Lora = Lora()
    pooling: Literal["auto", "mean", "last"] = "auto"
    max_tokens: Annotated[int, Field(ge=8, le=131_072)] = 128
    freeze_embeddings: bool = True
    options: Options | None = None
    layer: int | None = None

    @model_validator(mode="after")
    def _one_readout(self) -> Model:
        if self.options is not None and not self.has_options and self.pooling == "mean":
            raise ValueError("the head reads the prompt's last token: leave 'pooling: mean' out, or 'options'")
        if self.layer is not None and self.has_options:
            raise ValueError("'layer' is for a head: set 'adapter: head', or leave 'options.answers' or 'layer' out")
        return self

    @property
    def has_answers(self) -> bool:
        """Whether the model can be asked untrained: its prompt has answers to choose from."""
        return self.options is not None and bool(self.options.answers)

    @property
    def has_options(self) -> bool:
        """Whether the answer is read off the probabilities of options, and not by a regression head."""
        return self.has_answers and self.adapter != "head"


#: Of pilots: as many as the law has parameters.
LEAST_SIZES = 3


class Pilots(Part):
    """Small fine-tunes that measure the scaling law inside the label budget.

    ``scheme``: ``shared``: all at once, measured on one set of labels that none of them trains on; ``ramp-up``: the
    same size after size, until the fitted law says that a longer fine-tune would not pay; ``cross-validated``: no such
    set, the labels of each size are cut into ``folds`` and measured by models of the other folds; ``cross-fitted``: the
    budget is cut into ``folds``, and each measures models of every size, of labels outside it: the most certain law,
    and no label is lost to cross-fitting.
    ``sizes``: labels that one pilot consumes (its early-stopping rows included); nested subsets, three or more.
    ``seeds``: repetitions of each size with another nested order.
    ``validation``: labels on which the residual variance is measured; default a quarter of the budget.
    ``cpus_per_pilot``, ``gpus_per_pilot``: what one holds under Ray Tune, a share of a GPU say; ``auto``: what a
    training worker has.
    """

    scheme: Literal["shared", "ramp-up", "cross-validated", "cross-fitted"] = "shared"
    sizes: list[Annotated[int, Field(ge=10)]] = [50, 100, 300]
    seeds: Annotated[int, Field(ge=1, le=100)] = 2
    validation: Annotated[int, Field(ge=20)] | None = None
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    cpus_per_pilot: Count = 1
    gpus_per_pilot: Literal["auto"] | Annotated[float, Field(ge=0, le=8)] = "auto"
    max_failures: Annotated[int, Field(ge=0)] = 1

    @field_validator("sizes")
    @classmethod
    def _increasing(cls, sizes: list[int]) -> list[int]:
        if sorted(set(sizes)) != sizes:
            raise ValueError(f"must increase strictly; got {sizes}")
        if len(sizes) < LEAST_SIZES:
            raise ValueError(f"must be three or more, for the law has three parameters; got {sizes}")
        return sizes

    @field_validator("gpus_per_pilot")
    @classmethod
    def _a_share_or_whole(cls, gpus: float | str) -> float | str:
        if isinstance(gpus, float) and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"must be a share of one GPU or a whole number of them; got {gpus:g}")
        return gpus

    @model_validator(mode="after")
    def _scheme_has_its_sizes(self) -> Pilots:
        if self.in_folds and self.validation is not None:
            raise ValueError(f"'scheme: {self.scheme}' holds no labels for 'validation': leave it out")
        if self.scheme == "cross-validated" and self.sizes[0] < 2 * self.folds:
            raise ValueError(f"{self.folds} 'folds' of the smallest of 'sizes' {self.sizes} hold fewer than 2 labels")
        return self

    @property
    def in_folds(self) -> bool:
        """Whether each size is measured in ``folds``, and no label held back for it."""
        return self.scheme in ("cross-validated", "cross-fitted")

    @property
    def fits(self) -> int:
        """Fine-tunes of one model, where no size is left out."""
        return len(self.sizes) * self.seeds * (self.folds if self.in_folds else 1)


class Training(Part):
    """The fine-tune under Ray Train and DeepSpeed.

    ``batch_size`` is the rows of one optimiser step over all workers. ``stopping_fraction`` is the share of
    a fine-tune's own labels that choose its epoch, from ``min_epochs`` on (epochs of a high learning rate are
    not kept); after ``patience`` epochs without a better one training ends. ``precision`` ``auto`` is bf16 where
    the processor has it. ``gpus_per_worker`` ``auto`` is 1 where the cluster has GPUs and 0 elsewhere.

    ``micro_batch_size``: rows of one forward pass on one worker; a step of more rows accumulates gradients, and is
    the same step (default: no accumulation). ``offload``: keep the optimiser's state, or the weights too (ZeRO-3), in
    the host's memory. ``gradient_checkpointing``: compute activations twice instead of keeping them. ``optimizer``:
    torch's AdamW, or DeepSpeed's compiled one, which needs a compiler where it runs. ``checkpoint_seconds``,
    ``checkpoint_steps``: what a killed worker may lose at most, beside the checkpoint at the end of each epoch.
    """

    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    zero_stage: Literal[1, 2, 3] = 2
    gpus_per_worker: Literal["auto"] | Annotated[int, Field(ge=0, le=1)] = "auto"
    cpus_per_worker: Count = 1
    epochs: Count = 8
    min_epochs: Count = 6
    patience: Count = 3
    batch_size: Count = 16
    micro_batch_size: Count | None = None
    offload: Literal["none", "optimizer", "parameters"] = "none"
    gradient_checkpointing: bool = False
    optimizer: Literal["torch", "deepspeed"] = "torch"
    learning_rate: Rate = 1e-4
    head_learning_rate: Rate = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip: Rate = 1.0
    stopping_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    checkpoint_seconds: Rate = 120
    checkpoint_steps: Count | None = None
    max_failures: Annotated[int, Field(ge=0)] = 2

    @model_validator(mode="after")
    def _offload_has_its_stage(self) -> Training:
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError(f"'offload: parameters' needs 'zero_stage: 3'; got {self.zero_stage}")
        return self


class Inference(Part):
    """Batch prediction under Ray Data.

    ``actors`` ``auto``: one per GPU, or per CPU. ``shard_rows``: rows of one output file, the unit that a
    killed run does not repeat. ``batch_tokens``: padded tokens of one forward pass (measured best on CPU; raise
    it on a GPU). ``max_error_share``: above this share of texts without a prediction the estimate is refused.
    """

    actors: Literal["auto"] | Count = "auto"
    shard_rows: Count = 2000
    batch_tokens: Annotated[int, Field(ge=256)] = 2048
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    max_error_share: Annotated[float, Field(ge=0, le=1)] = 0.2


class Candidate(Part):
    """One of several models that the pilots compare. ``training``: its own; default the study's."""

    model: Model
    training: Training | None = None


def _short_name(name: str) -> str:
    """It becomes a part of pilots' names."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", name) is None:
        raise ValueError(
            f"a candidate's name has letters, digits, '_' and '-', 32 at most, first a letter or digit; got {name!r}"
        )
    return name


CandidateName = Annotated[str, AfterValidator(_short_name)]


class Study(Part):
    """One study: a table, a question, a model, a budget of human answers.

    ``population``: whom the estimate is for: those of whom the table is a random sample, or, ``finite``, the very rows
    of the table, the labels being a random sample of them.
    ``labels``: the budget, rows whose answers may be used for anything at all; default every labelled row.
    ``design``: how the labels are spent; ``auto`` compares the predicted variances after the pilots.
    ``folds``: folds of ``design: crossfit``. ``max_finetunes``: what ``auto`` may spend on final fine-tunes.
    ``finetune_labels``: labels that train under ``split`` and ``recycle``; default the law's s*.
    ``candidates``: several models, by names of your own, instead of ``model``: pilots measure each, and the plan says
    which of them to fine-tune on how many labels.
    ``objective``: what the fine-tune minimises on its labels: the residual variance Var(Y − f), the mean square (to
    compare), or for a regression target what its interval pays for: the variance of one ``coefficient``, or of all of
    them by ``trace`` or ``determinant``.
    ``alpha``: the intervals have level 1 − alpha. ``seed``: every random choice of the run follows from it.
    """

    study: Annotated[str, Field(pattern=NAME_PATTERN)]
    data: Data
    target: Target = MeanTarget()
    population: Literal["infinite", "finite"] = "infinite"
    labels: Annotated[int, Field(ge=2)] | None = None
    design: Literal["auto", "crossfit", "split", "recycle", "rectify-only", "classical"] = "auto"
    folds: Annotated[int, Field(ge=2, le=20)] = 2
    max_finetunes: Annotated[int, Field(ge=0, le=20)] = 2
    finetune_labels: Annotated[int, Field(ge=10)] | None = None
    model: Model = Model()
    candidates: Annotated[dict[CandidateName, Candidate], Field(min_length=1, max_length=20)] | None = None
    objective: Literal["variance", "mse", "coefficient", "trace", "determinant"] = "variance"
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
        if self.design not in ("split", "recycle") and self.finetune_labels is not None:
            raise ValueError(f"'finetune_labels' sizes 'split' and 'recycle'; 'design: {self.design}' needs none")
        if self.design == "rectify-only" and self.data.prediction is None and not self.model.has_answers:
            raise ValueError(
                "'design: rectify-only' needs 'data.prediction', the column with the predictions, or 'model.options', "
                "a prompt that an untrained model answers"
            )
        if self.objective in ("coefficient", "trace", "determinant") and not isinstance(self.target, Regression):
            raise ValueError(f"'objective: {self.objective}' is for regression targets, not for {self.target.kind}")
        if self.objective == "coefficient" and getattr(self.target, "coefficient", None) is None:
            raise ValueError("'objective: coefficient' needs 'target.coefficient', the feature of interest")
        if self.population == "finite":
            if self.design not in ("crossfit", "rectify-only", "classical"):
                raise ValueError("'population: finite' needs 'design: crossfit', 'rectify-only' or 'classical'")
            if self.data.weight is not None or self.data.cluster is not None:
                raise ValueError(
                    "'population: finite' goes with simple or stratified labels, not with weight or cluster"
                )
        return self

    @model_validator(mode="after")
    def _models_can_be_compared(self) -> Study:
        if self.candidates is not None:
            if self.model != Model():
                raise ValueError("give 'model' or 'candidates', not both: list the model among the candidates")
            if self.pilots is None or self.design in ("rectify-only", "classical"):
                raise ValueError(
                    "'candidates' are compared by pilots: give 'pilots' and a design that fine-tunes, "
                    "or name one 'model'"
                )
        for name, contender in self.contenders.items():
            if contender.model.adapter == "head" and contender.training.zero_stage == 3:
                of = f" of candidate {name!r}" if name else ""
                raise ValueError(
                    f"'adapter: head'{of} is fitted in closed form; 'zero_stage: 3' has no weights to partition"
                )
        return self

    @property
    def contenders(self) -> dict[str, Study]:
        """The study for each model that it may fine-tune, by the candidate's name; ``""`` where there is one model."""
        if self.candidates is None:
            return {"": self}
        return {name: self.with_candidate(name) for name in self.candidates}

    def with_candidate(self, name: str) -> Study:
        """The study as if the candidate ``name`` were its only model; itself where it has no such candidate."""
        if self.candidates is None or name not in self.candidates:
            return self
        candidate = self.candidates[name]
        training = candidate.training or self.training
        return self.model_copy(update={"model": candidate.model, "training": training, "candidates": None})


def digest(value: Any) -> str:
    """Sixteen hex digits that name a JSON-able value; equal values, equal digest."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
