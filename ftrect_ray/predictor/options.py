"""The answer read off the model's own probabilities of the answer options: no head, and no training needed.

    f(x) = Σ_k p_k v_k,    p_k ∝ P(the model goes on with option k | prompt around x)

An option of several tokens has the product of their conditional probabilities. The answer is the *longest* option
that the model's continuation begins with: where "1" begins "10", the probability of "1" is that of its token less
that of "10". The options are then disjoint events, so their probabilities add to at most 1, whether or not the model
would end its turn after the answer, and all are treated alike.

One forward pass of a text needs one row for each of the ``paths``: the shortest beginnings of options after which
every next token can be read. Options of single tokens need the bare prompt; 1 to 10 with "10" as two tokens
need the prompt and "1".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ftrect_ray.errors import InputError
from ftrect_ray.predictor.prompting import Prompt
from ftrect_ray.predictor.tokens import collate
from ftrect_ray.study import Model

Code = tuple[int, ...]

#: Below it, 1 − P(longer options | this one) is rounding in fp32.
LEAST_REST = 1e-6


@dataclass(frozen=True)
class AnswerOptions:
    """The options of a study as tokens after a prompt.

    Attributes
    ----------
    prompt : Prompt
    codes : tuple of K tuples of int
        Tokens of each option.
    values : tuple of K floats
        The number that each stands for, in the answer's unit.
    max_tokens : int
        Of the prompt, the text inside it and the longest path.

    Examples
    --------
    >>> AnswerOptions(None, ((5,), (6,)), (0.0, 1.0), 8).paths
    [()]
    >>> AnswerOptions(None, ((5,), (6,), (5, 7), (6, 8, 9)), (1.0, 2.0, 3.0, 4.0), 8).paths
    [(5,), (6, 8)]
    """

    prompt: Prompt
    codes: tuple[Code, ...]
    values: tuple[float, ...]
    max_tokens: int

    @classmethod
    def of(cls, model: Model, tokenizer: PreTrainedTokenizerBase) -> AnswerOptions:
        """The prompt and the options of ``model``, checked.

        Raises
        ------
        InputError
            As :meth:`Prompt.of`; an option has no tokens, or unknown or control tokens; two options have the
            same tokens; the prompt leaves no room for a text.
        """
        assert model.options is not None
        prompt = Prompt.of(model.options, tokenizer)
        answers = model.options.answers
        codes = tuple(map(prompt.continuation, answers))
        control = set(tokenizer.all_special_ids)
        for answer, code in zip(answers, codes, strict=True):
            if not code or control & set(code):
                found = "an unknown or a control token" if code else "nothing"
                raise InputError(
                    f"the option {answer!r} is {found} for the tokenizer of {model.name!r}",
                    where="model.options.answers",
                    mend="write it in characters that the model knows",
                )
        for (one, first), (other, second) in combinations(zip(answers, codes, strict=True), 2):
            if first == second:
                raise InputError(
                    f"the options {one!r} and {other!r} are not distinguishable by their tokens",
                    where="model.options.answers",
                    mend=f"the tokenizer of {model.name!r} reads them as the same; word one of them otherwise",
                )
        options = cls(prompt, codes, tuple(answers.values()), model.max_tokens)
        _check_room(prompt, options.longest, model)
        return options

    @cached_property
    def paths(self) -> list[Code]:
        """The P beginnings of options to put behind the prompt: inner ones, none the beginning of another."""
        inner = {code[:depth] for code in self.codes for depth in range(len(code))}
        return sorted(path for path in inner if not any(len(p) > len(path) and p[: len(path)] == path for p in inner))

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest path."""
        return max(map(len, self.paths))

    @cached_property
    def _nodes(self) -> dict[Code, tuple[int, int]]:
        """Each beginning after which a token is read: its row among the paths, its place among the kept logits."""
        return {
            path[:depth]: (row, self.longest - len(path) + depth)
            for row, path in enumerate(self.paths)
            for depth in range(len(path) + 1)
        }

    @cached_property
    def _extensions(self) -> dict[int, list[int]]:
        """Options that begin another one, and those that go on from it with no third in between."""
        longer = {
            k: [j for j, other in enumerate(self.codes) if len(other) > len(code) and other[: len(code)] == code]
            for k, code in enumerate(self.codes)
        }
        return {k: [j for j in js if not any(j in longer[i] for i in js)] for k, js in longer.items() if js}

    # ------------------------------------------------------------------------------------------------ computing

    def rows_tokens(self, lengths: np.ndarray) -> np.ndarray:
        """Tokens that texts of ``lengths`` (n,) tokens cost in a forward pass, int64 (n,); 0 stays 0."""
        return np.where(lengths > 0, len(self.paths) * (lengths + self.longest), 0)

    def collate(self, prompts: Sequence[np.ndarray], pad: int) -> tuple[Tensor, Tensor]:
        """Left-padded ``input_ids`` and ``attention_mask``, int64 (n·P, longest): text by text, path by path.

        On the left, so that what is read stands in the last columns. No prompts give one text of padding.
        """
        prompts = prompts or [np.array([pad], dtype=np.int64)]
        rows = [np.concatenate([prompt, np.array(path, dtype=np.int64)]) for prompt in prompts for path in self.paths]
        return collate(rows, pad, left=True)

    def event_log_probabilities(self, logits: Tensor) -> Tensor:
        """Log-probability (n, K), fp32, that each option is the answer, among all continuations.

        ``logits`` (n·P, longest + 1, vocabulary) are those of the last tokens of the rows of :meth:`collate`.
        """
        rows = logits.unflatten(0, (-1, len(self.paths)))
        places = torch.tensor(list(self._nodes.values()), device=logits.device)
        at = rows[:, places[:, 0], places[:, 1]].float()  # (n, nodes, vocabulary)
        number = {node: i for i, node in enumerate(self._nodes)}
        every = at.logsumexp(-1)
        columns = []
        for code in self.codes:
            nodes = [number[code[:depth]] for depth in range(len(code))]
            columns.append((at[:, nodes, list(code)] - every[:, nodes]).sum(1))
        events = list(columns)
        for k, longer in self._extensions.items():
            share = torch.stack([columns[j] for j in longer], 1).logsumexp(1) - columns[k]
            events[k] = columns[k] + torch.log1p(-share.exp().clamp(max=1 - LEAST_REST))
        return torch.stack(events, 1)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Log-probability (n, K), fp32, of each option among the options; see :meth:`event_log_probabilities`."""
        return torch.log_softmax(self.event_log_probabilities(logits), -1)

    def expected(self, log_probabilities: Tensor, center: float, spread: float) -> Tensor:
        """Σ_k p_k (v_k − center) / spread, (n,) of (n, K)."""
        standard = (np.array(self.values) - center) / spread
        return log_probabilities.exp() @ log_probabilities.new_tensor(standard)


def prompt_of(model: Model, tokenizer: PreTrainedTokenizerBase) -> tuple[Prompt | None, AnswerOptions | None]:
    """What stands around each text, and the options that are read behind it, checked; None where ``model`` has none.

    Raises
    ------
    InputError
        As :meth:`AnswerOptions.of`.
    """
    if model.options is None:
        return None, None
    if model.has_options:
        options = AnswerOptions.of(model, tokenizer)
        return options.prompt, options
    prompt = Prompt.of(model.options, tokenizer)
    _check_room(prompt, 0, model)
    return prompt, None


def _check_room(prompt: Prompt, behind: int, model: Model) -> None:
    """Of one token at least for a text, between the prompt and the tokens ``behind`` it."""
    least = len(prompt.fixed()) + 1 + behind
    if least > model.max_tokens:
        raise InputError(
            f"the prompt alone leaves no room for a text in 'max_tokens' {model.max_tokens}",
            where="model.options.prompt",
            mend=f"shorten it, or set 'max_tokens' to {least} or more",
        )
