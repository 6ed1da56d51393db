"""Activations without numbers against those of real passes on this processor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, MixtralConfig

from ftrect_ray.errors import InputError
from ftrect_ray.predictor import Predictor
from ftrect_ray.predictor.precision import resolve_precision
from ftrect_ray.predictor.pretrained import checkpoint_activations
from ftrect_ray.sizing.architecture import config_of, skeleton
from ftrect_ray.sizing.walk import Activations, Walk, walk
from ftrect_ray.study import Model, Options

ROWS, TOKENS = 4, 64


def saved_bytes(predictor: Predictor, ids: torch.Tensor, mask: torch.Tensor) -> int:
    """What autograd keeps of a forward pass, weights excluded: each storage once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in predictor.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        predicted = predictor(ids, mask)
    del predicted
    return sum(kept.values())


def allocated(predictor: Predictor, ids: torch.Tensor, mask: torch.Tensor) -> Walk:
    """What the allocator gave a forward and backward pass, at the end of the first and at most."""

    def drop(parameter: torch.Tensor) -> None:
        parameter.grad = None

    for parameter in predictor.trainable().values():
        parameter.register_post_accumulate_grad_hook(drop)
    sizes = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as forward:
        loss = predictor(ids, mask).sum()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as backward:
        loss.backward()
    for recorded in (forward, backward):
        events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
        sizes.append([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    kept = now = peak = sum(sizes[0])
    for size in sizes[1]:
        now += size
        peak = max(peak, now)
    return Walk(kept, peak)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 500, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1:, -5:] = 0
    return ids, mask


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_kept_is_what_autograd_saves(
    adapter: str,
    dtype: torch.dtype,
    small_config: LlamaConfig,
    a_model: Callable[..., Model],
    real: Callable[[Model], Predictor],
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = a_model(adapter)
    counted = saved_bytes(real(model).to(dtype).train(), *batch)
    assert walk(skeleton(small_config, model), ROWS, TOKENS, dtype, False, padded=True).kept == pytest.approx(
        counted, rel=0.05
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_peak_is_what_the_allocator_gives(
    adapter: str,
    checkpointing: bool,
    small_config: LlamaConfig,
    a_model: Callable[..., Model],
    real: Callable[[Model], Predictor],
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """In a format that the processor has: one that it emulates takes room of its own."""
    model, dtype = a_model(adapter), resolve_precision("auto", torch.device("cpu"))
    predictor = real(model).to(dtype).train()
    if checkpointing:
        checkpoint_activations(predictor.backbone)
    measured = allocated(predictor, *batch)
    forecast = walk(skeleton(small_config, model), ROWS, TOKENS, dtype, checkpointing, padded=True)
    assert forecast.kept == pytest.approx(measured.kept, rel=0.1)
    assert forecast.peak == pytest.approx(measured.peak, rel=0.1)


@pytest.mark.parametrize("tokens", [64, 256])
def test_llama_has_the_closed_formula(tokens: int, a_model: Callable[..., Model]) -> None:
    """20·h + 4·k + 8·f bytes a token and layer, and 8 + 4 a token and head for norms' and softmax's sums.

    x of a norm in fp32 (4), normed (2) and scaled (2), twice; q (2) and the output (2) of attention; k and v (2 + 2);
    gate, its silu, up, and their product (2 each).
    """
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 2}
    configs = [LlamaConfig(vocab_size=100, num_hidden_layers=layers, use_cache=False, **sizes) for layers in (2, 3)]
    two, three = (walk(skeleton(c, a_model()), 1, tokens, torch.bfloat16, False).kept for c in configs)
    h, k, f, heads = 512, 512 // 4, 1536, 8
    formula = tokens * (20 * h + 4 * k + 8 * f + 2 * 4 + 4 * heads)
    assert three - two == pytest.approx(formula, abs=64)  # the state of a random generator


def test_a_padded_batch_keeps_repeated_keys_and_a_mask_for_each_layer(a_model: Callable[..., Model]) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 2}
    configs = [LlamaConfig(vocab_size=100, num_hidden_layers=layers, use_cache=False, **sizes) for layers in (2, 3)]
    two, three = (walk(skeleton(c, a_model()), 2, 64, torch.bfloat16, False, padded=True).kept for c in configs)
    h, f, heads = 512, 1536, 8
    formula = 2 * (64 * (20 * h + 4 * h + 8 * f + 2 * 4 + 4 * heads) + 2 * 64 * 64)
    assert three - two == pytest.approx(formula, abs=64)


def test_dropout_keeps_a_byte_a_number(a_model: Callable[..., Model]) -> None:
    """An adapter of each of the seven linear modules keeps its own input (2) and its mask (1), instead of one input
    (2) for q, k and v, one for gate and up, one for down; that of the output of attention is kept anyway. In the first
    layer nothing before q, k and v trains, and their masks are not needed.
    """
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "vocab_size": 100}
    config = LlamaConfig(num_hidden_layers=2, use_cache=False, **sizes)
    models = a_model("lora"), a_model("lora", lora={"dropout": 0.1})
    without, given = (walk(skeleton(config, model), 1, 64, torch.bfloat16, False).kept for model in models)
    inputs, shared = 6 * 512 + 1536, 2 * 512 + 1536
    assert given - without == 64 * (2 * (3 * inputs - 2 * shared) - 3 * 512)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_from_the_second_text_on_each_needs_as_much(
    adapter: str, checkpointing: bool, small_config: LlamaConfig, a_model: Callable[..., Model]
) -> None:
    predictor = skeleton(small_config, a_model(adapter))
    for padded in (True, False):
        activations = Activations.of(predictor, TOKENS, torch.bfloat16, checkpointing, padded=padded)
        for rows in (1, 2, 7):
            itself = walk(predictor, rows, TOKENS, torch.bfloat16, checkpointing, padded=padded and rows > 1)
            assert activations.at(rows) == itself


def test_a_frozen_model_keeps_nothing(small_config: LlamaConfig, a_model: Callable[..., Model]) -> None:
    predictor = skeleton(small_config, a_model("head"))
    frozen = walk(predictor, ROWS, TOKENS, torch.bfloat16, False)
    assert frozen.kept == 0
    assert 0 < frozen.peak < walk(skeleton(small_config, a_model()), ROWS, TOKENS, torch.bfloat16, False).kept


def test_answer_options_keep_logits(small_config: LlamaConfig, a_model: Callable[..., Model]) -> None:
    """One row of the vocabulary for each text, in the training format and in fp32, and its softmax."""
    options = Options(prompt="{text}", answers={"a": 1, "b": 2})
    kept = []
    for vocabulary in (1000, 51_000):
        small_config = LlamaConfig(**{**small_config.to_dict(), "vocab_size": vocabulary})
        kept.append(walk(skeleton(small_config, a_model(options=options)), ROWS, TOKENS, torch.bfloat16, False).kept)
    assert ROWS * 50_000 * 4 <= kept[1] - kept[0] <= ROWS * 50_000 * 10


def test_a_walk_leaves_the_model_as_it_was(small_config: LlamaConfig, a_model: Callable[..., Model]) -> None:
    predictor = skeleton(small_config, a_model())
    first = walk(predictor, ROWS, TOKENS, torch.bfloat16, False)
    walk(predictor, ROWS, TOKENS, torch.bfloat16, True)
    assert walk(predictor, ROWS, TOKENS, torch.bfloat16, False) == first
    assert all(parameter.grad is None for parameter in predictor.parameters())


def test_encoders_walk_too() -> None:
    model = Model(name="minilm")
    predictor = skeleton(config_of(model), model)
    assert walk(predictor, 2, 128, torch.float32, True).peak < walk(predictor, 2, 128, torch.float32, False).kept


def test_a_model_whose_operations_depend_on_its_numbers_is_refused(a_model: Callable[..., Model]) -> None:
    config = MixtralConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        use_cache=False,
        _experts_implementation="eager",
    )
    with pytest.raises(InputError, match="the memory of 'small' cannot be forecast from its configuration"):
        walk(skeleton(config, a_model()), 1, 64, torch.bfloat16, False)
