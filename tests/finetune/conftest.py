"""Two real processes for what is collective."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def two_ranks(tmp_path: Path) -> Callable[[str, Any], Any]:
    """``two_ranks(task, spec)``: what the function ``task`` of two_ranks.py answers on rank 0 of two gloo processes."""

    def run(task: str, spec: Any) -> Any:
        (tmp_path / "spec").write_bytes(pickle.dumps(spec))
        program = [sys.executable, str(Path(__file__).with_name("two_ranks.py")), task]
        rest = [str(tmp_path / name) for name in ("store", "spec", "out")]
        ranks = [
            subprocess.Popen(
                [*program, str(rank), *rest],
                env={**os.environ, "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in (0, 1)
        ]
        try:
            output = [rank.communicate(timeout=240)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        assert [rank.returncode for rank in ranks] == [0, 0], output
        return json.loads((tmp_path / "out").read_text())

    return run
