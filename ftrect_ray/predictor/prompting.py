"""The prompt around each text, as token ids: written once, cut inside the text, closed to what the text would command.

The chat template is rendered once, around a mark; each text then takes the mark's place, and the whole is tokenised
jointly. So a text can neither steer the template nor end its own turn: a control token (``<|im_end|>``) that is
spelt out in a text is encoded as the plain characters that it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ftrect_ray.errors import InputError
from ftrect_ray.predictor.tokens import NO_TOKENS, Encoded, refusal
from ftrect_ray.study import Options

FIELD = "{text}"
TEXT, ANSWER = "\ue000text\ue000", "\ue000answer\ue000"  # marks of private use, that no template changes
#: Texts that a tokenizer joins in different ways with what stands before them.
UNLIKE = (*"a.,'/(<_0é日🙂\n\t", "The", " a", "  ", "12", "\n\n")
#: Templates write today's date; a model that is loaded tomorrow must read the same prompt.
DATE = "2025-01-01"
SAME_DAY = f"{{% macro strftime_now(form) %}}{DATE}{{% endmacro %}}"


@dataclass(frozen=True)
class Prompt:
    """What stands around a text.

    Attributes
    ----------
    before, after : str
        Of the text. ``after`` ends where the answer begins, but for blanks.
    lead : str
        Blanks between the prompt and the answer. They are tokenised with the answer, as in running text
        (``" good"`` is one token, and ``" "`` before ``"good"`` would be another two).
    opening : tuple of int
        Tokens that the tokenizer puts before any text; none with a chat template, which writes its own.
    """

    tokenizer: PreTrainedTokenizerBase
    before: str
    after: str
    lead: str
    opening: tuple[int, ...]

    @classmethod
    def of(cls, options: Options, tokenizer: PreTrainedTokenizerBase) -> Prompt:
        """The prompt of a study for this tokenizer.

        With a chat template the answer begins where the template would write it. Without one, a blank comes between
        the prompt and the answer, unless the prompt ends with a blank or a line break.

        Raises
        ------
        InputError
            A chat template is needed and there is none, or it fails; the tokenizer does not tell where in the text
            a token lies.
        """
        if not tokenizer.is_fast:
            raise _bad("answer options need a tokenizer that tells where a token lies", "add tokenizer.json", "name")
        if options.chat == "yes" and not tokenizer.chat_template:
            raise _bad("'chat' is yes, but the tokenizer has no chat template", "set it to auto or no", "options.chat")
        chat = bool(tokenizer.chat_template) and options.chat != "no"
        if chat:
            before, tail = _rendered(options, tokenizer)
        elif options.system is not None:
            raise _bad("'system' needs a chat template", "write it into 'prompt'", "options.system")
        else:
            before, _, tail = options.prompt.partition(FIELD)
        after = tail.rstrip(" ")
        lead = tail[len(after) :]
        if not chat and not tail[-1:].isspace():
            lead = " "
        return cls(tokenizer, before, after, lead, () if chat else _opening(tokenizer))

    def fixed(self) -> list[int]:
        """Tokens of the prompt without a text."""
        return [*self.opening, *self._ids(self.before + self.after)]

    @cached_property
    def beginning(self) -> np.ndarray:
        """Tokens that the prompt begins with whatever the text, int64; a text can join the last of those before it."""
        encoded = self._tokenise([self.before + text + self.after for text in UNLIKE])["input_ids"]
        shared = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*encoded, strict=False))
        return np.array([*self.opening, *(tokens[0] for tokens in shared)], dtype=np.int64)

    def continuation(self, answer: str) -> tuple[int, ...]:
        """Tokens of an answer as they follow the prompt.

        Taken from the joint encoding of both. Where that would join the prompt's last characters with the answer's
        first to one token, the answer is encoded by itself: the prompt's tokens do not depend on the answer.
        """
        prompt, answer = self.before + TEXT * (not self.after) + self.after, self.lead + answer.strip()
        start, whole = self._ids(prompt), self._ids(prompt + answer)
        joined = whole[: len(start)] != start
        return tuple(self._ids(answer) if joined else whole[len(start) :])

    def encode(self, texts: Sequence[str | None], max_tokens: int) -> Encoded:
        """Token ids of the prompt around each text, at most ``max_tokens``; a longer text loses tokens at its end."""
        errors = [refusal(text) for text in texts]
        tokens, cut = [NO_TOKENS] * len(errors), 0
        good = [(i, text) for i, text in enumerate(texts) if text is not None and errors[i] is None]
        if not good:
            return Encoded(tokens, errors, 0)
        control, fixed = set(self.tokenizer.all_special_ids), self._ids(self.before + self.after)
        in_fixed = sum(token in control for token in fixed)
        room = max_tokens - len(self.opening)
        encoding = self._tokenise([self.before + text + self.after for _, text in good])
        for row, (i, text) in enumerate(good):
            ids: list[int] = encoding["input_ids"][row]
            if ids == fixed:
                errors[i] = "the tokenizer finds no token in the text"
                continue
            commands = sum(token in control for token in ids) > in_fixed
            if commands or len(ids) > room:
                spans = encoding.encodings[row].offsets
                if commands:
                    ids, spans = self._as_plain_text(ids, spans, text, control)
                if len(ids) > room:
                    cut += 1
                    ids = self._cut(ids, spans, len(self.before), len(self.before) + len(text), len(ids) - room)
                    if not ids:
                        errors[i] = "the prompt leaves no room for the text"
                        continue
            tokens[i] = np.array([*self.opening, *ids], dtype=np.int64)
        return Encoded(tokens, errors, cut)

    def _tokenise(self, strings: list[str]) -> Any:
        return self.tokenizer(
            strings,
            add_special_tokens=False,
            split_special_tokens=False,
            padding=False,
            truncation=False,
            verbose=False,
        )

    def _ids(self, string: str) -> list[int]:
        return list(self._tokenise([string])["input_ids"][0])

    def _as_plain_text(
        self, ids: list[int], spans: list[tuple[int, int]], text: str, control: set[int]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Each control token that a text spells out becomes the tokens of its characters."""
        string, start = self.before + text + self.after, len(self.before)
        end = start + len(text)
        plain: list[tuple[int, tuple[int, int]]] = []
        spelt_out: dict[str, list[int]] = {}
        for token, (a, b) in zip(ids, spans, strict=True):
            spelt = string[a:b].strip()
            first = string.find(spelt, a)  # a control token may swallow the blanks around it
            inside = first < end and first + len(spelt) > start
            unknown = token == self.tokenizer.unk_token_id and spelt != self.tokenizer.unk_token
            if token not in control or not inside or unknown:
                plain.append((token, (a, b)))
                continue
            if string[a:b] not in spelt_out:
                pieces = self.tokenizer(string[a:b], add_special_tokens=False, split_special_tokens=True)["input_ids"]
                spelt_out[string[a:b]] = [piece for piece in pieces if piece != token]
            plain += [(piece, (a, b)) for piece in spelt_out[string[a:b]]]
        return [token for token, _ in plain], [span for _, span in plain]

    @staticmethod
    def _cut(ids: list[int], spans: list[tuple[int, int]], start: int, end: int, excess: int) -> list[int]:
        """Without the last ``excess`` tokens that lie in [start, end), and no half character; empty if none is left."""
        inside = [i for i, (a, b) in enumerate(spans) if a >= start and b <= end]
        keep = len(inside) - excess
        while 0 < keep < len(inside) and spans[inside[keep - 1]] == spans[inside[keep]]:
            keep -= 1
        dropped = set(inside[keep:]) if keep > 0 else set(range(len(ids)))
        return [token for i, token in enumerate(ids) if i not in dropped]


