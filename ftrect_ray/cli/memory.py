"""``ftrect plan --model``: what fits on which GPUs, with the arithmetic; no weights are read."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ftrect_ray.cli.tabulated import aligned
from ftrect_ray.errors import EnvironmentFault, InputError
from ftrect_ray.study import Lora, Model, Options, Training
from ftrect_ray.study_file import dump_sections

if TYPE_CHECKING:
    from ftrect_ray.sizing.planner import Forecast, Plan
    from ftrect_ray.sizing.states import Line

GIB = 2**30


def plan_memory(options: Namespace) -> int:
    """Which ZeRO stage, offload and micro-batch fit.

    Raises
    ------
    InputError
        The model is unknown or cannot be planned for, or the options contradict each other.
    EnvironmentFault
        None does; the table is printed first.
    """
    from ftrect_ray.sizing.planner import Choice, Subject, plan_training, remedies
    from ftrect_ray.sizing.states import Cluster

    if options.lora_rank and options.adapter != "lora":
        raise InputError("'--lora-rank' is for '--adapter lora'", where="ftrect plan", mend="leave it out")
    if options.options and options.adapter == "head":
        raise InputError("'--options' has no head to train", where="ftrect plan", mend="give '--adapter full' or lora")
    model = Model(
        name=options.model,
        adapter=options.adapter or "full",
        lora=Lora(rank=options.lora_rank, alpha=2 * options.lora_rank) if options.lora_rank else Lora(),
        max_tokens=options.tokens or Model().max_tokens,
        options=_options(options.options) if options.options else None,
    )
    host_bytes = None if options.host_memory is None else int(options.host_memory * GIB)
    per_node = options.gpus_per_node or min(options.gpus, 8)
    cluster = Cluster(options.gpus, per_node, int(options.gpu_memory * GIB), host_bytes)
    checkpointing = {"yes": True, "no": False}.get(options.gradient_checkpointing)
    choice = Choice(options.zero_stage, options.offload, checkpointing)
    subject = Subject(model, options.precision or "bf16")
    plan = plan_training(subject, cluster, options.batch or Training().batch_size, choice)
    print(json.dumps(_document(plan), indent=2, allow_nan=False) if options.json else _text(plan))
    if not plan.fitting:
        cures = remedies(subject, plan, choice)
        raise EnvironmentFault(
            f"{options.model!r} does not fit on {_gpus(plan)}: {_shortage(plan)}",
            where="--model",
            mend="it would with " + ", or ".join(cures) if cures else "give larger machines, or a smaller model",
        )
    return 0


def _shortage(plan: Plan) -> str:
    """What the setting that comes nearest lacks: memory of a GPU, or where that is enough, of a host."""
    hosts = [forecast.host_peak.bytes for forecast in plan.forecasts if forecast.refusal == "host"]
    if not hosts:
        return f"the least setting needs {_gib(plan.best.gpu_bytes)} GiB of each"
    return f"of the settings that fit a GPU the least needs {_gib(min(hosts))} GiB of a host"


def _options(many: int) -> Options:
    """As many answers, each taken to be one token."""
    return Options(prompt="{text}", answers={str(answer): answer for answer in range(1, many + 1)})


def _text(plan: Plan) -> str:
    census, best = plan.census, plan.best
    head = f"{plan.model.name}, adapter {plan.model.adapter}: {census.total / 1e6:,.1f} M parameters"
    head += f", {census.trainable / 1e6:,.1f} M train; {plan.precision}, {plan.model.max_tokens} tokens"
    titles = ["ZeRO", "offload", "checkpointing", "GPU GiB", "at", "micro-batch", "passes", "host GiB", "fits"]
    rows = [titles, *(_row(forecast) for forecast in plan.forecasts)]
    parts = [
        f"{head}; {_gpus(plan)}, {plan.batch} texts a step",
        aligned(rows),
        "GPU GiB: of the fullest moment, at this micro-batch, with reserve; passes: forward passes of a text in a step",
    ]
    if plan.fitting:
        parts.append(
            f"ZeRO-{best.setting.zero_stage}, offload {best.setting.offload}, GiB per GPU:\n\n{_arithmetic(best)}"
        )
        host, workers = best.host_peak, min(plan.cluster.gpus, plan.cluster.gpus_per_node)
        total = ["  needed", _gib(host.bytes)]
        parts.append(
            f"per host of {workers} worker{'s' if workers > 1 else ''}, {host.name}:\n{_sum(host.lines, total)}"
        )
        if disk := plan.disk():
            parts.append(f"on disk (two checkpoints while one replaces the other):\n{_sum(disk)}")
        parts.append(_alone(plan))
        parts.append(f"in the study:\n\n{dump_sections(plan.fragment())}".rstrip())
    return "\n\n".join(parts)


def _alone(plan: Plan) -> str:
    """What runs on one GPU whatever the cluster."""
    pilot = "fits" if not plan.pilot.refusal else f"does not fit ({plan.pilot.refusal}): set 'pilots: null'"
    actor = "fits" if plan.actor_bytes <= plan.cluster.gpu_bytes else "does not fit"
    return (
        f"on one GPU: a pilot of this setting {pilot}; an actor that predicts needs {_gib(plan.actor_bytes)}: {actor}"
    )


def _row(forecast: Forecast) -> list[str]:
    setting = forecast.setting
    return [
        str(setting.zero_stage),
        setting.offload,
        "yes" if setting.checkpointing else "no",
        _gib(forecast.gpu_bytes),
        forecast.gpu_peak.name,
        f"{forecast.micro_batch} of {forecast.most}" if forecast.most else "–",
        str(forecast.passes) if forecast.most else "–",
        _gib(forecast.host_peak.bytes),
        f"no: {forecast.refusal}" if forecast.refusal else "yes",
    ]


def _arithmetic(forecast: Forecast) -> str:
    """Every moment's sum; the fullest with its reserve."""
    parts = []
    for moment in forecast.gpu:
        total = ["  allocated", _gib(moment.bytes)]
        if moment is not forecast.gpu_peak:
            parts.append(f"{moment.name}:\n{_sum(moment.lines, total)}")
            continue
        needed = ["  needed", _gib(forecast.gpu_bytes)]
        parts.append(f"{moment.name} (the fullest):\n{_sum((*moment.lines, forecast.reserve), needed)}")
    return "\n".join(parts)


