"""Run by a test as a program: one of two processes that load a model in parts. ``partitioned.py RANK STORE SPEC OUT``.

SPEC is a pickled list of (Model, texts). OUT gets, for each: the digest, whether the parameters were in parts,
the gathered sum of squares of each, the predictions, and the gradient of their sum of squares.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from transformers.integrations import HfDeepSpeedConfig

from ftrect_ray.predictor import Predictor, Scale
from ftrect_ray.study import Model

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
    "steps_per_print": 2**31,
}


def answer(model: Model, texts: list[str]) -> list:
    within = HfDeepSpeedConfig(CONFIG)
    predictor = Predictor.create(model, seed=3, scale=Scale(1.0, 2.0, 0.0, 1.0))
    del within
    backbone = list(predictor.base.named_parameters())
    parted = [parameter.numel() == 0 for name, parameter in backbone if "lora_" not in name]
    digest, trainable = predictor.base_digest, list(predictor.trainable().values())
    engine, *_ = deepspeed.initialize(
        model=predictor, optimizer=torch.optim.SGD(trainable, lr=0.1), dist_init_required=False, config=CONFIG
    )
    engine.eval()
    ids, mask = predictor.collate(predictor.encode(texts).tokens)
    read = predictor.read(engine(ids, mask))
    engine.backward(read.square().sum())
    gradients = {name: safe_get_full_grad(p).flatten().tolist() for name, p in predictor.trainable().items()}
    engine.destroy()
    return [digest, all(parted), read.tolist(), gradients]


if __name__ == "__main__":
    rank, store, spec, out = int(sys.argv[1]), *sys.argv[2:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    answers = [answer(*each) for each in pickle.loads(Path(spec).read_bytes())]
    if rank == 0:
        Path(out).write_text(json.dumps(answers))
    dist.barrier()
    dist.destroy_process_group()
