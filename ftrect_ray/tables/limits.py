"""How much a table may hold in all, and how much of it is held at once."""

from __future__ import annotations

from dataclasses import dataclass

from ftrect_ray.errors import InputError

BATCH_ROWS = 65_536
BATCH_BYTES = 64 << 20
TRUST = "raise the limit if you trust the file"


@dataclass(frozen=True)
class Limits:
    """What is refused, and where a batch ends.

    Attributes
    ----------
    max_rows, max_bytes : int
        A table with more rows, or with more bytes once decoded, is refused.
    batch_rows : int
        A batch has at most this many rows, and fewer once its cells pass ``BATCH_BYTES``.
    """

    max_rows: int
    max_bytes: int
    batch_rows: int = BATCH_ROWS

    def too_many_rows(self, found: str, where: str) -> InputError:
        """The error for ``found``, which reads like ``more rows than``."""
        return InputError(f"the table has {found} 'data.max_rows' ({self.max_rows})", where=where, mend=TRUST)

    def too_many_bytes(self, found: str, where: str) -> InputError:
        """The error for ``found``, which reads like ``the file has 7``."""
        what = f"{found} bytes, more than 'data.max_bytes' ({self.max_bytes})"
        return InputError(what, where=where, mend=TRUST)
