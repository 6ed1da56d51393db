"""The shared beginning of prompts: the same numbers and gradients as one plain pass, and where it is not used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, MambaConfig, MistralConfig

from ftrect_ray.predictor import Predictor, Scale
from ftrect_ray.predictor.prefix import ATTENDED, LEAST, Prefix, can_share
from ftrect_ray.predictor.pretrained import checkpoint_activations
from ftrect_ray.study import Model

WORDS = "the film was good i love it the plot was bad i hate it the actor was dull"
SHOTS = "Film: I loved it.\nRating: 9\n\nFilm: Bad, very bad.\nRating: 1\n\n"
STARS = {str(star): star for star in range(1, 11)}
CASES = {  # fixture, prompt, answers
    "single tokens": ("tiny_llama", WORDS + " {text} it was", {"good": 2, "bad": -1, "dull": 0.5}),
    "several tokens": (
        "tiny_llama",
        WORDS + " {text} it was",
        {"good plot": 2, "good actor": 1, "bad": -1, "a film the": 3, "i": 0},
    ),
    "absolute positions": ("tiny_gpt2", SHOTS + "Film: {text}\nRating:", STARS),
    "chat": ("tiny_chat", "Rate from 1 to 10 how good this film is: {text}", STARS),
}
TEXTS = ["the film was good", "bad", "a very dull plot and an awful actor", "I love it 🙂", "not " * 200, "bad", ""]


def _predictor(folder: Path, prompt: str, answers: dict[str, float], **settings) -> Predictor:
    settings = {"max_tokens": 32 if "llama" in str(folder) else 128, "lora": {"dropout": 0.0}} | settings
    model = Model(name=str(folder), options={"prompt": prompt, "answers": answers}, **settings)
    made = Predictor.create(model, seed=1, scale=Scale(1.5, 2.0, 0.25, 1.5))
    if settings.get("adapter") == "lora":  # as if trained: an adapter starts with zeros
        with torch.no_grad():
            for parameter in made.trainable().values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    return made


@pytest.fixture(params=[(case, adapter) for case in CASES for adapter in ("full", "lora")], ids=str)
def predictor(request: pytest.FixtureRequest) -> Predictor:
    case, adapter = request.param
    fixture, prompt, answers = CASES[case]
    return _predictor(request.getfixturevalue(fixture), prompt, answers, adapter=adapter)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and tokens of each pass of a backbone."""
    seen: list[tuple[int, int]] = []
    run = Predictor._pass

    def count(self, ids, *args, **further):
        seen.append(tuple(ids.shape))
        return run(self, ids, *args, **further)

    monkeypatch.setattr(Predictor, "_pass", count)
    return seen


def _plain(predictor: Predictor) -> Predictor:
    """The same weights; each row is computed whole."""
    parts = (predictor.backbone, predictor.head, predictor.tokenizer, predictor.model, predictor.scale, "")
    plain = Predictor(*parts, predictor.prompt, predictor.options).eval()
    plain.prefix = Prefix()
    return plain


def test_predictions_are_those_of_the_plain_pass(predictor: Predictor) -> None:
    assert len(predictor.prefix) >= LEAST
    expected, errors = _plain(predictor).distribution(TEXTS)
    assert errors[:-1] == [None] * (len(TEXTS) - 1)
    assert predictor.encode(TEXTS).cut == 1
    for batch_tokens in (1, 64, 100_000):
        found, same = predictor.distribution(TEXTS, batch_tokens)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert same == errors
    assert np.nanmax(np.ptp(expected[:-1], axis=0)) > 1e-3


def test_gradients_are_those_of_the_plain_pass(predictor: Predictor) -> None:
    for texts in (TEXTS[:-1], TEXTS[:1]):
        prompts = predictor.encode(texts).tokens
        gradients, outputs = [], []
        for one in (_plain(predictor), predictor):
            one.train()
            read = one.read(one(*one.collate(prompts)))
            outputs.append(read.detach())
            parameters = list(predictor.trainable().values())
            gradients.append(torch.autograd.grad(read.square().sum(), parameters, allow_unused=True))
        torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
        size = max(gradient.abs().max() for gradient in gradients[0] if gradient is not None)
        assert size > 1e-3
        for expected, found in zip(*gradients, strict=True):
            if expected is None:  # of a last layer's or an embedding's parameter that no row uses
                assert found is None or not found.any()
            else:
                torch.testing.assert_close(found, expected, atol=1e-5 * float(size), rtol=1e-5)


def test_the_gradient_reaches_the_weights_through_the_beginning(tiny_gpt2: Path) -> None:
    """Positions of the beginning have an embedding that only the beginning uses."""
    predictor = _predictor(tiny_gpt2, *CASES["absolute positions"][1:], freeze_embeddings=False)
    predictor.read(predictor(*predictor.collate(predictor.encode(TEXTS[:3]).tokens))).sum().backward()
    moved = predictor.base.transformer.wpe.weight.grad.abs().sum(1)
    assert (moved[: len(predictor.prefix)] > 0).all()


def test_rows_that_begin_otherwise_are_exact_too(predictor: Predictor, passes: list[tuple[int, int]]) -> None:
    prompts = predictor.encode(TEXTS[:4]).tokens
    shared = len(predictor.prefix)
    odd = [prompts[0], prompts[1][3:], prompts[2][shared - 2 :], prompts[3][-1:], prompts[1][-3:]]
    expected = [_plain(predictor)(*_plain(predictor).collate([row])) for row in odd]
    passes.clear()
    found = predictor(*predictor.collate(odd))
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-5)
    rows = len(odd) * len(predictor.options.paths)
    assert [n for n, _ in passes] == [rows, rows]  # two passes all the same


