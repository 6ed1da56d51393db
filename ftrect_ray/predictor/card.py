"""The card of an exported model: what it is, and plain code that computes f(x)."""

from __future__ import annotations

import json

from ftrect_ray.models import MODELS, model_card
from ftrect_ray.predictor.predictor import Predictor
from ftrect_ray.predictor.pretrained import of_first_layers

CARD = """\
---
{front}
---

# {title}

A language model that was fine-tuned to predict a number, a person's answer, from a text. Made with `ftrect`.

- base model: {base}
- licence of the base model: {licence}
- trained: {trained}, on {train} labels; {stop} more chose the epoch
- objective: {objective}
- in this folder: {held}

Its predictions are there to narrow an interval around human answers (prediction-powered inference). Alone they are
biased, as those of any model. A label that trained it must not rectify it.

## f(x)

{readout}

```python
{code}
print(f(["a text", "another text"]))
```
"""

OBJECTIVES = {
    "variance": "the variance of the residual Y − f",
    "mse": "the mean square of the residual Y − f",
    "coefficient": "the variance of one rectified regression coefficient",
    "trace": "the summed variances of the rectified regression coefficients",
    "determinant": "the generalised variance of the rectified regression coefficients",
}
TRAINED = {"full": "all weights", "lora": "a low-rank adapter", "head": "the readout alone"}
HELD = {
    "full": "the whole model as transformers reads it, its tokenizer and readout",
    "lora": "the adapter as PEFT reads it (`adapter/`), tokenizer and readout; the base model is fetched apart",
    "head": "the readout and the tokenizer; the base model is fetched apart",
}
LINEAR = """\
    f(x) = center + spread · z(x) + offset = {scale.center:.6g} + {scale.spread:.6g} · z(x) + {scale.offset:.6g}

z(x) is a linear function (`head.safetensors`) of {states}. `center` and `spread` are the mean
and the standard deviation of the answers that it was trained on; `offset` makes its mean residual on its own labels
zero. A text is cut after {max_tokens} tokens."""
POOLINGS = {
    "mean": "the last hidden states, averaged over the tokens",
    "last": "the last hidden state of the last token",
}
PROMPTED = "the last hidden state of the prompt around x, at its last token"
FIRST_LAYERS = ", of the first {layer} hidden layers alone"
POOLED = {
    "mean": "(hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)",
    "last": "hidden[torch.arange(len(hidden)), mask.sum(1) - 1]",
}
BATCH = """\
    batch = tokenizer(texts, truncation=True, max_length={max_tokens}, padding=True, return_tensors="pt")
"""
PROMPTED_BATCH = """\
    prompts = [{before!r} + text + {after!r} for text in texts]
    rows = [{opening} + ids for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
    batch = tokenizer.pad({{"input_ids": rows}}, return_tensors="pt")
"""

EXPECTED = """\
    f(x) = Σ_k p_k v_k + offset,   offset = {scale.offset:.6g}

v_k is the number that option k stands for, and p_k the probability that the model goes on with it after the prompt
around x, among the options; the longest option that it goes on with counts. `offset` makes its mean residual on its
own labels zero. Prompt and option have {max_tokens} tokens at most: the code below does not cut longer texts, and does
not disarm control tokens that a text spells out."""

START = """\
import json, torch
from transformers import {auto}, AutoTokenizer
{imports}
folder = "."  # where this file lies
readout = json.load(open(f"{{folder}}/readout.json"))
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
model = {model}.eval()
"""

LINEAR_CODE = """\
head = load_file(f"{{folder}}/head.safetensors")

@torch.inference_mode()
def f(texts):
{batch}    ids, mask = batch["input_ids"], batch["attention_mask"]
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    pooled = {pooled}
    z = (pooled @ head["weight"][0] + head["bias"]).double()
    return readout["center"] + readout["spread"] * z + readout["offset"]
"""

