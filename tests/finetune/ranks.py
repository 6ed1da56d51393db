"""Run by tests as a program: one of several gloo processes. ``ranks.py TASK RANK WORLD STORE SPEC OUT``.

It is a program, not a test helper to import, because each rank must be a process of its own.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import torch
import torch.distributed as dist

ROWS, FEATURES, SPLITS = 7, 3, [(4, 3), (6, 1), (7, 0), (0, 7)]


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs (ROWS, FEATURES), answers (ROWS,), and weights (FEATURES,) of a small nonlinear model; float64."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, FEATURES, dtype=torch.float64, generator=generator)
    y = torch.randn(ROWS, dtype=torch.float64, generator=generator) + 5
    return x, y, torch.randn(FEATURES, dtype=torch.float64, generator=generator)


def objectives_over_ranks(rank: int, spec: None) -> list:
    """Gradient and value of each objective for each split of the rows, averaged over ranks as DeepSpeed does."""
    from ftrect_ray.finetune import objectives

    x, y, start = data()
    answers = []
    for first, _ in SPLITS:
        for objective in objectives.OBJECTIVES:
            w = start.clone().requires_grad_()
            own = slice(0, first) if rank == 0 else slice(first, ROWS)
            weight = torch.ones(len(y[own]))
            if len(weight):
                residual = y[own] - torch.tanh(x[own] @ w)
            else:  # an empty rank's row of padding; its residual must count nowhere
                residual, weight = (x[:1] @ w) + 1e6, torch.zeros(1)
            total = objectives.sums(residual[:, None], weight)
            dist.all_reduce(total)
            value = objectives.Form.of(objective, total).share(residual[:, None], weight, 2)
            (gradient,) = torch.autograd.grad(value, w)
            both = torch.cat([gradient, value.detach().reshape(1)]) / 2
            dist.all_reduce(both)
            told = {"data": [x.tolist(), y.tolist(), start.tolist()], "answer": both.tolist()}
            answers.append([objective, first, told])
    return answers


def first_gradients(rank: int, specs: list) -> list:
    """The whole gradient that DeepSpeed holds after the backward passes of the first step of each fine-tune."""
    from deepspeed.utils import safe_get_full_grad

    from ftrect_ray.finetune.batching import epoch_batches
    from ftrect_ray.finetune.training import Fit

    answers = []
    for spec in specs:
        with Fit(spec, torch.device("cpu")) as fit:
            seen: dict[str, list[float]] = {}

            def keep(rate: float, fit: Fit = fit, seen: dict[str, list[float]] = seen) -> float:
                fit.engine._engine._running_engine_step = True  # the boundary, as step() makes it
                if not fit.engine._engine.zero_optimization_partition_gradients():
                    fit.engine._engine.allreduce_gradients()
                else:
                    fit.engine._engine.optimizer.finalize_gradient_accumulation_boundary()
                for name, parameter in fit.predictor.trainable().items():
                    seen[name] = safe_get_full_grad(parameter).flatten().tolist()
                return 0.0

            fit.engine.step = keep  # type: ignore[method-assign]
            fit.engine.train(True)
            batches = epoch_batches(len(fit.train_rows.ids), spec.training.batch_size, spec.seed, 1)
            fit._step(1, 0, batches[0], 1.0)
            answers.append(seen)
    return answers


def first_gradients_in_passes(rank: int, specs: list) -> list:
    """The same, where a pass costs nothing: rows of each length go through the model by themselves."""
    from ftrect_ray.finetune import training

    training.PASS_TOKENS = 0
    return first_gradients(rank, specs)


def whole_fit(rank: int, specs: list) -> list:
    """Curves and best weights of whole fine-tunes."""
    from ftrect_ray.finetune.training import Fit

    answers = []
    for spec in specs:
        with Fit(spec, torch.device("cpu")) as fit:
            fit.run()
            weights = {name: w.flatten().tolist() for name, w in fit.weights.items()}
            answers.append([[epoch.stop_metric for epoch in fit.curve], weights])
    return answers


def bytes_held(rank: int, specs: list) -> list:
    """What each rank's DeepSpeed holds in the first step of each fine-tune, in bytes of distinct storages."""
    from ftrect_ray.finetune.batching import epoch_batches
    from ftrect_ray.finetune.training import Fit

    answers = []
    for spec in specs:
        with Fit(spec, torch.device("cpu")) as fit:
            held = {}
            optimizer, trained = fit.engine._engine.optimizer, fit.predictor.trainable().values()
            backward = fit.engine.backward

            def backward_and_look(loss, held=held, optimizer=optimizer, trained=trained, backward=backward) -> None:
                backward(loss)
                names = ("all_grad_tensors", "accumulated_grads_in_cpu", "grad_partitions_flat_buffer")
                mine = [vars(optimizer).get(name) for name in names]
                held.setdefault("gradients", storage_bytes([[p.grad for p in trained], mine]))

            fit.engine.backward = backward_and_look  # type: ignore[method-assign]
            fit.engine.train(True)
            batches = epoch_batches(len(fit.train_rows.ids), spec.training.batch_size, spec.seed, 1)
            fit._step(1, 0, batches[0], 1.0)
            of_stage = (
                "fp32_partitioned_groups_flat" if spec.training.zero_stage == 3 else "single_partition_of_fp32_groups"
            )
            master, parameters = getattr(optimizer, of_stage), list(fit.predictor.parameters())
            moments = [[state["exp_avg"], state["exp_avg_sq"]] for state in optimizer.optimizer.state.values()]
            held["master"], held["moments"] = storage_bytes(master), storage_bytes(moments)
            held["weights"] = storage_bytes([[p.data, getattr(p, "ds_tensor", None)] for p in parameters])
            held["devices"] = sorted({tensor.device.type for tensor in tensors_in([master, moments])})
            held["trained"] = 4 * sum(getattr(p, "ds_numel", p.numel()) for p in trained)
            held["all"] = 4 * sum(getattr(p, "ds_numel", p.numel()) for p in parameters)
            held["offload"] = [
                bool(vars(optimizer).get(n)) for n in ("cpu_offload", "offload_optimizer", "offload_param")
            ]
            ranks: list = [None] * dist.get_world_size()
            dist.all_gather_object(ranks, held)
            answers.append(ranks)
    return answers