def _sum(lines: Sequence[Line], *total: list[str]) -> str:
    """Lines of a sum in GiB, how each comes about, and their total."""
    table = aligned([*([f"  {line.what}", _gib(line.bytes)] for line in lines), *total]).split("\n")
    hows = [line.how for line in lines] + [""] * len(total)
    return "\n".join(f"{row}  {how}".rstrip() for row, how in zip(table, hows, strict=True))


def _document(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.model.name,
        "parameters": asdict(plan.census),
        "precision": plan.precision,
        "tokens": plan.model.max_tokens,
        "batch_size": plan.batch,
        "cluster": asdict(plan.cluster),
        "settings": [
            {
                **asdict(forecast.setting),
                "fits": not forecast.refusal,
                "refusal": forecast.refusal or None,
                "micro_batch_size": forecast.micro_batch,
                "largest_micro_batch": forecast.most,
                "forward_passes": forecast.passes,
                "gpu_bytes": forecast.gpu_bytes,
                "gpu_allocated_bytes": forecast.gpu_peak.bytes,
                "host_bytes": forecast.host_peak.bytes,
                "gpu": [asdict(moment) for moment in forecast.gpu],
                "host": [asdict(moment) for moment in forecast.host],
            }
            for forecast in plan.forecasts
        ],
        "pilot_fits": not plan.pilot.refusal,
        "actor_bytes": plan.actor_bytes,
        "disk": [asdict(line) for line in plan.disk()],
        "study": plan.fragment() if plan.fitting else None,
    }


def _gpus(plan: Plan) -> str:
    many = "" if plan.cluster.gpus == 1 else "s"
    return f"{plan.cluster.gpus} GPU{many} of {plan.cluster.gpu_bytes / GIB:g} GiB"


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}"
