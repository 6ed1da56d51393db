"""Which room may load what: the statistics stand alone, and the package itself costs nothing."""

import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

import ftrect_ray

ROOT = Path(__file__).resolve().parents[1]
BLOCKER = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "ray", "pandas", "pyarrow", "pydantic", "transformers", "yaml"}:
            raise ImportError(f"blocked: {name}")
sys.meta_path.insert(0, Blocked())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)


def test_the_blocker_blocks():
    finished = run(BLOCKER + "import torch")
    assert finished.returncode == 1
    assert "blocked: torch" in finished.stderr


@pytest.mark.parametrize(
    "use",
    [
        "from ftrect_ray.estimators import mean; print(mean([1., 2., 4.], [1., 2., 3.], [1., 2., 3.]).n)",
        "from ftrect_ray.allocation import ScalingLaw, plan; print(plan(ScalingLaw(1, 1, 0), labels=3).labels)",
        "import ftrect_ray; print(ftrect_ray.mean([1., 2., 4.], [1., 2., 3.], [1., 2., 3.]).n)",
    ],
)
def test_statistics_need_no_heavy_package(use: str):
    finished = run(BLOCKER + use)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "3"


def test_importing_the_package_loads_almost_nothing():
    code = "import sys, time; t = time.perf_counter(); import ftrect_ray; s = time.perf_counter() - t; print(s)\n"
    finished = run(
        code
        + "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'ray', 'numpy', 'scipy', 'pydantic'}))"
    )
    seconds, loaded = finished.stdout.split("\n")[:2]
    assert float(seconds) < 0.5
    assert loaded == "[]"


def test_the_whole_interpreter_starts_quickly():
    start = time.perf_counter()
    assert run("import ftrect_ray").returncode == 0
    assert time.perf_counter() - start < 5


def test_every_public_name_can_be_had():
    for name in ftrect_ray.__all__:
        assert getattr(ftrect_ray, name) is not None
    assert dir(ftrect_ray) == ftrect_ray.__all__


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'ftrect_ray' has no attribute 'meen'"):
        ftrect_ray.meen  # noqa: B018


def test_version_is_that_of_the_package():
    assert ftrect_ray.__version__ == version("ftrect-ray")
