"""One fine-tune in a process that may be killed: the same command goes on.

    python benchmarks/kill/victim.py SPEC STORAGE DESTINATION [--node FILE]

``--node``: in a cluster of a head without CPUs and one node for the workers. The node's Ray id, the cluster's address
and the node's process id go to FILE; when the node is lost, another one takes its place.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray

from ftrect_ray.errors import FtrectError
from ftrect_ray.finetune.driver import finetune
from ftrect_ray.finetune.spec import FitSpec

STORE_BYTES = 150 * 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("spec", "storage", "destination"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--node", type=Path)
    options = parser.parse_args()
    spec: FitSpec = pickle.loads(options.spec.read_bytes())
    quiet: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    cpus = spec.training.workers * spec.training.cpus_per_worker
    try:
        if options.node:
            _in_cluster(spec, options, cpus, quiet)
        else:
            ray.init(address="local", num_cpus=cpus, log_to_driver=False, **quiet)
            finetune([spec], storage=str(options.storage), destination=options.destination)
    except FtrectError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _in_cluster(spec: FitSpec, options: argparse.Namespace, cpus: int, quiet: dict[str, Any]) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **quiet})
    ray.init(address=cluster.address, log_to_driver=False)

    def add() -> Any:
        node = cluster.add_node(num_cpus=cpus, object_store_memory=STORE_BYTES)
        process = node.all_processes["raylet"][0].process
        told = {"id": node.node_id, "address": cluster.address, "pid": process.pid}
        fresh = options.node.with_suffix(".new")
        fresh.write_text(json.dumps(told))
        os.replace(fresh, options.node)
        return node

    node, errors = add(), []

    def fit() -> None:
        try:
            finetune([spec], storage=str(options.storage), destination=options.destination)
        except FtrectError as error:
            errors.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():  # nodes come and go in the main thread only
        if node.dead_processes():
            cluster.remove_node(node, allow_graceful=False)
            time.sleep(1)
            node = add()
        thread.join(0.2)
    ray.shutdown()
    cluster.shutdown()
    if errors:
        raise errors[0]


if __name__ == "__main__":
    sys.exit(main())
