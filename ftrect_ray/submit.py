"""A study as a job of a running Ray cluster (``ray job submit`` from Python)."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import ftrect_ray
from ftrect_ray.errors import EnvironmentFault, InputError
from ftrect_ray.study import Study
from ftrect_ray.study_file import dump_study

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def submit_study(
    study: Study, output: str, *, address: str, submission_id: str | None = None, wait: bool = True
) -> int:
    """Send the study, its local data files and this package to the cluster, and run it there.

    Parameters
    ----------
    study : Study
    output : str
        The run's folder as the cluster sees it: a URI, or an absolute path on storage that all nodes share.
    address : str
        ``http://HEAD:8265``.
    submission_id : str, optional
        A name that makes the submission idempotent: the cluster refuses it a second time.
    wait : bool
        Follow the job's log until it ends.

    Returns
    -------
    int
        0 when the job succeeded or, without ``wait``, was accepted; 1 when it failed.

    Raises
    ------
    InputError
        For an output that the cluster cannot share.
    EnvironmentFault
        When the cluster cannot be reached or refuses.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    if "://" not in output and not os.path.isabs(output):
        raise InputError(
            f"'-o {output}' is relative",
            where="submit",
            mend="give a URI, or an absolute path that all nodes of the cluster share",
        )
    with tempfile.TemporaryDirectory(prefix="ftrect-submit-") as folder:
        (Path(folder) / "study.yaml").write_text(dump_study(_with_local_files(study, Path(folder))), encoding="utf-8")
        try:
            client = JobSubmissionClient(address)
            job = client.submit_job(
                entrypoint=f"python -m ftrect_ray run study.yaml -o '{output}'",
                submission_id=submission_id,
                runtime_env={"working_dir": folder, "py_modules": [str(Path(ftrect_ray.__file__).parent)]},
                metadata={"study": study.study},
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = [line for line in str(error).splitlines() if any(map(str.isalpha, line))][-1].strip()
            raise EnvironmentFault(
                f"the cluster did not take the job: {reason}",
                where=address,
                mend="check --address and, where tokens are on, RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH",
            ) from None
    print(f"submitted {job}; follow it with: ray job logs --follow {job} --address {address}", file=sys.stderr)
    if not wait:
        return 0
    asyncio.run(_follow(client, job))
    return 0 if client.get_job_status(job) == JobStatus.SUCCEEDED else 1


def _with_local_files(study: Study, folder: Path) -> Study:
    """The study with its local data files copied into ``folder`` and named relative to it."""
    moved = {}
    for key in ("table", "labeled", "unlabeled"):
        name = getattr(study.data, key)
        if name is not None and "://" not in name:
            if not os.path.isfile(name):
                raise InputError(
                    f"'data.{key}': no such file: {name!r}",
                    mend="give an existing file or a URI that the cluster can read",
                )
            moved[key] = f"{key}-{os.path.basename(name)}"
            shutil.copyfile(name, folder / moved[key])
    return study.model_copy(update={"data": study.data.model_copy(update=moved)})


async def _follow(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
