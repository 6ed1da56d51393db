"""A small table whose every row is answered, with predictions of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

WORDS = ["the", "film", "was", "good", "bad", "dull", "great", "awful", "plot", "love", "hate", "it", "not"]
VALUES = {"good": 1, "great": 1, "love": 1, "bad": -1, "awful": -1, "hate": -1}


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Path]:
    """``make_study(model, rows=400, unanswered=0, **data)``: the path of a study file."""

    def make(model: object, rows: int = 400, unanswered: int = 0, **data: object) -> Path:
        rng = np.random.default_rng(1)
        lines = ["id,text,rating,guess,where"]
        for i in range(rows):
            text = rng.choice(WORDS, size=rng.integers(3, 12))
            level = sum(VALUES.get(word, 0) for word in text)
            answer = "" if i < unanswered else f"{5 + 2 * level + rng.normal():.3f}"
            lines.append(f"r{i},{' '.join(text)},{answer},{5 + level + rng.normal():.3f},x")
        (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
        more = "".join(f", {key}: {value}" for key, value in ({"prediction": "guess"} | data).items())
        path = tmp_path / "study.yaml"
        path.write_text(
            f"study: tiny\ndata: {{table: {tmp_path}/table.csv, text: text, label: rating, id: id{more}}}\n"
            f"model: {{name: {model}, max_tokens: 16}}\n"
            "training: {workers: 1, epochs: 2, min_epochs: 1, batch_size: 8, precision: fp32}\n"
        )
        return path

    return make
