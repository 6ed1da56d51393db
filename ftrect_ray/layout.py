"""What fits where, decided before Ray is asked: Ray queues what can never start, and tells nobody.

Every stage states its :class:`Demand`, and :func:`check_feasible` refuses with numbers. Nothing here needs Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftrect_ray.errors import EnvironmentFault
from ftrect_ray.storage import free_bytes
from ftrect_ray.study import Inference, Pilots, Training


@dataclass(frozen=True)
class Node:
    """CPUs and GPUs that one machine offers to Ray."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Resources:
    """The machines of a cluster."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)

    def capacity(self, cpus: float, gpus: float) -> int:
        """How many bundles of ``cpus`` and ``gpus`` fit at once; a bundle never spans machines."""
        wanted = [(kind, need) for kind, need in (("cpus", cpus), ("gpus", gpus)) if need]
        return sum(min(int(getattr(node, kind) // need) for kind, need in wanted) for node in self.nodes)


@dataclass(frozen=True)
class Demand:
    """What a stage must hold at one time: ``count`` bundles of ``cpus`` and ``gpus`` each.

    Attributes
    ----------
    stage : str
        For the reader: ``fine-tune``.
    what : str
        One bundle in words: ``worker``.
    remedy_key : str
        The setting that sets ``count``: ``training.workers``.
    """

    stage: str
    what: str
    count: int
    cpus: float
    gpus: float
    remedy_key: str


@dataclass(frozen=True)
class Layout:
    """How a study spreads over a cluster.

    Attributes
    ----------
    gpus_per_worker : int
        Of a training worker, and as many for a predicting actor.
    gpus_per_pilot : float
        A share of one, or a whole number.
    finetunes_in_parallel, pilot_slots, inference_actors : int
        How many at once.
    """

    gpus_per_worker: int
    gpus_per_pilot: float
    finetunes_in_parallel: int
    pilot_slots: int
    inference_actors: int


def check_feasible(demands: Sequence[Demand], resources: Resources) -> None:
    """Compare demands, each on its own, with a cluster.

    Raises
    ------
    EnvironmentFault
        Naming every demand that can never be met, with numbers and the setting to change.
    """
    problems = [problem for demand in demands if (problem := _problem(demand, resources))]
    if problems:
        raise EnvironmentFault("; and ".join(problems))


def _problem(demand: Demand, resources: Resources) -> str | None:
    fits = resources.capacity(demand.cpus, demand.gpus)
    if fits >= demand.count:
        return None
    each = _amount(demand.cpus, demand.gpus)
    total = _amount(demand.count * demand.cpus, demand.count * demand.gpus)
    plural = "s" if demand.count > 1 else ""
    asked = f"'{demand.remedy_key}' asks for {demand.count} {demand.what}{plural} × {each} = {total} ({demand.stage})"
    if fits:
        have = _amount(resources.cpus if demand.cpus else 0, resources.gpus if demand.gpus else 0)
        return f"{asked}; the cluster has {have} — set {demand.remedy_key}={fits} or add nodes"
    sizes = [(node.gpus, node.cpus) if demand.gpus else (0, node.cpus) for node in resources.nodes]
    gpus, cpus = max(sizes, default=(0, 0))
    largest = _amount(cpus if demand.cpus else 0, gpus)
    return f"{asked}; one {demand.what} must fit on one node, and the largest has {largest} — add larger nodes"


def _amount(cpus: float, gpus: float) -> str:
    parts = [f"{count:g} {unit}{'s' if count != 1 else ''}" for count, unit in ((cpus, "CPU"), (gpus, "GPU")) if count]
    return " + ".join(parts) or "0 CPUs"


def plan_resources(
    training: Training,
    pilots: Pilots | None,
    inference: Inference,
    finetunes: int,
    resources: Resources,
    candidates: int = 1,
) -> Layout:
    """Spread the stages, which run one after the other, over a cluster.

    Parameters
    ----------
    finetunes : int
        Final fine-tunes; 0 where the design has none.
    candidates : int
        Models that the pilots compare.

    Raises
    ------
    EnvironmentFault
        Where a stage can never start.
    """
    gpus_per_worker = int(resources.gpus >= 1) if training.gpus_per_worker == "auto" else training.gpus_per_worker
    if gpus_per_worker and not resources.gpus:
        raise EnvironmentFault(
            f"'training.gpus_per_worker' asks for {gpus_per_worker} GPU a worker; the cluster has none",
            mend="set training.gpus_per_worker=auto or 0, or add nodes with GPUs",
        )
    worker = (training.cpus_per_worker, gpus_per_worker)
    actor, pilot, trials = (1, gpus_per_worker), (1, float(gpus_per_worker)), 0
    if pilots is not None:
        gpus_per_pilot = gpus_per_worker if pilots.gpus_per_pilot == "auto" else pilots.gpus_per_pilot
        pilot, trials = (pilots.cpus_per_pilot, float(gpus_per_pilot)), pilots.fits * candidates
    actors = max(1, resources.capacity(*actor)) if inference.actors == "auto" else inference.actors

    demands = []
    if finetunes:
        demands.append(Demand("fine-tune", "worker", training.workers, *worker, "training.workers"))
    if trials:
        demands.append(
            Demand("pilots", "pilot", 1, *pilot, "pilots.gpus_per_pilot" if pilot[1] else "pilots.cpus_per_pilot")
        )
    demands.append(Demand("predict", "actor", actors, *actor, "inference.actors"))
    check_feasible(demands, resources)

    return Layout(
        gpus_per_worker=gpus_per_worker,
        gpus_per_pilot=pilot[1],
        finetunes_in_parallel=min(finetunes, resources.capacity(*worker) // training.workers),
        pilot_slots=min(trials, resources.capacity(*pilot)),
        inference_actors=actors,
    )


def check_disk(path: str | Path, needed_bytes: int, mend: str = "free space, or choose another folder with -o") -> None:
    """Refuse to start what will not fit; object stores behind a URI are taken to be large enough.

    Raises
    ------
    EnvironmentFault
        With both sizes.
    """
    if "://" in str(path):
        return
    free = free_bytes(path)
    if free < needed_bytes:
        raise EnvironmentFault(
            f"the run needs about {needed_bytes / 1e9:.1f} GB of disk and {free / 1e9:.1f} GB are free",
            where=str(path),
            mend=mend,
        )
