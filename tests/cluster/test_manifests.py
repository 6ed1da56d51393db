"""The manifests against the operator's and Ray's own schemas, and against the rules that no schema holds."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import fillout_defaults, prepare_config, validate_config

from ftrect_ray.study_file import parse_study

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT.parent / "shared" / "schemas" / "kuberay"
CLUSTER = ROOT / "cluster"


# ------------------------------------------------------------------------------------------------ reading


def documents(kind: str | None = None) -> list[dict[str, Any]]:
    listed = list(yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text()))
    return [document for document in listed if kind in (None, document["kind"])]


@pytest.fixture
def rayjob() -> dict[str, Any]:
    (job,) = documents("RayJob")
    return copy.deepcopy(job)


def pod_templates(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Submitter, head, and every worker group."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [job["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)]


def image_version(image: str) -> str:
    found = re.fullmatch(r"ftrect-ray:\d+\.\d+\.\d+-ray(\d+\.\d+\.\d+)", image)
    assert found, image
    return found[1]


# ------------------------------------------------------------------------------------- the operator's schema


def strict(schema: Any) -> Any:
    """The API server's reading of an openAPIV3Schema as plain JSON Schema.

    Objects with named properties take no others; int-or-string takes both; null is for ``nullable`` alone.
    """
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: strict(value) for key, value in schema.items() if not key.startswith("x-")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    properties = schema.get("properties")
    if isinstance(properties, dict) and "type" in schema and "additionalProperties" not in schema:
        plain["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return plain


def defaulted(value: Any, schema: dict[str, Any]) -> Any:
    """What the API server validates: defaults filled in, nulls dropped."""
    if isinstance(value, dict):
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties")
        filled = {key: part["default"] for key, part in properties.items() if "default" in part} | {
            key: part for key, part in value.items() if part is not None
        }
        parts = {key: properties.get(key, rest if isinstance(rest, dict) else {}) for key in filled}
        return {key: defaulted(part, parts[key]) for key, part in filled.items()}
    if isinstance(value, list):
        return [defaulted(part, schema.get("items", {})) for part in value]
    return value


def problems(document: dict[str, Any]) -> list[str]:
    """Every violation of the schema of ``document``'s kind, with its path."""
    path = SCHEMAS / f"{document['kind']}.v1.json"
    if not path.exists():
        pytest.skip(f"the KubeRay schemas are not beside this checkout ({path})")
    schema = json.loads(path.read_text())
    schema["properties"]["metadata"] = {}
    validator = jsonschema.Draft202012Validator(strict(schema) | {"required": ["spec"]})
    found = validator.iter_errors(defaulted(document, schema))
    return sorted(f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found)


def test_rayjob_obeys_the_schema(rayjob: dict[str, Any]) -> None:
    assert rayjob["apiVersion"] == "ray.io/v1"
    assert problems(rayjob) == []


def test_its_cluster_would_stand_alone_too(rayjob: dict[str, Any]) -> None:
    cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "ftrect"}}
    assert problems(cluster | {"spec": rayjob["spec"]["rayClusterSpec"]}) == []


def test_mistakes_are_found(rayjob: dict[str, Any]) -> None:
    """Negative control: were the check blind, the tests above would say nothing."""
    spec = rayjob["spec"]
    spec["shutdownAfterJobFinish"] = spec.pop("shutdownAfterJobFinishes")
    spec["backoffLimit"] = "2"
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["ports"][0]["containerPort"] = "6379"
    del spec["rayClusterSpec"]["workerGroupSpecs"][0]["template"]
    head["volumeMount"] = head.pop("volumeMounts")
    found = "\n".join(problems(rayjob))
    for message in (
        "'shutdownAfterJobFinish' was unexpected",
        "spec.backoffLimit: '2' is not of type 'integer'",
        "containerPort: '6379' is not of type 'integer'",
        "'template' is a required property",
        "'volumeMount' was unexpected",
    ):
        assert message in found


