"""What a stage is given: the study, the run's storage and record, and Ray when it first asks for it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray.finetune.spec import TARGETED, Rows
from ftrect_ray.layout import Layout
from ftrect_ray.ledger import Ledger
from ftrect_ray.pipeline.design import Decision
from ftrect_ray.pipeline.meter import Meter
from ftrect_ray.pipeline.record import RunRecord
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Study
from ftrect_ray.targets import Question


@dataclass
class Run:
    """One run while it is open.

    Attributes
    ----------
    study : Study
    storage : RunStorage
    record : RunRecord
    meter : Meter
    stack : ExitStack
        Closes what the stages open, Ray above all.
    address : str or None
        The Ray cluster that the user named.
    """

    study: Study
    storage: RunStorage
    record: RunRecord
    meter: Meter
    stack: ExitStack
    address: str | None
    update: bool = False
    verbose: bool = False
    _connected: bool = field(default=False, init=False)

    def layout(self, study: Study, finetunes: int = 1, candidates: int = 1) -> Layout:
        """How ``study``, this one or it with one candidate of several, spreads over Ray.

        Ray is started or joined at the first call and ends with the run.

        Raises
        ------
        EnvironmentFault
            In numbers, where the cluster lacks what the study asks for.
        """
        from ftrect_ray.cluster import cluster_session, layout_for

        if not self._connected:
            self.stack.enter_context(cluster_session(self.address, verbose=self.verbose))
            self._connected = True
        return layout_for(study, finetunes, candidates)

    @cached_property
    def table(self) -> pa.Table:
        """``table.parquet``; see the tables stage for its columns."""
        return self.storage.read_table("table.parquet")

    @property
    def labeled(self) -> Rows:
        """The label budget, in the table's order."""
        return label_budget(self.study, self.table)

    @property
    def labeled_predictions(self) -> np.ndarray | None:
        """The table's own predictions of the labelled rows, float64 (n,); None unless each has one."""
        if "prediction" not in self.table.column_names:
            return None
        column = self.table.filter(pc.is_valid(self.table["label"]))["prediction"]
        return None if column.null_count else np.asarray(column.to_numpy(), dtype=np.float64)

    @property
    def n_unlabeled(self) -> int:
        return int(self.table["label"].null_count)

    @property
    def ledger(self) -> Ledger:
        return Ledger.load(self.storage)

    @property
    def decision(self) -> Decision:
        return Decision(**self.storage.read_json("allocation.json")["decision"])

    @property
    def chosen(self) -> Study:
        """The study with the model that the decision names."""
        return self.study.with_candidate(self.decision.candidate)

    @property
    def cache(self) -> str:
        """Where all fits of the run, pilots included, find each other's tokens and frozen features."""
        return self.storage.url("work", "texts")


def label_budget(study: Study, table: pa.Table) -> Rows:
    """The labelled rows of ``table.parquet`` in its order; with features where the objective is about coefficients."""
    part = table.filter(pc.is_valid(table["label"]))
    texts = tuple(text or "" for text in part["text"].to_pylist())
    clusters = np.array(part["cluster"].to_pylist()) if "cluster" in part.column_names else None
    answers = np.asarray(part["label"].to_numpy(), dtype=np.float64)
    features = Question.of(study.target, study.alpha, part).design_matrix if study.objective in TARGETED else None
    return Rows(tuple(part["id"].to_pylist()), texts, answers, clusters, features)
