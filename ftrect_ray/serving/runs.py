"""A finished run in memory: what it is, and estimates from its predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ftrect_ray.errors import InputError
from ftrect_ray.rectify import Evidence, load_evidence
from ftrect_ray.serving.filters import filterable, matching_rows
from ftrect_ray.serving.schemas import EstimateRequest
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Study


@dataclass(frozen=True)
class Run:
    """One finished study.

    Attributes
    ----------
    evidence : Evidence
    estimate_json : dict
        The run's ``estimate.json``.
    columns : dict of str to str
        The columns that a filter may name, with their kinds.
    """

    evidence: Evidence
    estimate_json: dict[str, Any]
    columns: dict[str, str]

    @classmethod
    def load(cls, location: str) -> Run:
        """Read a finished run.

        Raises
        ------
        InputError
            Where the folder holds no finished run.
        """
        storage = RunStorage.open(location)
        if not storage.exists("estimate.json"):
            raise InputError(
                "there is no finished run (no estimate.json)",
                where=location,
                mend="finish it with 'ftrect run', then serve its folder",
            )
        evidence = load_evidence(storage)
        return cls(evidence, storage.read_json("estimate.json"), filterable(evidence.table))

    @property
    def study(self) -> Study:
        return self.evidence.study

    def summary(self) -> dict[str, Any]:
        """The line of this study in the list of studies."""
        return {
            "id": self.study.study,
            "target": self.study.target.model_dump(mode="json"),
            "labels": int(self.evidence.labelled.sum()),
            "texts": self.evidence.table.num_rows,
            "design": self.evidence.design,
        }

    def details(self) -> dict[str, Any]:
        """Settings, result and columns. Where the data lie is not a reader's business and stays out."""
        origins = {"table", "labeled", "unlabeled"}
        return {
            **self.summary(),
            "settings": self.study.model_dump(mode="json", exclude={"data": origins}),
            "estimate": self.estimate_json,
            "columns": [{"name": name, "kind": kind} for name, kind in self.columns.items()],
        }

    def estimate(self, request: EstimateRequest) -> dict[str, Any]:
        """The rectified estimate of the request's target among the rows that pass its filter.

        Raises
        ------
        InputError, StatisticalRefusal
        """
        rows = matching_rows(self.evidence.table, self.columns, request.filter) if request.filter else None
        target = request.target or self.study.target
        alpha = self.study.alpha if request.alpha is None else request.alpha
        conditions = [condition.model_dump(mode="json") for condition in request.filter]
        return {"study": self.study.study, "filter": conditions, **self.evidence.estimate(target, alpha, rows)}


def load_runs(locations: Iterable[str]) -> dict[str, Run]:
    """Finished runs by the names of their studies.

    Raises
    ------
    InputError
        On an unfinished run, or two runs of one name.
    """
    runs: dict[str, Run] = {}
    for location in locations:
        run = Run.load(location)
        if run.study.study in runs:
            raise InputError(
                f"two runs are named {run.study.study!r}", where=location, mend="give the studies different names"
            )
        runs[run.study.study] = run
    return runs
