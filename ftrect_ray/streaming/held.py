"""Unlabelled rows kept in memory, for what reads them hundreds of times: the bootstrap."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ftrect_ray.estimators.blocks import Block, InMemory


@dataclass(frozen=True, eq=False)
class Held:
    """Blocks one after the other."""

    parts: tuple[Block, ...]

    @classmethod
    def of(cls, block: Block) -> Held:
        """One block."""
        return cls((block,))

    def merge(self, other: Held) -> Held:
        """The blocks of both."""
        return Held(self.parts + other.parts)

    def joined(self) -> InMemory:
        """All rows."""
        columns = [[getattr(part, field.name) for part in self.parts] for field in fields(Block)]
        return InMemory(Block(*(None if column[0] is None else np.concatenate(column) for column in columns)))  # type: ignore[arg-type]
