"""``ftrect plan``: arithmetic of a scaling law, or of a model's memory; no data."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ftrect_ray.cli.tabulated import aligned
from ftrect_ray.errors import InputError

if TYPE_CHECKING:
    from ftrect_ray.allocation import Compute, Plan, Prices, ScalingLaw

OF_LAW = (
    *("labels", "unlabeled", "variance", "rectify_variance", "half_width", "alpha", "population", "rotations"),
    *("max_finetunes", "spent", "label_price", "gpu_hour_price", "seconds_per_label", "seconds_per_text"),
    *("difference", "power"),
)
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
    if options.power is not None and options.difference is None:
        raise InputError("'--power' is of a difference", where="ftrect plan", mend="give '--difference' too")
    if of_law:
        law = _law(options)
        try:
            return plan_labels(options, law)
        except InputError as error:  # arguments of the library are options here
            what = re.sub(r"'(\w+)'", lambda name: repr(_flag(name[1])) if name[1] in OF_LAW else name[0], error.what)
            raise InputError(what, where=error.where or "ftrect plan", mend=error.mend) from None
    from ftrect_ray.cli.memory import plan_memory

    return plan_memory(options)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _law(options: Namespace) -> ScalingLaw:
    from ftrect_ray.allocation import ScalingLaw

    try:
        return ScalingLaw(*options.law)
    except InputError as error:
        raise InputError(error.what, where="--law A,ALPHA,B", mend=error.mend) from None


def plan_labels(options: Namespace, law: ScalingLaw) -> int:
    """What a law says about a budget of labels."""
    from ftrect_ray import allocation

    n, m, variance = options.labels, options.unlabeled, options.variance
    if (options.spent or 0) > n:
        raise InputError(f"'--spent' {options.spent} is more than '--labels' {n}", where="ftrect plan")
    shared: dict[str, Any] = {
        "unlabeled": m,
        "variance": variance,
        "rectify_variance": options.rectify_variance,
        "rotations": options.rotations or (),
        "alpha": 0.05 if options.alpha is None else options.alpha,
        "spent": options.spent or 0,
    }
    population: dict[str, Any] = {"population": options.population or "infinite"}
    compute, prices = _compute(options), _prices(options)
    designs = allocation.plan(law, labels=n, compute=compute, prices=prices, **population, **shared)
    split = designs["split"]
    best = designs.choose(options.max_finetunes)
    condition = None if variance is None else allocation.feasibility(law, n, variance)
    document: dict[str, Any] = designs.to_dict() | {
        "s_star": allocation.s_star(law, n),
        "n_finetune": split.n_finetune,
        "fraction": split.n_finetune / n,
        "n_times_variance": None if split.variance is None else n * split.variance,
        "chosen": best.to_dict(),
        "feasible": None if condition is None else bool(condition),
        "feasibility": None if condition is None else {"left": condition.left, "right": condition.right},
    }
    if options.half_width is not None:
        wished, settings = options.half_width, {"labels": n, **population, **shared}
        document["labels_for_half_width"] = allocation.labels_for_half_width(law, wished, **settings)
        if prices is not None:
            offers = allocation.cheapest(
                law, wished, prices=prices, compute=compute, max_finetunes=options.max_finetunes, **settings
            )
            document["offers"] = [offer.to_dict() for offer in offers]
    if options.difference is not None:
        document |= _power(options, law, designs, shared)
    if options.json:
        print(json.dumps(document, indent=2, allow_nan=False))
        return 0
    print(f"law {law}, {n} labels, {'unlimited' if m is None else m} unlabelled texts")
    if m is not None and variance is None:
        print("without '--variance' as if the texts were unlimited: what their number costs depends on it")
    print(designs)
    if split.variance is not None:
        share = f"{split.n_finetune} labels ({100 * document['fraction']:.1f} %) train"
        print(f"best single split: {share}; s* = {document['s_star']:.2f} with endless texts")
    print(f"choice: {best.name} — {best.note}")
    if condition is not None and not condition:
        sides = f"b/σ² = {condition.left:.3g} is not below {condition.right:.3g}"
        print(f"a single split loses to the plain mean at this budget: {sides}")
    if options.half_width is not None or options.difference is not None:
        print(_wishes(options, document))
    return 0


def _compute(options: Namespace) -> Compute | None:
    from ftrect_ray.allocation import Compute

    given = (options.seconds_per_label, options.seconds_per_text)
    if given == (None, None):
        return None
    for name in ("seconds_per_label", "seconds_per_text", "unlabeled"):
        if getattr(options, name) is None:
            asked = "device-hours need '--seconds-per-label', '--seconds-per-text' and '--unlabeled'"
            raise InputError(asked, where="ftrect plan", mend=f"give {_flag(name)!r} too")
    return Compute(*given)


def _prices(options: Namespace) -> Prices | None:
    from ftrect_ray.allocation import Prices

    if options.label_price is None and options.gpu_hour_price is None:
        return None
    if options.label_price is None:
        raise InputError(
            "'--gpu-hour-price' needs '--label-price'", where="ftrect plan", mend="0 where labels are free"
        )
    if options.gpu_hour_price and options.seconds_per_label is None:
        mend = "give '--seconds-per-label' and '--seconds-per-text'"
        raise InputError("'--gpu-hour-price' needs device-hours", where="ftrect plan", mend=mend)
    return Prices(options.label_price, options.gpu_hour_price or 0.0)


def _power(options: Namespace, law: ScalingLaw, designs: Plan, shared: dict[str, Any]) -> dict[str, Any]:
    from ftrect_ray import allocation

    if options.population == "finite":
        mend = "leave out '--population'"
        raise InputError("power is of differences between endless populations", where="ftrect plan", mend=mend)
    difference, wished = options.difference, 0.8 if options.power is None else options.power
    errors = {design.name: design.std_error for design in designs.designs if design.std_error is not None}
    to_see = {name: allocation.std_error_of_difference(error) for name, error in errors.items()}
    return {
        "difference": difference,
        "power": {name: allocation.power(difference, error, shared["alpha"]) for name, error in to_see.items()},
        "wished_power": wished,
        "labels_for_power": allocation.labels_for_power(law, difference, power=wished, **shared),
    }


def _wishes(options: Namespace, document: dict[str, Any]) -> str:
    """What the wished width and power cost with each design that can be had at the budget."""
    widths, powers = document.get("labels_for_half_width"), document.get("power")
    columns: list[tuple[str, Callable[[str], str]]] = []
    if widths is not None:
        columns.append((f"labels for ± {options.half_width:g}", lambda name: _labels(widths[name])))
    if powers is not None:
        needed, wished = document["labels_for_power"], document["wished_power"]
        columns.append((f"power to see {options.difference:g}", lambda name: f"{powers[name]:.2f}"))
        columns.append((f"labels for power {wished:g}", lambda name: _labels(needed[name])))
    named = [row["name"] for row in document["designs"] if row["variance"] is not None]
    rows = [
        ["", *(heading for heading, _ in columns)],
        *([name, *(cell(name) for _, cell in columns)] for name in named),
    ]
    told = [aligned(rows)]
    for offer in document.get("offers", ())[:1]:
        hours = "" if offer["gpu_hours"] is None else f" and {offer['gpu_hours']:.3g} device-hours"
        spent = f"{offer['labels']} labels{hours}, {offer['price']:.2f} in all"
        told.append(f"cheapest for ± {options.half_width:g}: {offer['design']}, {spent}")
    if powers is not None:
        told.append("power: of a two-sided test between the means of two groups of equal size, labels of both together")
    return "\n".join(["", *told])


def _labels(count: int | None) -> str:
    return "none can" if count is None else str(count)