def _rendered(options: Options, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The chat template's text before the mark of a text, and after it up to where the answer begins."""
    before, _, after = options.prompt.partition(FIELD)
    system = [] if options.system is None else [{"role": "system", "content": options.system}]
    messages = [*system, {"role": "user", "content": before + TEXT + after}]
    try:
        asked = _render(tokenizer, messages, True)
    except (TemplateError, ValueError, TypeError) as error:
        raise _bad(f"the chat template fails: {error}", "set 'chat: no', or leave 'system' out", "options") from None
    if asked.count(TEXT) != 1:
        raise _bad("the chat template does not repeat the prompt", "set 'chat: no'", "options.chat")
    try:
        answered = _render(tokenizer, [*messages, {"role": "assistant", "content": ANSWER}], False)
    except (TemplateError, ValueError, TypeError):
        answered = asked
    until = answered.partition(ANSWER)[0]
    before, _, after = (until if until.startswith(asked) else asked).partition(TEXT)
    return before, after


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], generation: bool) -> str:
    """Of the same day, and without a chain of thought where the template leaves the choice: the answer comes first."""
    return str(
        tokenizer.apply_chat_template(
            messages,
            chat_template=SAME_DAY + tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=generation,
            enable_thinking=False,
            date_string=DATE,
        )
    )


def _opening(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    encoding = tokenizer("a", return_special_tokens_mask=True)
    marked = zip(encoding["input_ids"], encoding["special_tokens_mask"], strict=True)
    return tuple(token for token, _ in takewhile(lambda pair: pair[1], marked))


def _bad(what: str, mend: str, where: str) -> InputError:
    return InputError(what, where=f"model.{where}", mend=mend)
