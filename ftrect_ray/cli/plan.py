"""``ftrect plan``: arithmetic of a scaling law, or of a model's memory; no data."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from ftrect_ray.errors import InputError

OF_LAW = ("labels", "unlabeled", "variance", "half_width", "alpha")
OF_MODEL = (
    *("gpus", "gpu_memory", "host_memory", "gpus_per_node", "adapter", "lora_rank", "options", "tokens", "batch"),
    *("precision", "zero_stage", "offload", "gradient_checkpointing"),
)


def plan(options: Namespace) -> int:
    """What a law says about a budget of labels, or a model about the machines that it needs."""
    of_law = options.law is not None
    about, others = ("--law", OF_MODEL) if of_law else ("--model", OF_LAW)
    needed = ["labels"] if of_law else ["gpus", "gpu_memory"]
    for name in others:
        if getattr(options, name) is not None:
            raise InputError(f"{_flag(name)!r} does not go with '{about}'", where="ftrect plan", mend="leave it out")
    for name in needed:
        if getattr(options, name) is None:
            raise InputError(f"'{about}' needs {_flag(name)!r}", where="ftrect plan", mend="see 'ftrect plan --help'")
    if of_law:
        return plan_labels(options)
    from ftrect_ray.cli.memory import plan_memory

    return plan_memory(options)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def plan_labels(options: Namespace) -> int:
    """What a law says about a budget of labels."""
    from ftrect_ray import allocation

    alpha = 0.05 if options.alpha is None else options.alpha
    law = allocation.ScalingLaw(*options.law)
    n, m, variance = options.labels, options.unlabeled, options.variance
    designs = allocation.plan(law, labels=n, unlabeled=m, variance=variance, folds=(2, 3, 5), alpha=alpha)
    split = allocation.optimal_split(law, n, m, variance=variance)
    best = designs.choose()
    document: dict[str, Any] = designs.to_dict() | {
        "s_star": split.s_star,
        "n_finetune": split.n_finetune,
        "fraction": split.fraction,
        "n_times_variance": n * split.variance,
        "chosen": best.to_dict(),
        "feasible": None if variance is None else bool(allocation.feasibility(law, n, variance)),
    }
    if options.half_width is not None:
        document["labels_for_half_width"] = allocation.labels_for_half_width(
            law, options.half_width, unlabeled=m, variance=variance, folds=(2, 3, 5), alpha=alpha
        )
    if options.json:
        print(json.dumps(document, indent=2, allow_nan=False))
        return 0
    print(f"law {law}, {n} labels, {'unlimited' if m is None else m} unlabelled texts\n{designs}")
    print(f"best single split: s* = {split.s_star:.2f}, {split.n_finetune} labels ({100 * split.fraction:.1f} %) train")
    print(f"choice: {best.name} — {best.note}")
    if document["feasible"] is False:
        print("a single split loses to the plain mean at this budget")
    for name, labels in document.get("labels_for_half_width", {}).items():
        if not designs[name].unavailable:
            needed = "more labels than can be had" if labels is None else f"{labels} labels"
            print(f"± {options.half_width:g} needs {needed} with {name}")
    return 0
