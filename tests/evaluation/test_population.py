"""The table that labels are drawn from, and the draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.evaluation.population import draw, load_population, replication_seed
from ftrect_ray.study_file import load_study


def test_all_rows_with_their_answers_and_the_tables_predictions(make_study: Callable[..., Path]) -> None:
    data = load_study(make_study("minilm")).data
    population = load_population(data, 7)
    assert len(population) == 400
    assert population.rows.ids[0] == "r0"
    assert population.zero_shot is not None
    assert np.corrcoef(population.zero_shot, population.rows.answers)[0, 1] > 0.7
    assert population.truth == pytest.approx(population.rows.answers.mean())
    assert population.spread == pytest.approx(population.rows.answers.std(ddof=1) / 20)


def test_rows_with_an_earlier_text_and_rows_beyond_the_target_are_left_out(
    make_study: Callable[..., Path], tmp_path: Path
) -> None:
    data = load_study(make_study("minilm")).data
    lines = (tmp_path / "table.csv").read_text().splitlines()
    copies = [line.replace("r", "copy-", 1) for line in lines[1:31]]
    (tmp_path / "table.csv").write_text("\n".join([*lines, *copies]) + "\n")
    population = load_population(data, 7, distinct=True)
    assert len(set(population.rows.texts)) == len(population)
    assert population.repeated >= 30
    assert not any(name.startswith("copy-") for name in population.rows.ids)
    fewer = load_population(data, 7, distinct=True, target_rows=50)
    assert len(fewer) == 50
    assert fewer.beyond == len(population) - 50
    assert set(fewer.rows.ids) < set(population.rows.ids)
    assert fewer.rows.ids == load_population(data, 7, distinct=True, target_rows=50).rows.ids
    assert fewer.rows.ids != load_population(data, 8, distinct=True, target_rows=50).rows.ids


def test_rows_without_an_answer_are_refused(make_study: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"3 of 400 rows have no answer.*every row is answered"):
        load_population(load_study(make_study("minilm", unanswered=3)).data, 7)


def test_rows_that_were_not_drawn_alike_are_refused(make_study: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"'data.strata' is set.*leave 'data.strata' out"):
        load_population(load_study(make_study("minilm", strata="where")).data, 7)


def test_every_row_is_equally_likely_and_every_replication_draws_anew() -> None:
    counts, kept_counts = np.zeros(30), np.zeros(30)
    for replication in range(3000):
        kept, labeled = draw(30, 6, 12, 5, replication)
        assert len(kept) == 18
        assert len(set(labeled)) == 6
        counts[kept[labeled]] += 1
        kept_counts[kept] += 1
    for found, share in ((counts, 6 / 30), (kept_counts, 18 / 30)):
        assert np.abs(found / 3000 - share).max() < 4.5 * np.sqrt(share * (1 - share) / 3000)


def test_a_draw_follows_from_seed_budget_and_number_alone() -> None:
    whole, labeled = draw(100, 20, None, 5, 3)
    np.testing.assert_array_equal(whole, np.arange(100))
    np.testing.assert_array_equal(labeled, draw(100, 20, None, 5, 3)[1])
    kept, among = draw(100, 20, 30, 5, 3)
    np.testing.assert_array_equal(kept[among], labeled)  # fewer texts, the same labels
    others = [draw(100, 20, None, 6, 3)[1], draw(100, 20, None, 5, 4)[1], draw(100, 21, None, 5, 3)[1][:20]]
    assert all(set(other) != set(labeled) for other in others)
    seeds = {replication_seed(budget, 5, number) for budget in (20, 30) for number in range(500)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**31