# ---------------------------------------------------------------------- the operator's rules beyond the schema


def test_names(rayjob: dict[str, Any]) -> None:
    name = rayjob["metadata"]["name"]
    assert len(name) <= 47
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    for template in pod_templates(rayjob):
        for container in template["spec"]["containers"]:
            ports = [port["name"] for port in container.get("ports", [])]
            assert len(ports) == len(set(ports))
            assert all(re.fullmatch(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", port) for port in ports)


def test_one_version_of_ray_everywhere(rayjob: dict[str, Any]) -> None:
    version = rayjob["spec"]["rayClusterSpec"]["rayVersion"]
    assert version == ray.__version__
    images = {container["image"] for template in pod_templates(rayjob) for container in template["spec"]["containers"]}
    images.add(yaml.safe_load((CLUSTER / "raycluster" / "launcher.yaml").read_text())["docker"]["image"])
    assert {image_version(image) for image in images} == {version}
    assert len(images) == 1
    assert f"ARG BASE=rayproject/ray:{version}-py311-gpu" in (CLUSTER / "Dockerfile").read_text()
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={version}" in pins


def test_retries_resume_and_nothing_waits_for_ever(rayjob: dict[str, Any]) -> None:
    """Each retry is a new cluster: the run must lie outside it, on a volume that all pods share."""
    spec = rayjob["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    assert "clusterSelector" not in spec
    assert 2 <= spec["backoffLimit"] <= 3
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] >= 0
    output = spec["entrypoint"].split()[-1]
    claims = {claim["metadata"]["name"]: claim for claim in documents("PersistentVolumeClaim")}
    for template in pod_templates(rayjob)[1:]:
        pod = template["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        home = next(path for path in mounts if output.startswith(path + "/"))
        claim = claims[volumes[mounts[home]]["persistentVolumeClaim"]["claimName"]]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert set(mounts.values()) == set(volumes)


def test_entrypoint_and_study_exist(rayjob: dict[str, Any]) -> None:
    python, script, study, flag, _ = rayjob["spec"]["entrypoint"].split()
    assert (python, flag) == ("python", "-o")
    assert (ROOT / script).is_file()
    assert f"COPY --chown=1000:100 {Path(script).parent} " in (CLUSTER / "Dockerfile").read_text()
    head = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["containers"][0]["workingDir"] == "/app"
    mounts = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    volume = next(volume for volume in head["volumes"] if mounts[volume["name"]] == str(Path(study).parent))
    (config,) = documents("ConfigMap")
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    parsed = parse_study(config["data"][Path(study).name])
    workers = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert parsed.training.workers <= workers["replicas"]


def test_head_keeps_its_hands_free_and_workers_have_the_gpus(rayjob: dict[str, Any]) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52, 0)
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    ports = {
        p["name"]: p["containerPort"] for p in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    }
    assert ports == {
        "gcs-server": 6379,
        "dashboard": 8265,
        "client": 10001,
        "metrics": 8080,
        "as-metrics": 44217,
        "dash-metrics": 44227,
    }
    assert all(
        isinstance(value, str) for group in [cluster["headGroupSpec"]] for value in group["rayStartParams"].values()
    )
    (workers,) = cluster["workerGroupSpecs"]
    assert 0 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    container = workers["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert any(toleration["key"] == "nvidia.com/gpu" for toleration in workers["template"]["spec"]["tolerations"])


def test_pods_are_modest(rayjob: dict[str, Any]) -> None:
    for template in pod_templates(rayjob):
        pod = template["spec"]
        assert pod["restartPolicy"] == "Never"
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_network_policy_covers_every_pod(rayjob: dict[str, Any]) -> None:
    (policy,) = documents("NetworkPolicy")
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    for template in pod_templates(rayjob):
        assert wanted.items() <= template["metadata"]["labels"].items()
    own, operator = policy["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": wanted}}]}
    assert [port["port"] for port in operator["ports"]] == [8265]


