"""How the labels were sampled widens what is planned as it widens what is estimated."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray.allocation import fit_scaling_law
from ftrect_ray.estimators import Sample, classical_mean, classical_ols
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.pipeline.allocate import decide
from ftrect_ray.pipeline.effect import design_effect
from ftrect_ray.study_file import parse_study

TEXT = "study: a\ndata: {source: vader, text: text, label: rating}"
GROUPS, EACH, UNLABELED = 40, 10, 60
N = GROUPS * EACH
OLS = "target={kind: ols, features: [age], coefficient: age}"


def sampled(*kinds: str) -> tuple[pa.Table, np.ndarray, Sample]:
    """400 answers of 40 respondents, half of the variance between them; unlabelled rows after them."""
    rng = np.random.default_rng(8)
    group = np.repeat(np.arange(GROUPS), EACH)
    answers = rng.normal(size=GROUPS)[group] + rng.normal(size=N)
    columns = {"weight": rng.uniform(1, 5, N), "cluster": group, "strata": (answers > 0).astype(int)}
    table = {"label": [*answers, *[None] * UNLABELED], "age": rng.normal(40, 10, N + UNLABELED)}
    table |= {kind: np.concatenate([columns[kind], columns[kind][:UNLABELED]]) for kind in kinds}
    names = {"weight": "weights", "cluster": "clusters", "strata": "strata"}
    return pa.table(table), answers, Sample(**{names[kind]: columns[kind] for kind in kinds})


@pytest.mark.parametrize("kinds", [("cluster",), ("weight",), ("strata",), ("weight", "cluster")])
def test_the_classical_error_is_planned_as_large_as_it_comes_out(kinds: tuple[str, ...]) -> None:
    table, answers, sample = sampled(*kinds)
    effect = design_effect(parse_study(TEXT), table)
    estimate = classical_mean(answers, sample=sample)
    assert effect == pytest.approx(N * estimate.std_error**2 / np.var(answers, ddof=1))
    rows = Rows(tuple(map(str, range(N))), ("",) * N, answers)
    law = fit_scaling_law([50, 100, 200, 400], [1.0, 0.9, 0.83, 0.79])
    given = {"rows": rows, "unlabeled": 5000, "spent": rows.take(np.arange(100)), "predictions": None}
    planned, alone = (
        {row["name"]: row for row in decide(parse_study(TEXT), {"": law}, effect=by, **given)[1]["designs"]}
        for by in (effect, 1.0)
    )
    assert planned["classical"]["std_error"] == pytest.approx(estimate.std_error, rel=1e-6)
    for name in ("crossfit-2", "recycle", "split"):
        assert planned[name]["variance"] == pytest.approx(effect * alone[name]["variance"])
        assert planned[name]["saved_labels"] == pytest.approx(alone[name]["saved_labels"])
        ranges = [np.array(lines[name]["interval_length_range"]) for lines in (planned, alone)]
        assert ranges[0] == pytest.approx(np.sqrt(effect) * ranges[1])


def test_clusters_have_the_effect_that_theory_says() -> None:
    """1 + (rows of a cluster − 1) · share of the variance between clusters (Kish 1965), which is 5.5 here."""
    table, answers, _ = sampled("cluster")
    means = answers.reshape(GROUPS, EACH).mean(axis=1)
    within = answers.reshape(GROUPS, EACH).var(axis=1, ddof=1).mean()
    between = np.var(means, ddof=1) - within / EACH
    expected = 1 + (EACH - 1) * between / (between + within)
    assert design_effect(parse_study(TEXT), table) == pytest.approx(expected, rel=0.03)


def test_coefficients_have_their_own() -> None:
    table, answers, sample = sampled("weight")
    x = np.column_stack([np.ones(N), np.asarray(table["age"])[:N]])
    with_weights, plain = classical_ols(x, answers, sample=sample).std_error, classical_ols(x, answers).std_error
    ratios = (with_weights / plain) ** 2
    of = {
        name: design_effect(parse_study(TEXT, [OLS, f"objective={name}"]), table) for name in ("coefficient", "trace")
    }
    assert of["coefficient"] == pytest.approx(ratios[1])
    assert of["trace"] == pytest.approx(np.sum(with_weights**2) / np.sum(plain**2))
    determinant = design_effect(parse_study(TEXT, [OLS, "objective=determinant"]), table)
    assert determinant == pytest.approx(np.sqrt(np.prod(ratios)))
    of_the_mean = design_effect(parse_study(TEXT), table)
    assert design_effect(parse_study(TEXT, [OLS]), table) == of_the_mean  # what 'objective: variance' plans


def test_a_simple_random_sample_has_none() -> None:
    assert design_effect(parse_study(TEXT), sampled()[0]) == 1.0
