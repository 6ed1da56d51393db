"""The step-time benchmark: both sides do the same arithmetic, and its table shows what was measured."""

from pathlib import Path

import numpy as np
import pytest

CASES = ("minilm full fp32", "minilm full bf16", "smollm2 lora fp32", "minilm accumulated")
STEPS = 6


@pytest.fixture(scope="module")
def step_time():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "finetune")
        import step_time

        yield step_time


@pytest.fixture(scope="module")
def document(step_time, tiny_bert, tiny_llama):
    words = np.random.default_rng(0).choice(["the", "film", "was", "good", "bad"], size=(STEPS * step_time.BATCH, 12))
    texts = [" ".join(line[: 2 + i % 10]) for i, line in enumerate(words)]
    models = {"minilm": str(tiny_bert), "smollm2": str(tiny_llama)}
    specs = {name: step_time.spec_of(step_time.CASES[name], models, texts, 16, STEPS) for name in CASES}
    found = {name: step_time.measure(spec) for name, spec in specs.items()}
    return step_time.document(found, step_time.padding(texts, models["minilm"], 16))


def test_both_sides_take_the_same_steps(document):
    # The tiny models have no dropout: the same losses to rounding, whether the step is accumulated or not.
    for name in ("minilm full fp32", "minilm accumulated"):
        losses = document["cases"][name]["losses"]
        assert len(losses["ours"]) == STEPS
        assert losses["ours"] == pytest.approx(losses["bare"], rel=1e-4)
    losses = document["cases"]["minilm full bf16"]["losses"]
    assert losses["ours"] == pytest.approx(losses["bare"], rel=2e-2)


def test_the_table_shows_every_case_with_its_ratio(step_time, document):
    table = step_time.table(document)
    for name in CASES:
        case = document["cases"][name]
        ratio = np.array(case["cpu"]["ours"]) / np.array(case["cpu"]["bare"])
        assert len(ratio) == STEPS - step_time.WARM
        assert case["ratios"]["cpu"]["median"] == pytest.approx(np.median(ratio))
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
        assert f"{np.median(ratio):.3f} (" in line
        assert ("met" in line or "missed" in line) == (name != "minilm accumulated")


def test_padding_is_what_the_rows_need_and_more(document):
    for row in document["padding"]:
        assert row["tokens"] <= row["padded"] <= row["waited_for"]
    dealt = {(row["micro_batch_size"], row["dealt"]): row["padded"] for row in document["padding"]}
    assert dealt[4, "by length"] < dealt[4, "as drawn"]
    assert all(dealt[rows, "by length, in passes"] <= dealt[rows, "by length"] for rows in (None, 4))
