"""Real processes for what is collective."""

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
def ranks(tmp_path: Path) -> Callable[..., Any]:
    """``ranks(task, spec, world=2)``: what the function ``task`` of ranks.py answers on rank 0 of gloo processes."""

    def run(task: str, spec: Any, world: int = 2) -> Any:
        (tmp_path / "spec").write_bytes(pickle.dumps(spec))
        program = [sys.executable, str(Path(__file__).with_name("ranks.py")), task]
        rest = [str(tmp_path / name) for name in (f"store-{task}-{world}", "spec", "out")]
        processes = [
            subprocess.Popen(
                [*program, str(rank), str(world), *rest],
                env={**os.environ, "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            output = [process.communicate(timeout=240)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0] * world, output
        return json.loads((tmp_path / "out").read_text())

    return run