# ----------------------------------------------------------------------------------- launcher, image, Slurm


def test_launcher_obeys_ray() -> None:
    config = yaml.safe_load((CLUSTER / "raycluster" / "launcher.yaml").read_text())
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate(config | {"max_worker": 2}, schema)
    # Ray's own check opens the files that are to be mounted; the token is made by the reader
    validate_config(fillout_defaults(prepare_config({**config, "file_mounts": {}})))
    assert len(config["provider"]["worker_ips"]) == config["max_workers"]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
        assert "--disable-usage-stats" in commands[-1]


def test_image_runs_as_nobody_special_and_brings_no_entrypoint() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    assert not [line for line in lines if line.startswith(("ENTRYPOINT", "CMD", "HEALTHCHECK"))]
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:100"]
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[2:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()


def test_slurm_script_is_sound() -> None:
    script = CLUSTER / "slurm.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    text = script.read_text()
    for option in ("--exclusive", "--ntasks-per-node=1", "--requeue", "--signal=B:TERM@", "--time="):
        assert f"#SBATCH {option}" in text
    start = text[text.index("ray symmetric-run") : text.index("-- env")]
    assert not re.search(r"--(head|node-ip-address|port|block)\b", start)
    assert "--disable-usage-stats" in start


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm's commands are recorders: one node, and an srun that runs here."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    commands = {
        "ray": 'echo "ray $*" >>"$LOG"\n'
        'echo "$RAY_AUTH_MODE $(stat -c %a "$RAY_AUTH_TOKEN_PATH")" >>"$LOG"\n'
        'exec sleep "$NAP"',
        "scontrol": 'echo "scontrol $*" >>"$LOG"; [ "$1" = show ] && echo node1; exit 0',
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        "hostname": "echo 10.1.2.3",
    }
    for name, body in commands.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_folder / name).chmod(0o755)
    (tmp_path / "study.yaml").write_text("study: x\n")
    return {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "NAP": "0",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "41",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
    }


def test_slurm_script_starts_the_study_and_removes_its_token(slurm: dict[str, str], tmp_path: Path) -> None:
    script = [str(CLUSTER / "slurm.sbatch"), str(tmp_path / "study.yaml"), "/shared/runs/x"]
    done = subprocess.run(["bash", *script], env=slurm, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "log").read_text()
    assert "ray symmetric-run --address 10.1.2.3:6379 --min-nodes 2 --num-cpus 8 --num-gpus 0" in said
    assert f"RAY_ADDRESS=10.1.2.3:6379 python -u jobs/run_study.py {tmp_path}/study.yaml -o /shared/runs/x" in said
    assert "token 600" in said
    assert not list(tmp_path.glob(".ray-token-*"))


@pytest.mark.parametrize(("restarts", "code", "requeued"), [("0", 0, True), ("5", 3, False)])
def test_slurm_script_requeues_itself_before_the_time_is_over(
    slurm: dict[str, str], tmp_path: Path, restarts: str, code: int, requeued: bool
) -> None:
    script = [str(CLUSTER / "slurm.sbatch"), str(tmp_path / "study.yaml"), "/shared/runs/x"]
    log = tmp_path / "log"
    environment = slurm | {"NAP": "50", "SLURM_RESTART_COUNT": restarts}
    with subprocess.Popen(["bash", *script], env=environment, stderr=subprocess.PIPE, text=True) as job:
        while not (log.exists() and "token 600" in log.read_text()):
            assert job.poll() is None
        job.terminate()
        assert job.stderr is not None
        said = job.stderr.read()
    assert job.returncode == code
    assert ("scontrol requeue 41" in log.read_text()) is requeued
    assert ("raise --time" in said) is not requeued


def test_slurm_script_says_how_to_use_it(slurm: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", str(CLUSTER / "slurm.sbatch")], env=slurm, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "usage: sbatch cluster/slurm.sbatch STUDY.yaml RUN_DIR\n"