def test_the_beginning_is_computed_once_a_call(tiny_gpt2: Path, passes: list[tuple[int, int]]) -> None:
    predictor = _predictor(tiny_gpt2, *CASES["absolute positions"][1:])
    shared, paths = len(predictor.prefix), len(predictor.options.paths)
    predictor.predict(TEXTS, batch_tokens=1)
    assert passes[0] == (1, shared)
    assert [rows for rows, _ in passes[1:]] == [paths] * (len(TEXTS) - 1)
    own = [len(row) - shared + predictor.options.longest for row in predictor.encode(TEXTS).tokens if len(row)]
    assert sorted(tokens for _, tokens in passes[1:]) == sorted(own)
    assert predictor._kept is None  # trained weights would make others
    passes.clear()
    predictor(*predictor.collate(predictor.encode(TEXTS[:3]).tokens))
    assert [rows for rows, _ in passes] == [1, 3 * paths]


def test_no_rows_make_as_many_passes(predictor: Predictor, passes: list[tuple[int, int]]) -> None:
    """ZeRO-3 gathers weights for all ranks at once: one without rows must take part in both passes."""
    found = predictor(*predictor.collate([]))
    assert found.shape == (1, len(predictor.options.codes))
    assert torch.isfinite(found).all()
    assert [rows for rows, _ in passes] == [1, len(predictor.options.paths)]
    assert predictor.predict(["", None])[1] == ["empty text", "no text"]


def test_batches_count_what_is_computed(tiny_llama: Path) -> None:
    predictor = _predictor(tiny_llama, *CASES["single tokens"][1:])
    tokens = predictor.encode(["good"] * 40).tokens
    shared, whole = len(predictor.prefix), len(tokens[0])
    assert (shared, whole) == (18, 21)
    assert int(ATTENDED * shared) == 1
    assert [len(rows) for rows in predictor.batches(tokens, 80)] == [20, 20]  # of 3 + 1 tokens
    assert [len(rows) for rows in _plain(predictor).batches(tokens, 80)] == [3] * 13 + [1]
    assert Prefix().costs(np.array([0, 5])).tolist() == [0, 5]
    assert predictor.prefix.costs(np.array([0, 5, 20])).tolist() == [0, 2, 3]


def test_recomputed_activations_go_without_it(tiny_llama: Path, passes: list[tuple[int, int]]) -> None:
    predictor = _predictor(tiny_llama, *CASES["single tokens"][1:], adapter="lora")
    prompts = predictor.encode(TEXTS[:3]).tokens
    gradients = []
    for recompute in (False, True):
        if recompute:
            checkpoint_activations(predictor.backbone)
        passes.clear()
        predictor.train()
        read = predictor.read(predictor(*predictor.collate(prompts)))
        assert len(passes) == (1 if recompute else 2)
        gradients.append(torch.autograd.grad(read.square().sum(), list(predictor.trainable().values())))
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, atol=1e-6, rtol=1e-5)
    passes.clear()
    predictor.predict(TEXTS[:3])
    assert len(passes) == 2


@pytest.mark.parametrize(("window", "shares"), [(64, True), (32, True), (31, False)])
def test_a_window_must_hold_a_row(window: int, shares: bool, tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    settings = {"vocab_size": 18, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.2}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(MistralConfig(**settings, **heads, sliding_window=window)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_llama / name).read_bytes())
    predictor = _predictor(folder, *CASES["several tokens"][1:])
    assert bool(len(predictor.prefix)) == shares
    expected = [_plain(predictor).distribution([text])[0][0] for text in TEXTS[:5]]
    np.testing.assert_allclose(predictor.distribution(TEXTS[:5])[0], expected, atol=1e-5)


def test_states_that_run_are_not_cut() -> None:
    with torch.device("meta"):
        mamba = AutoModelForCausalLM.from_config(MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=18))
    assert not can_share(mamba, ["past_key_values", "use_cache", "position_ids", "attention_mask"], 32)
    llama = LlamaForCausalLM.config_class(hidden_size=16, num_hidden_layers=1, vocab_size=18, num_attention_heads=2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(llama)
    assert not can_share(model, ["use_cache", "position_ids", "attention_mask"], 32)
    assert can_share(model, ["past_key_values", "use_cache", "position_ids", "attention_mask"], 32)


def test_a_short_beginning_is_not_worth_a_pass(tiny_llama: Path) -> None:
    assert not len(_predictor(tiny_llama, "the film: {text} it was", {"good": 1, "bad": 0}).prefix)


def test_bf16_is_close(tiny_gpt2: Path) -> None:
    predictor = _predictor(tiny_gpt2, *CASES["absolute positions"][1:])
    exact = predictor.distribution(TEXTS[:5])[0]
    np.testing.assert_allclose(predictor.to(torch.bfloat16).distribution(TEXTS[:5])[0], exact, atol=0.1)


def test_the_logits_of_a_batch_do_not_copy_the_output_layer(tiny_gpt2: Path) -> None:
    """The slice of last tokens is no view in whose rows torch would repeat the output layer's weights."""
    predictor = _predictor(tiny_gpt2, *CASES["absolute positions"][1:])
    seen = []
    head = predictor.base.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].is_contiguous()))
    predictor.predict(TEXTS[:3])
    assert seen
    assert all(seen)
