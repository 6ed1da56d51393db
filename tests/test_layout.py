"""What fits where; no Ray here."""

from __future__ import annotations

import shutil

import pytest

from ftrect_ray.errors import EnvironmentFault
from ftrect_ray.layout import Demand, Layout, Node, Resources, check_disk, check_feasible, plan_resources
from ftrect_ray.study import Inference, Pilots, Training

LAPTOP = Resources((Node(2, 0),))
GPU_CLUSTER = Resources((Node(8, 0), Node(32, 4), Node(32, 4)))  # a head without GPUs, two workers


def demand(count: int = 4, cpus: float = 1, gpus: float = 0) -> Demand:
    return Demand("fine-tune", "worker", count, cpus, gpus, "training.workers")


def test_what_fits_is_accepted():
    check_feasible([demand(count=2), demand(count=1, cpus=2)], LAPTOP)  # stages follow each other: no sum


def test_too_many_bundles_are_refused_with_numbers_and_the_largest_number_that_works():
    with pytest.raises(EnvironmentFault) as caught:
        check_feasible([demand(count=4)], LAPTOP)
    assert str(caught.value) == (
        "'training.workers' asks for 4 workers × 1 CPU = 4 CPUs (fine-tune); the cluster has 2 CPUs"
        " — set training.workers=2 or add nodes"
    )
    assert caught.value.exit_code == 3


def test_a_bundle_must_fit_on_one_node_though_the_cluster_as_a_whole_has_enough():
    assert GPU_CLUSTER.gpus == 8
    with pytest.raises(EnvironmentFault) as caught:
        check_feasible([demand(count=1, cpus=1, gpus=8)], GPU_CLUSTER)
    assert str(caught.value) == (
        "'training.workers' asks for 1 worker × 1 CPU + 8 GPUs = 1 CPU + 8 GPUs (fine-tune); "
        "one worker must fit on one node, and the largest has 32 CPUs + 4 GPUs — add larger nodes"
    )


def test_capacity_counts_what_is_left_over_on_each_node_as_lost():
    uneven = Resources((Node(3, 0), Node(3, 0)))
    assert uneven.capacity(2, 0) == 2  # 6 CPUs hold 3 bundles of 2, two nodes of 3 hold one each
    assert GPU_CLUSTER.capacity(1, 1) == 8
    assert GPU_CLUSTER.capacity(16, 1) == 4  # CPUs bind before GPUs


def test_all_problems_are_told_at_once():
    actors = Demand("predict", "actor", 3, 1, 0, "inference.actors")
    with pytest.raises(
        EnvironmentFault, match=r"set training.workers=2 or add nodes; and 'inference.actors' asks for 3"
    ):
        check_feasible([demand(count=4), actors], LAPTOP)


def test_a_cluster_without_nodes_holds_nothing():
    with pytest.raises(EnvironmentFault, match="the largest has 0 CPUs"):
        check_feasible([demand(count=1)], Resources(()))


# ---------------------------------------------------------------------------------------------- the layout


def layout(resources: Resources, finetunes: int = 2, **training: object) -> Layout:
    return plan_resources(
        Training(**training), Pilots(sizes=[50, 100, 200], seeds=2), Inference(), finetunes, resources
    )


def test_a_laptop_runs_one_finetune_of_two_workers_and_two_pilots_at_a_time():
    assert layout(LAPTOP) == Layout(
        gpus_per_worker=0, gpus_per_pilot=0, finetunes_in_parallel=1, pilot_slots=2, inference_actors=2
    )


def test_gpus_are_taken_where_there_are_some():
    expected = Layout(gpus_per_worker=1, gpus_per_pilot=1, finetunes_in_parallel=2, pilot_slots=6, inference_actors=8)
    assert layout(GPU_CLUSTER, workers=4) == expected


def test_gpus_are_left_alone_where_told():
    found = layout(GPU_CLUSTER, finetunes=20, workers=4, cpus_per_worker=4, gpus_per_worker=0)
    assert found == Layout(
        gpus_per_worker=0, gpus_per_pilot=0, finetunes_in_parallel=4, pilot_slots=6, inference_actors=72
    )


def test_no_more_slots_than_there_is_work():
    found = plan_resources(Training(workers=1), Pilots(seeds=2), Inference(), 1, Resources((Node(64, 0),)))
    assert (found.pilot_slots, found.finetunes_in_parallel) == (6, 1)


def test_pilots_of_several_candidates_and_folds_share_the_slots_that_their_resources_leave():
    pilots = Pilots(seeds=1, cpus_per_pilot=4, gpus_per_pilot=0.25)
    arguments = (Training(workers=1), pilots, Inference(), 1, GPU_CLUSTER)
    assert plan_resources(*arguments).pilot_slots == 3
    found = plan_resources(*arguments, candidates=9)
    assert (found.pilot_slots, found.gpus_per_pilot) == (16, 0.25)  # 32 CPUs hold 8 pilots on each node with GPUs
    folded = Pilots(seeds=2, folds=5, scheme="cross-validated")
    assert plan_resources(Training(), folded, Inference(), 1, Resources((Node(64, 0),))).pilot_slots == 30


def test_a_pilot_that_no_node_holds_is_refused_with_its_setting():
    with pytest.raises(EnvironmentFault, match=r"'pilots.cpus_per_pilot' asks for 1 pilot × 4 CPUs = 4 CPUs"):
        plan_resources(Training(), Pilots(cpus_per_pilot=4), Inference(), 1, LAPTOP)
    with pytest.raises(EnvironmentFault, match=r"'pilots.gpus_per_pilot' asks for 1 pilot × 1 CPU \+ 0.5 GPUs"):
        plan_resources(Training(), Pilots(gpus_per_pilot=0.5), Inference(), 1, LAPTOP)


def test_a_study_without_finetunes_and_pilots_asks_only_for_predictions():
    found = plan_resources(Training(workers=64), None, Inference(actors=1), 0, LAPTOP)
    assert found == Layout(
        gpus_per_worker=0, gpus_per_pilot=0, finetunes_in_parallel=0, pilot_slots=0, inference_actors=1
    )


def test_a_gpu_on_a_machine_without_one_is_refused_at_once():
    with pytest.raises(EnvironmentFault) as caught:
        layout(LAPTOP, gpus_per_worker=1)
    assert str(caught.value) == (
        "'training.gpus_per_worker' asks for 1 GPU a worker; the cluster has none"
        " — set training.gpus_per_worker=auto or 0, or add nodes with GPUs"
    )


def test_more_workers_and_actors_than_the_cluster_holds_are_refused_together():
    with pytest.raises(EnvironmentFault) as caught:
        plan_resources(Training(workers=4), None, Inference(actors=5), 2, LAPTOP)
    message = str(caught.value)
    assert "'training.workers' asks for 4 workers × 1 CPU = 4 CPUs" in message
    assert "'inference.actors' asks for 5 actors × 1 CPU = 5 CPUs (predict); the cluster has 2 CPUs" in message


# ------------------------------------------------------------------------------------------------- disk


def test_disk_that_is_too_small_is_refused_with_both_sizes(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(
        EnvironmentFault, match=r"needs about [\d.]+ GB of disk and [\d.]+ GB are free \(.*not/yet/made\)"
    ):
        check_disk(tmp_path / "not" / "yet" / "made", 2 * free)
    check_disk(tmp_path, free // 2)


def test_object_stores_are_not_measured():
    check_disk("s3://bucket/run", 10**18)
