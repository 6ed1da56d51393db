"""Every setting compared, the largest micro-batch of each, and the fastest that fits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from math import ceil
from typing import Any, Literal

import torch

from ftrect_ray.errors import InputError
from ftrect_ray.sizing.architecture import Census, census, config_of, skeleton
from ftrect_ray.sizing.presets import PRESETS
from ftrect_ray.sizing.states import (
    CONTEXT,
    FRAGMENTED,
    GIB,
    Cluster,
    Line,
    Moment,
    Offload,
    Setting,
    States,
    reserve,
)
from ftrect_ray.sizing.walk import Activations
from ftrect_ray.study import Model

Precision = Literal["bf16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
OFFLOADS: tuple[Offload, ...] = ("none", "optimizer", "parameters")
STAGES: tuple[Literal[1, 2, 3], ...] = (2, 1, 3)  # of equal passes the first: 3 sends weights, 1 saves nothing over 2
MOST_GPUS = 1024
MOST_ROWS = 4096


@dataclass(frozen=True)
class Choice:
    """What of the settings the user has fixed; None is free."""

    zero_stage: Literal[1, 2, 3] | None = None
    offload: Offload | None = None
    checkpointing: bool | None = None


@dataclass(frozen=True)
class Forecast:
    """What one setting needs.

    Attributes
    ----------
    setting : Setting
    micro_batch : int
        Texts that the forecast is for: as many as fit, at most one GPU's share of a step, at least 1.
    most : int
        The largest micro-batch that fits; 0 where none does.
    passes : int
        Forward passes of a text in one step: 1, and one more each for accumulation and for checkpointing.
    gpu, host : tuple of Moment
        Of one GPU, and of one host.
    refusal : str
        Whose memory is too small, ``GPU`` or ``host``; empty where it fits.
    """

    setting: Setting
    micro_batch: int
    most: int
    passes: int
    gpu: tuple[Moment, ...]
    host: tuple[Moment, ...]
    refusal: str

    @property
    def gpu_peak(self) -> Moment:
        return max(self.gpu, key=lambda moment: moment.bytes)

    @property
    def host_peak(self) -> Moment:
        return max(self.host, key=lambda moment: moment.bytes)

    @property
    def reserve(self) -> Line:
        return reserve(self.gpu_peak.bytes)

    @property
    def gpu_bytes(self) -> int:
        """Of a GPU, the framework's reserve included."""
        return self.gpu_peak.bytes + self.reserve.bytes

    @property
    def rank(self) -> tuple[int, int, int, int]:
        """The lower, the faster: offload, passes, texts at a time, communication."""
        stage = STAGES.index(self.setting.zero_stage)
        return OFFLOADS.index(self.setting.offload), self.passes, -self.micro_batch, stage


@dataclass(frozen=True)
class Plan:
    """The settings of a fine-tune compared.

    Attributes
    ----------
    model : Model
    census : Census
    cluster : Cluster
    precision : str
    batch : int
        Texts of one step over all GPUs.
    forecasts : tuple of Forecast
        The fastest first, those that do not fit last.
    pilot : Forecast
        The best setting on one GPU, where pilots train.
    """

    model: Model
    census: Census
    cluster: Cluster
    precision: Precision
    batch: int
    forecasts: tuple[Forecast, ...]
    pilot: Forecast

    @property
    def best(self) -> Forecast:
        """The fastest that fits; where none fits, the one that needs the smallest GPUs."""
        return _best(self.forecasts)

    @property
    def actor_bytes(self) -> int:
        """Of a GPU that predicts: the weights, which an actor holds alone, and the framework's reserve."""
        weights = DTYPES[self.precision].itemsize * self.census.total
        return weights + reserve(weights).bytes

    @property
    def fitting(self) -> tuple[Forecast, ...]:
        return tuple(forecast for forecast in self.forecasts if not forecast.refusal)

    def disk(self) -> tuple[Line, ...]:
        """What the best setting writes."""
        states = States(self.census, self.best.setting, self.cluster.gpus, DTYPES[self.precision].itemsize, False)
        return states.disk(whole=self.model.adapter == "full")

    def fragment(self) -> dict[str, dict[str, Any]]:
        """The best setting as it stands in a study."""
        preset = PRESETS.get(self.model.name)
        name = preset.model if preset else self.model.name
        model: dict[str, Any] = {"name": name, "adapter": self.model.adapter}
        if self.model.adapter == "lora":
            model["lora"] = {"rank": self.model.lora.rank, "alpha": self.model.lora.alpha}
        setting = self.best.setting
        training = {
            "workers": self.cluster.gpus,
            "zero_stage": setting.zero_stage,
            "offload": setting.offload,
            "gradient_checkpointing": setting.checkpointing,
            "batch_size": self.batch,
            "micro_batch_size": self.best.micro_batch,
            "precision": self.precision,
        }
        return {"model": {**model, "max_tokens": self.model.max_tokens}, "training": training}


class Subject:
    """A model to plan for. Its walks are taken once, when they are first asked for.

    Raises
    ------
    InputError
        The model is unknown, cannot be built or walked, or reads fewer tokens.
    """

    def __init__(self, model: Model, precision: Precision, *, padded: bool = True) -> None:
        self.padded = padded  # texts differ in length
        self.model, self.precision, self.dtype = model, precision, DTYPES[precision]
        self.predictor = skeleton(config_of(model), model)
        if model.adapter == "head":
            self.predictor.requires_grad_(False)  # the head is fitted in closed form, without gradients
        self.census = census(self.predictor)
        self._walks: dict[bool, Activations] = {}

    def activations(self, checkpointing: bool) -> Activations:
        if checkpointing not in self._walks:
            tokens = self.model.max_tokens
            self._walks[checkpointing] = Activations.of(
                self.predictor, tokens, self.dtype, checkpointing, padded=self.padded
            )
        return self._walks[checkpointing]


