"""Answer options: probabilities and gradients against one plain forward pass an option, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftrect_ray.errors import InputError
from ftrect_ray.predictor import Predictor, Scale
from ftrect_ray.predictor.options import AnswerOptions
from ftrect_ray.study import Model

TEXTS = ["the film was good", "bad", "a very dull plot and an awful actor", "I love it 🙂"]
STARS = {str(star): star for star in range(1, 11)}
CASES = {  # fixture, prompt, answers
    "single tokens": ("tiny_llama", "{text} it was", {"good": 2, "bad": -1, "dull": 0.5}),
    "several tokens": (
        "tiny_llama",
        "{text} it was",
        {"good plot": 2, "good actor": 1, "bad": -1, "a film the": 3, "i": 0},
    ),
    "one begins another": ("tiny_llama", "{text} it was", {"not": 0, "not good": 1, "not good actor": 4, "bad": 5}),
    "absolute positions": ("tiny_gpt2", "Rate: {text}\nRating:", STARS),
    "chat": ("tiny_chat", "Rate from 1 to 10: {text}", STARS),
    "words of bytes": ("tiny_chat", "{text}?", {"Yes, very": 1.0, "Yes": 0.5, "No": 0.0, "Ja 🙂": 2.0}),
}


def _predictor(folder: Path, prompt: str, answers: dict[str, float], **settings) -> Predictor:
    if "llama" in str(folder):
        settings = {"max_tokens": 24} | settings
    options = {"prompt": prompt, "answers": answers}
    model = Model(name=str(folder), options=options, **({"max_tokens": 120} | settings))
    return Predictor.create(model, seed=1, scale=Scale(1.5, 2.0, 0.25, 1.5))


@pytest.fixture(params=CASES)
def predictor(request: pytest.FixtureRequest) -> Predictor:
    fixture, prompt, answers = CASES[request.param]
    return _predictor(request.getfixturevalue(fixture), prompt, answers)


def _brute(predictor: Predictor, prompt: np.ndarray) -> torch.Tensor:
    """Probability (K,), float64, of each option by a pass of its own, unpadded; the longest option wins."""
    assert predictor.options is not None
    codes = predictor.options.codes
    chains = []
    for code in codes:
        ids = torch.tensor([[*prompt.tolist(), *code]])
        logits = predictor.base(input_ids=ids).logits[0].double().log_softmax(-1)
        start = len(prompt) - 1
        chains.append(sum(logits[start + i, token] for i, token in enumerate(code)).exp())
    begins = {(k, j) for k, j in itertools.permutations(range(len(codes)), 2) if codes[j][: len(codes[k])] == codes[k]}
    events = list(chains)
    for k in sorted(range(len(codes)), key=lambda k: -len(codes[k])):  # what its longer options have is not its own
        events[k] = chains[k] - sum(events[j] for j in range(len(codes)) if (k, j) in begins)
    return torch.stack(events)


def _logits(predictor: Predictor, prompts: list[np.ndarray]) -> torch.Tensor:
    ids, mask = predictor.collate(prompts)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return predictor.base(input_ids=ids, attention_mask=mask, position_ids=positions).logits


def test_probabilities_are_those_of_one_pass_an_option(predictor: Predictor) -> None:
    probabilities, errors = predictor.distribution(TEXTS)
    assert errors == [None] * len(TEXTS)
    for row, prompt in zip(probabilities, predictor.encode(TEXTS).tokens, strict=True):
        events = _brute(predictor, prompt)
        np.testing.assert_allclose(row, (events / events.sum()).detach(), atol=1e-5)
    assert np.ptp(probabilities, axis=0).max() > 1e-3


def test_events_are_disjoint(predictor: Predictor) -> None:
    prompts = predictor.encode(TEXTS).tokens
    kept = predictor.options.longest + 1
    events = predictor.options.event_log_probabilities(_logits(predictor, prompts)[:, -kept:]).exp()
    expected = torch.stack([_brute(predictor, prompt) for prompt in prompts])
    torch.testing.assert_close(events.double(), expected, atol=1e-6, rtol=1e-3)
    assert (events > 0).all()
    assert (events.sum(1) < 1).all()


def test_gradient_is_that_of_one_pass_an_option(predictor: Predictor) -> None:
    values = torch.tensor(predictor.options.values, dtype=torch.float64)
    prompts = predictor.encode(TEXTS).tokens
    events = torch.stack([_brute(predictor, prompt) for prompt in prompts])
    wanted = ((events / events.sum(1, keepdim=True)) @ values - 1.5) / 2.0
    parameters = list(predictor.trainable().values())
    expected = torch.autograd.grad((wanted**2).sum(), parameters, allow_unused=True)
    ids, mask = predictor.collate(prompts)
    got = torch.autograd.grad((predictor.read(predictor(ids, mask)) ** 2).sum(), parameters, allow_unused=True)
    largest = max(gradient.abs().max() for gradient in expected if gradient is not None)
    assert largest > 1e-3
    for ours, theirs in zip(got, expected, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-5 * max(1.0, largest.item()), rtol=1e-4)


def test_batches_and_padding_change_nothing(predictor: Predictor) -> None:
    together, _ = predictor.predict(TEXTS, batch_tokens=100_000)
    alone = [predictor.predict([text])[0][0] for text in TEXTS]
    narrow, _ = predictor.predict(TEXTS, batch_tokens=8)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(narrow, alone, atol=1e-5)


def test_the_prediction_is_the_expected_value(predictor: Predictor) -> None:
    probabilities, _ = predictor.distribution([*TEXTS, ""])
    values, errors = predictor.predict([*TEXTS, ""])
    np.testing.assert_allclose(values, probabilities @ np.array(predictor.options.values) + 0.25, atol=1e-5)
    assert errors == [None] * len(TEXTS) + ["empty text"]
    assert np.isnan(probabilities[-1]).all()
    assert np.isnan(values[-1])
    predictor.centre(-1.0)
    np.testing.assert_allclose(predictor.predict(TEXTS)[0], values[:-1] - 1.0, atol=1e-9)


@pytest.mark.parametrize(
    ("codes", "paths"),
    [
        ([(1,), (2,)], [()]),
        ([(1,), (2,), (1, 0)], [(1,)]),
        ([(9, 1), (9, 2)], [(9,)]),
        ([(8, 1), (9, 2), (3,)], [(8,), (9,)]),
        ([(1, 2, 3), (1, 2), (1,), (4, 5)], [(1, 2), (4,)]),
    ],
)
def test_only_maximal_paths_cost_a_row(codes: list[tuple[int, ...]], paths: list[tuple[int, ...]]) -> None:
    options = AnswerOptions(None, tuple(codes), tuple(range(len(codes))), 16)  # type: ignore[arg-type]
    assert options.paths == paths
    assert options.rows_tokens(np.array([10, 0])).tolist() == [len(paths) * (10 + len(paths[0])), 0]


def test_no_texts_give_one_of_padding(predictor: Predictor) -> None:
    ids, mask = predictor.collate([])
    assert len(ids) == len(predictor.options.paths)
    assert predictor(ids, mask).shape == (1, len(predictor.options.codes))
    assert predictor.distribution([])[0].shape == (0, len(predictor.options.codes))
    assert predictor.predict([]) == (pytest.approx([]), [])


def test_left_padded_text_by_text_and_path_by_path() -> None:
    options = AnswerOptions(None, ((5,), (6,), (5, 7), (6, 8)), (1, 2, 3, 4), 16)  # type: ignore[arg-type]
    ids, mask = options.collate([np.array([1, 2, 3]), np.array([4])], pad=0)
    assert ids.tolist() == [[1, 2, 3, 5], [1, 2, 3, 6], [0, 0, 4, 5], [0, 0, 4, 6]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_saved_and_loaded_says_the_same(adapter: str, tiny_chat: Path, tmp_path: Path) -> None:
    predictor = _predictor(tiny_chat, "Rate: {text}", STARS, adapter=adapter)
    with torch.no_grad():
        for parameter in predictor.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    untrained = _predictor(tiny_chat, "Rate: {text}", STARS).distribution(TEXTS)[0]
    trained = predictor.distribution(TEXTS)[0]
    assert abs(trained - untrained).max() > 1e-2
    predictor.save(tmp_path / "m")
    loaded = Predictor.load(tmp_path / "m")
    np.testing.assert_allclose(loaded.distribution(TEXTS)[0], trained, atol=1e-6)
    half = Predictor.load(tmp_path / "m", torch.bfloat16)
    np.testing.assert_allclose(half.distribution(TEXTS)[0], trained, atol=0.1)
    assert not list((tmp_path / "m").rglob("head.safetensors"))


def test_what_trains_without_a_head(tiny_gpt2: Path, tiny_llama: Path) -> None:
    settings = {"prompt": "{text} it was", "answers": {"good": 1, "bad": 0}}
    tied = _predictor(tiny_gpt2, **settings)
    assert tied.head is None
    assert tied.base.get_output_embeddings().weight is tied.base.get_input_embeddings().weight
    assert not any("wte" in name or "lm_head" in name for name in tied.trainable())
    assert "backbone.transformer.wte.weight" in _predictor(tiny_gpt2, **settings, freeze_embeddings=False).trainable()
    loose = _predictor(tiny_llama, **settings).trainable()
    assert "backbone.lm_head.weight" in loose
    assert "backbone.model.embed_tokens.weight" not in loose
    lora = _predictor(tiny_gpt2, **settings, adapter="lora").trainable()
    assert lora
    assert all("lora_" in name and "lm_head" not in name for name in lora)


def test_a_model_that_gives_no_number_says_so(tiny_llama: Path) -> None:
    predictor = _predictor(tiny_llama, "{text} it was", {"good": 1, "bad": 0})
    with torch.no_grad():
        predictor.base.lm_head.weight.fill_(float("nan"))
    probabilities, errors = predictor.distribution(TEXTS)
    assert np.isnan(probabilities).all()
    assert set(errors) == {"the model gives no finite number"}


def test_certainty_of_the_longer_option_keeps_the_shorter_finite() -> None:
    options = AnswerOptions(None, ((1,), (1, 2), (3,)), (0.0, 1.0, 2.0), 16)  # type: ignore[arg-type]
    logits = torch.zeros(1, 2, 4)
    logits[0, 1, 2] = 100.0  # after 1 comes 2, certainly
    logits.requires_grad_()
    log_probabilities = options.log_probabilities(logits)
    assert torch.isfinite(log_probabilities).all()
    np.testing.assert_allclose(log_probabilities.detach().exp()[0], [0, 0.5, 0.5], atol=1e-6)
    options.expected(log_probabilities, 0.0, 1.0).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_an_encoder_has_no_options(tiny_bert: Path) -> None:
    with pytest.raises(InputError, match=r"a prompt needs a causal language model; .* \(bert\) is an encoder"):
        _predictor(tiny_bert, "{text}", {"good": 1, "bad": 0}, max_tokens=16)


def test_options_with_the_same_tokens_are_named(tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    answers = {"bad": 0, "good": 1, "Good": 2}
    with pytest.raises(InputError, match="the options 'good' and 'Good' are not distinguishable by their tokens"):
        AnswerOptions.of(Model(name="x", options={"prompt": "{text}", "answers": answers}), tokenizer)


@pytest.mark.parametrize("option", ["zzz", "good zzz", "</s>"])
def test_an_unknown_option_is_refused(option: str, tiny_llama: Path) -> None:
    with pytest.raises(InputError, match=f"the option '{option}' is an unknown or a control token for the tokenizer"):
        _predictor(tiny_llama, "{text} it was", {"good": 1, option: 0})


def test_regression_has_no_distribution(tiny_llama: Path) -> None:
    with pytest.raises(ValueError, match="no answer options"):
        Predictor.create(Model(name=str(tiny_llama), max_tokens=16)).distribution(["good"])


def test_activations_are_recomputed_to_the_same_gradient(tiny_chat: Path) -> None:
    from ftrect_ray.predictor.pretrained import checkpoint_activations

    gradients = []
    for recompute in (False, True):
        predictor = _predictor(tiny_chat, "Rate: {text}", STARS, adapter="lora", lora={"dropout": 0.0})
        if recompute:
            checkpoint_activations(predictor.backbone)
            predictor.train()
            assert predictor.base.is_gradient_checkpointing
        ids, mask = predictor.collate(predictor.encode(TEXTS).tokens)
        parameters = list(predictor.trainable().values())
        gradients.append(torch.autograd.grad(predictor.read(predictor(ids, mask)).square().sum(), parameters))
        assert np.isfinite(predictor.predict(TEXTS)[0]).all()
    assert max(gradient.abs().max() for gradient in gradients[0]) > 1e-4
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


FEW_SHOT = "Review: I loved this.\nSentiment: positive\n\nReview: It was boring and bad.\nSentiment: negative\n\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "chat"),
    [
        (FEW_SHOT + "Review: {text}\nSentiment:", "no"),
        ("Is the sentiment of this review positive or negative?\n\n{text}", "auto"),
    ],
)
def test_smollm2_tells_good_from_bad_untrained(prompt: str, chat: str) -> None:
    options = {"prompt": prompt, "answers": {"positive": 1, "negative": -1}, "chat": chat}
    predictor = Predictor.create(Model(name="smollm2", max_tokens=128, options=options))
    assert predictor.base.lm_head.weight is predictor.base.model.embed_tokens.weight
    assert predictor.options.paths == [()]
    good = ["A wonderful film. I loved every minute of it.", "Brilliant, moving, the best of the year!"]
    bad = ["Terrible. A boring waste of two hours.", "Awful acting, a stupid plot, I hated it."]
    values, errors = predictor.predict([*good, *bad])
    assert errors == [None] * 4
    assert min(values[:2]) > max(values[2:]) + 0.5


def test_the_plain_model_is_what_is_loaded(tiny_llama: Path) -> None:
    predictor = _predictor(tiny_llama, "{text} it was", {"good": 1, "bad": 0})
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert all(torch.equal(a, b) for a, b in zip(predictor.base.parameters(), plain.parameters(), strict=True))
