"""Texts to token ids, token ids to padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

NO_TOKENS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Encoded:
    """Token ids of n texts.

    Attributes
    ----------
    tokens : list of ndarray, int64
        Empty where the text cannot be encoded.
    errors : list of str or None
        Why it cannot.
    cut : int
        Texts that were longer than the model reads.
    """

    tokens: list[np.ndarray]
    errors: list[str | None]
    cut: int

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, int64 (n,)."""
        return np.array([len(ids) for ids in self.tokens], dtype=np.int64)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str | None], max_tokens: int) -> Encoded:
    """Tokenise each text once, without padding, cut at ``max_tokens``; a bad text gets an error, not an exception."""
    errors = [refusal(text) for text in texts]
    good = [i for i, error in enumerate(errors) if error is None]
    tokens = [NO_TOKENS] * len(errors)
    cut = 0
    if good:
        encoding = tokenizer([texts[i] for i in good], truncation=True, max_length=max_tokens, padding=False)
        pieces = encoding.encodings
        for row, (i, ids) in enumerate(zip(good, encoding["input_ids"], strict=True)):
            tokens[i] = np.asarray(ids, dtype=np.int64)
            cut += bool(pieces[row].overflowing) if pieces else len(ids) >= max_tokens
            if not len(ids):
                errors[i] = "the tokenizer finds no token in the text"
    return Encoded(tokens, errors, cut)


def refusal(text: object) -> str | None:
    """Why a text cannot be encoded, or None."""
    if text is None:
        return "no text"
    if not isinstance(text, str):
        return f"not a text but {type(text).__name__}"
    if not text.strip():
        return "empty text"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "not valid Unicode (a lone surrogate)"
    return None


def collate(
    rows: Sequence[np.ndarray], pad: int, *, width: int | None = None, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Padded ``input_ids`` and ``attention_mask``, int64 (n, ``width`` or longest), padding on the right or ``left``.

    No rows give one row of padding: a rank without work must still join the others' collective calls.
    """
    rows = rows or [np.array([pad], dtype=np.int64)]
    width = max(map(len, rows)) if width is None else width
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        place = slice(width - len(tokens), width) if left else slice(len(tokens))
        ids[row, place] = torch.from_numpy(tokens)
        mask[row, place] = 1
    return ids, mask


def batches_by_tokens(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Rows that have tokens, longest first, in batches of at most ``batch_tokens`` padded tokens."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size