def tensors_in(nested) -> list[torch.Tensor]:
    """Those in nested lists and dicts."""
    if isinstance(nested, torch.Tensor):
        return [nested]
    parts = nested.values() if isinstance(nested, dict) else nested or ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def storage_bytes(nested) -> int:
    storages = (tensor.untyped_storage() for tensor in tensors_in(nested))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def finished_fits(rank: int, work: list) -> list:
    """For each (fine-tune, folder, texts): what the finished model says of the texts, its folder written."""
    from ftrect_ray.finetune.training import Fit

    answers = []
    for spec, folder, texts in work:
        with Fit(spec, torch.device("cpu")) as fit:
            fit.run()
            fit.finish()
            answers.append(fit.predict(texts).tolist())
            fit.save_model(Path(folder))
    return answers


def resumed_fits(rank: int, work: list) -> list:
    """For each (fine-tune, folder): weights without and with a stop after the fourth step, checkpoint in the folder."""
    from ftrect_ray.finetune.training import Fit

    answers = []
    for spec, folder in work:
        saved = []

        def save(fit: Fit, epoch_ended: bool, saved=saved, folder=folder) -> None:
            saved.append(epoch_ended)
            if len(saved) == 5:  # the fifth call is the fourth step, in the second epoch
                fit.save(Path(folder))

        with Fit(spec, torch.device("cpu")) as whole:
            whole.run(save)
        dist.barrier()
        with Fit(spec, torch.device("cpu")) as again:
            again.resume(Path(folder))
            again.run()
        answers.append([{n: w.flatten().tolist() for n, w in fit.weights.items()} for fit in (whole, again)])
    return answers


def frozen_fit(rank: int, work: list) -> dict:
    """What each rank's finished readout says, which folder was written, and whether DeepSpeed was loaded."""
    from ftrect_ray.finetune.opening import open_fit

    spec, folder, texts = work
    with open_fit(spec, torch.device("cpu")) as fit:
        fit.run()
        fit.finish()
        fit.save_model(Path(folder))
        predictions: list = [None] * dist.get_world_size()
        dist.all_gather_object(predictions, fit.predict(texts).tolist())
    return {"predictions": predictions, "deepspeed": "deepspeed" in sys.modules}


if __name__ == "__main__":
    task, rank, world, store, spec, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    answer = globals()[task](rank, pickle.loads(Path(spec).read_bytes()))
    if rank == 0:
        Path(out).write_text(json.dumps(answer))
    dist.barrier()
    dist.destroy_process_group()
