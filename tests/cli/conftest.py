"""Running commands in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ftrect_ray.cli import main

Ftrect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ftrect(capsys: pytest.CaptureFixture[str]) -> Ftrect:
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run