EXPECTED_CODE = """\
before, after = {before!r}, {after!r}
options = {options}  # tokens: number

@torch.inference_mode()
def p(start, option):
    logits = model(torch.tensor([[*start, *option]])).logits[0, len(start) - 1 : -1]
    return logits.log_softmax(-1)[range(len(option)), option].sum().exp()

def f(texts):
    return torch.stack([expected(text) for text in texts])

def expected(text):
    start = {opening} + tokenizer(before + text + after, add_special_tokens=False)["input_ids"]
    answer = {{}}  # the probability that an option, and no longer one, is the answer
    for option in sorted(options, key=len, reverse=True):
        answer[option] = p(start, option) - sum(answer[o] for o in answer if o[:len(option)] == option)
    return sum(answer[o] * options[o] for o in options) / sum(answer.values()) + readout["offset"]
"""


def card(predictor: Predictor, *, title: str, objective: str, trained: str, labels: tuple[int, int]) -> str:
    """The ``README.md`` of an exported folder.

    Parameters
    ----------
    objective : str
        ``Study.objective``.
    trained : str
        ``Model.adapter`` of the fine-tune; that of ``predictor`` differs where an adapter was merged.
    labels : tuple of int
        How many trained, and how many chose the epoch.
    """
    model, facts = predictor.model, model_card(predictor.model.name)
    origin = facts["origin"]
    base = f"{origin}, as `ftrect` has it: {MODELS[model.name].description}" if model.name in MODELS else origin
    if model.name in MODELS and model.adapter != "full":
        base += ". Where the original's weights differ, take the folder of `ftrect export --merge`"
    library = {"full": "transformers", "lora": "peft", "head": "transformers"}[model.adapter]
    front = {"base_model": origin, "license": (facts["licence"] or "unknown").lower(), "library_name": library}
    readout = LINEAR if predictor.options is None else EXPECTED
    return CARD.format(
        front="\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()),
        title=title,
        base=base,
        licence=facts["licence"] or "unknown; see the base model",
        trained=TRAINED[trained] + (", merged into the weights" if trained == "lora" != model.adapter else ""),
        train=labels[0],
        stop=labels[1],
        objective=OBJECTIVES[objective],
        held=HELD[model.adapter],
        readout=readout.format(scale=predictor.scale, states=_states(predictor), max_tokens=model.max_tokens),
        code=_code(predictor, origin),
    )


def _states(predictor: Predictor) -> str:
    """What the head reads, in words."""
    states = POOLINGS[predictor.model.pooling] if predictor.prompt is None else PROMPTED
    layer = predictor.model.layer
    return states if layer is None else states + FIRST_LAYERS.format(layer=layer)


def _code(predictor: Predictor, origin: str) -> str:
    """Twenty lines that need torch, transformers, safetensors and, for an adapter, peft."""
    model, options = predictor.model, predictor.options
    auto = "AutoModel" if options is None else "AutoModelForCausalLM"
    revision = f", revision={model.revision!r}" if model.revision else ""
    source = "folder" if model.adapter == "full" else f"{origin!r}{revision}"
    fields = {} if model.adapter == "full" or model.layer is None else of_first_layers(predictor.base.config, model)
    further = "".join(f", {name}={value!r}" for name, value in fields.items())
    backbone = f"{auto}.from_pretrained({source}{further}, dtype=torch.float32)"
    imports = ["from safetensors.torch import load_file\n"] * (options is None)
    if model.adapter == "lora":
        backbone = f'PeftModel.from_pretrained({backbone}, f"{{folder}}/adapter")'
        imports.append("from peft import PeftModel\n")
    start = START.format(auto=auto, imports="".join(imports), model=backbone)
    if options is None:
        batch, prompt = BATCH.format(max_tokens=model.max_tokens), predictor.prompt
        if prompt is not None:
            batch = PROMPTED_BATCH.format(before=prompt.before, after=prompt.after, opening=list(prompt.opening))
        return start + LINEAR_CODE.format(batch=batch, pooled=POOLED[model.pooling])
    return start + EXPECTED_CODE.format(
        before=options.prompt.before,
        after=options.prompt.after,
        options=dict(zip(options.codes, options.values, strict=True)),
        opening=list(options.prompt.opening),
    )