def plan_training(subject: Subject, cluster: Cluster, batch: int, choice: Choice) -> Plan:
    """Forecast every setting that ``choice`` leaves open, for ``batch`` texts in a step over all GPUs.

    Raises
    ------
    InputError
        ``choice`` leaves none open.
    """
    settings = list(_settings(subject, choice))
    if not settings:
        raise InputError(
            "no setting is like that: parameters are offloaded at stage 3 only, a head alone is fitted in closed form, "
            "and some models cannot checkpoint",
            where="ftrect plan",
            mend="leave --zero-stage, --offload or --gradient-checkpointing out",
        )
    forecasts = [_forecast(subject, setting, cluster, batch) for setting in settings]
    forecasts.sort(key=lambda forecast: (bool(forecast.refusal), forecast.rank))
    pilot = _forecast(subject, _best(forecasts).setting, replace(cluster, gpus=1), batch)
    return Plan(subject.model, subject.census, cluster, subject.precision, batch, tuple(forecasts), pilot)


def _best(forecasts: Sequence[Forecast]) -> Forecast:
    smallest = min(forecasts, key=lambda forecast: forecast.gpu_bytes)
    return next((forecast for forecast in forecasts if not forecast.refusal), smallest)


def remedies(subject: Subject, plan: Plan, choice: Choice) -> list[str]:
    """What would make a plan fit that does not, each by itself."""

    def fits(subject: Subject, cluster: Cluster, choice: Choice) -> bool:
        return bool(plan_training(subject, cluster, plan.batch, choice).fitting)

    cluster, found = plan.cluster, []
    if choice != Choice() and fits(subject, cluster, Choice()):
        found.append("leave --zero-stage, --offload and --gradient-checkpointing out")
    if subject.model.adapter == "full":
        smaller = Subject(subject.model.model_copy(update={"adapter": "lora"}), subject.precision)
        found += ["--adapter lora"] if fits(smaller, cluster, Choice()) else []
    more = (cluster.gpus * 2**power for power in range(1, MOST_GPUS.bit_length()))
    enough = (gpus for gpus in more if gpus <= MOST_GPUS and fits(subject, replace(cluster, gpus=gpus), choice))
    found += [f"--gpus {gpus}" for gpus in [next(enough, None)] if gpus]
    room = [f for f in plan.forecasts if cluster.host_bytes is None or f.host_peak.bytes <= cluster.host_bytes]
    if room:
        found.append(f"--gpu-memory {ceil(min(forecast.gpu_bytes for forecast in room) / GIB)}")
    if hosts := [forecast.host_peak.bytes for forecast in plan.forecasts if forecast.refusal == "host"]:
        found.append(f"--host-memory {ceil(min(hosts) / GIB)}")
    return found


def _settings(subject: Subject, choice: Choice) -> Iterator[Setting]:
    """The settings that are possible and asked for. A head is fitted in closed form: there is but one."""
    if subject.model.adapter == "head":
        possible = [Setting(2, "none", False)]
    else:
        possible = [
            Setting(stage, offload, checkpointing)
            for stage in STAGES
            for offload in OFFLOADS
            for checkpointing in (False, True)
            if (offload != "parameters" or stage == 3)
            and (not checkpointing or subject.predictor.base.supports_gradient_checkpointing)
        ]
    for setting in possible:
        asked = zip((choice.zero_stage, choice.offload, choice.checkpointing), astuple(setting), strict=True)
        if all(wanted is None or wanted == have for wanted, have in asked):
            yield setting


def _forecast(subject: Subject, setting: Setting, cluster: Cluster, batch: int) -> Forecast:
    """The largest micro-batch of a setting, and what it needs."""
    share = ceil(batch / cluster.gpus)
    activations = subject.activations(setting.checkpointing)
    width, tokens = subject.dtype.itemsize, subject.model.max_tokens
    allowed = (cluster.gpu_bytes - CONTEXT) / (1 + FRAGMENTED)

    def moments(rows: int, accumulates: bool) -> tuple[Moment, ...]:
        states = States(subject.census, setting, cluster.gpus, width, accumulates)
        return states.moments(activations.at(rows), rows, tokens)

    def most(accumulates: bool) -> int:
        """The largest micro-batch within ``allowed`` bytes, by bisection; 0 where one text is too much."""

        def fits(rows: int) -> bool:
            return max(moment.bytes for moment in moments(rows, accumulates)) <= allowed

        return bisect_left(range(1, MOST_ROWS + 1), True, key=lambda rows: not fits(rows))

    largest = most(accumulates=False)
    accumulates = largest < share
    if accumulates:
        largest = min(most(accumulates=True), share - 1)
    pieces = ceil(share / max(largest, 1))
    micro_batch = ceil(share / pieces)
    gpu = moments(micro_batch, accumulates)
    states = States(subject.census, setting, cluster.gpus, width, accumulates)
    host = states.host(min(cluster.gpus, cluster.gpus_per_node))
    host_needed = max(moment.bytes for moment in host)
    refusal = ""
    if not largest:
        refusal = "GPU"
    elif cluster.host_bytes is not None and host_needed > cluster.host_bytes:
        refusal = "host"
    return Forecast(setting, micro_batch, largest, 1 + accumulates + setting.checkpointing, gpu, host, refusal)
