"""Influence weights: against the estimators' and statsmodels' standard errors, and what a fine-tune makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
import torch

from ftrect_ray import estimators
from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.finetune import objectives
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.pilot import PilotSpec, measure
from ftrect_ray.finetune.pilot_plan import plan_pilots
from ftrect_ray.finetune.spec import Coefficients, FitSpec, Rows
from ftrect_ray.study import Model, OlsTarget, Pilots, Training

LINKS = ("identity", "logit", "log")
CLASSICAL = {
    "identity": estimators.classical_ols,
    "logit": estimators.classical_logistic,
    "log": estimators.classical_poisson,
}
N = 300


def made_up(link: str, n: int = N, seed: int = 0) -> Rows:
    """Two columns in units far apart, answers with a spread that depends on the first."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.normal(50, 15, n), rng.normal(0, 1e-3, n)])
    eta = X @ [-1.0, 0.02, 300.0]
    answers = {
        "identity": lambda: eta + rng.normal(size=n) * X[:, 1] / 50,
        "logit": lambda: (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(float),
        "log": lambda: rng.poisson(np.exp(eta)).astype(float),
    }[link]()
    return rows_of(answers, X)


def rows_of(answers: np.ndarray, features: np.ndarray | None) -> Rows:
    ids = tuple(f"r{i}" for i in range(len(answers)))
    return Rows(ids, tuple(f"text {i}" for i in ids), np.asarray(answers, dtype=float), None, features)


def influence(rows: Rows, objective: str, link: str, coordinate: int | None = None) -> Influence:
    return Influence.of(objective, Coefficients(link, coordinate), rows)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- standard errors


def covariance(link: str, rows: Rows) -> np.ndarray:
    """statsmodels' HC0 of the classical estimate."""
    family = {"logit": sm.families.Binomial(), "log": sm.families.Poisson()}
    if link == "identity":
        return np.asarray(sm.OLS(rows.answers, rows.features).fit(cov_type="HC0").cov_params())
    fit = sm.GLM(rows.answers, rows.features, family=family[link]).fit(cov_type="HC0", tol=1e-12)
    return np.asarray(fit.cov_params())


@pytest.mark.parametrize("link", LINKS)
def test_without_a_model_nu_is_the_variance_of_the_classical_estimate(link: str) -> None:
    rows = made_up(link)
    ours, theirs = CLASSICAL[link](rows.features, rows.answers).std_error, covariance(link, rows) * N / (N - 1)

    def variance(objective: str, coordinate: int | None = None) -> float:
        found = influence(rows, objective, link, coordinate)
        return found.variance(rows, rows.answers - found.fitted) / N

    for j in range(3):
        assert variance("coefficient", j) == pytest.approx(ours[j] ** 2, rel=1e-7)
        assert variance("coefficient", j) == pytest.approx(theirs[j, j], rel=1e-6)
    assert variance("trace") == pytest.approx(np.trace(theirs), rel=1e-6)
    assert variance("determinant") == pytest.approx(np.linalg.det(theirs) ** (1 / 3), rel=1e-6)


@pytest.mark.parametrize("predicted", ["well", "with a level and a slope of their own"])
def test_nu_of_predictions_is_the_variance_of_rectified_least_squares(predicted: str) -> None:
    """λ = 1 and texts without end: what the labels contribute to the estimator's own standard error."""
    rows, rng = made_up("identity"), np.random.default_rng(1)
    X = rows.features
    f = rows.answers + rng.normal(size=N) * 0.5
    if predicted != "well":
        f = f + 7 - 0.1 * X[:, 1]
    texts = np.column_stack([np.ones(5), np.linspace(20, 80, 5), [1e-3, -1e-3, 0, 1e-3, 1e-3]])
    exact = texts @ [2.0, 0.1, 0.0]  # its regression has no residual, and adds no variance
    estimate = estimators.ols(X, rows.answers, f, texts, exact, lam=1.0)
    found = influence(rows, "coefficient", "identity", 1)
    assert np.sqrt(found.variance(rows, rows.answers - f) / N) == pytest.approx(estimate.std_error[1], rel=1e-6)


@pytest.mark.parametrize("link", ["logit", "log"])
def test_nu_of_predictions_is_that_of_the_rectified_equation(link: str) -> None:
    """Σ x(Y − f) at λ = 1, with H of the same rows and θ."""
    rows, rng = made_up(link), np.random.default_rng(1)
    f = rows.answers + rng.normal(size=N)
    theta = CLASSICAL[link](rows.features, rows.answers).value
    mu = 1 / (1 + np.exp(-rows.features @ theta)) if link == "logit" else np.exp(rows.features @ theta)
    H = (rows.features.T * (mu * (1 - mu) if link == "logit" else mu)) @ rows.features / N
    u = rows.features @ np.linalg.inv(H) * (rows.answers - f)[:, None]
    assert influence(rows, "trace", link).variance(rows, rows.answers - f) == pytest.approx(
        np.trace(np.cov(u.T)), rel=1e-9
    )


def test_for_the_mean_every_row_weighs_the_same() -> None:
    rows = rows_of(np.array([1.0, 3.0, 8.0]), None)
    found = Influence.of("variance", None, rows)
    assert found.weights(rows).tolist() == [[1.0], [1.0], [1.0]]
    assert (found.scale, found.variance(rows, rows.answers)) == (1.0, 13.0)


# ------------------------------------------------------------------------------------------ what is trained on


@pytest.mark.parametrize("objective", ["coefficient", "trace", "determinant"])
def test_weights_that_train_have_unit_size_in_every_unit(objective: str) -> None:
    """A column in other units changes ν by the square, and nothing that the optimiser sees (of one coefficient)."""
    rows = made_up("logit")
    found = influence(rows, objective, "logit", 1 if objective == "coefficient" else None)
    seen = found.weights(rows) / found.scale
    assert np.sqrt(np.mean(seen**2)) == pytest.approx(1)
    other = replace(rows, features=rows.features * [1, 1e6, 1])
    changed = influence(other, objective, "logit", 1 if objective == "coefficient" else None)
    residual = rows.answers - found.fitted
    factor = changed.variance(other, residual) / found.variance(rows, residual)
    if objective == "coefficient":
        assert factor == pytest.approx(1e-12)
    if objective == "determinant":
        assert factor == pytest.approx(1e-12 ** (1 / 3))
    if objective != "trace":
        np.testing.assert_allclose(changed.weights(other) / changed.scale, seen, rtol=1e-6, atol=1e-9)


def test_the_determinant_of_whitened_weights_is_that_of_the_coefficients() -> None:
    """Through the objective itself, whose ridge would drown raw columns of units that far apart."""
    rows = made_up("identity")
    residual = np.random.default_rng(2).normal(size=N)
    found = influence(rows, "determinant", "identity")
    trained = torch.from_numpy(found.weights(rows) / found.scale * residual[:, None])
    u = rows.features @ np.linalg.inv(rows.features.T @ rows.features / N) * residual[:, None]
    exact = np.linalg.det(np.cov(u.T, ddof=0)) ** (1 / 3)
    assert objectives.metric("determinant", trained) * found.scale**2 == pytest.approx(exact, rel=1e-5)


def test_the_best_linear_model_is_that_of_weighted_least_squares() -> None:
    """Minimising Var(w(Y − f)) over f = z'β + b: the regression of w·Y on w·z and w, and a constant for ū."""
    rows, rng = made_up("identity"), np.random.default_rng(3)
    z = np.column_stack([rng.normal(size=(N, 2)) + rows.features[:, [1]] / 20, np.ones(N)])
    w = influence(rows, "coefficient", "identity", 1).weights(rows)
    best = np.linalg.lstsq(np.column_stack([w * z, np.ones(N)]), w[:, 0] * rows.answers, rcond=None)[0][:3]

    def value(beta: torch.Tensor) -> torch.Tensor:
        u = torch.from_numpy(w) * (torch.from_numpy(rows.answers) - torch.from_numpy(z) @ beta)[:, None]
        return objectives.OBJECTIVES["coefficient"](u)

    at = torch.tensor(best, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(at), at)
    away = torch.tensor(best + 1.0, requires_grad=True)
    (slope,) = torch.autograd.grad(value(away), away)
    assert gradient.abs().max() < 1e-9 * slope.abs().max()
    step = 1e-4
    for j, unit in enumerate(step * torch.eye(3, dtype=torch.float64)):
        numeric = (value(away + unit) - value(away - unit)) / (2 * step)
        assert slope[j].item() == pytest.approx(numeric.item(), rel=1e-6)
    unweighted = torch.tensor(np.linalg.lstsq(z, rows.answers, rcond=None)[0])
    assert value(at).item() < 0.99 * value(unweighted).item()


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("link", ["logit", "log"])
def test_answers_without_a_classical_estimate_still_have_weights(link: str) -> None:
    """Few labels are often separated, or all equal: H is then that of least squares, but for a factor."""
    rows = made_up(link)
    few = rows.take(np.arange(12))
    separated = replace(few, answers=(few.features[:, 1] > np.median(few.features[:, 1])).astype(float))
    for case in (separated, replace(few, answers=np.zeros(12))):
        if link == "log" and case is separated:
            continue
        found = influence(case, "coefficient", link, 1)
        plain = influence(case, "coefficient", "identity", 1)
        np.testing.assert_allclose(
            found.weights(case) / found.scale, plain.weights(case) / plain.scale, rtol=1e-9, atol=1e-12
        )
        assert np.isfinite(found.variance(case, case.answers - found.fitted))


def spec_of(rows: Rows, objective: str, coordinate: int | None = None, **training) -> FitSpec:
    train = rows.take(np.arange(len(rows) - 2))
    stop = rows.take(np.arange(len(rows) - 2, len(rows)))
    coefficients = Coefficients("identity", coordinate, ("intercept", "age", "height"))
    return FitSpec("fold-0", train, stop, Model(), Training(**training), objective, 0, coefficients)


def test_columns_that_depend_on_each_other_are_named_with_their_fine_tune() -> None:
    rows = made_up("identity", 20)
    features = rows.features.copy()
    features[:, 2] = 3 - features[:, 1]
    with pytest.raises(StatisticalRefusal, match=r"X'X is singular: drop column 'height' \(.*fine-tune 'fold-0'\)"):
        Influence.of_fit(spec_of(replace(rows, features=features), "trace"))
    features[:, 2] = 4.0  # a feature that is constant in this fold
    with pytest.raises(StatisticalRefusal, match="drop column 'height'"):
        Influence.of_fit(spec_of(replace(rows, features=features), "coefficient", 1))
    with pytest.raises(StatisticalRefusal, match="3 rows cannot carry 3 coefficients"):
        Influence.of_fit(spec_of(rows.take(np.arange(3)), "trace"))


def test_a_step_that_cannot_carry_the_determinant_is_refused_with_numbers() -> None:
    rows = made_up("identity", 26)
    Influence.of_fit(spec_of(rows, "determinant", batch_size=6))
    Influence.of_fit(spec_of(rows, "trace", batch_size=2))
    with pytest.raises(
        InputError, match="a step of 4 rows is too few for the determinant of 3 coefficients .* needs 6"
    ):
        Influence.of_fit(spec_of(rows, "determinant", batch_size=5))


def test_answers_that_the_regression_cannot_have_are_refused() -> None:
    with pytest.raises(InputError, match="must be 0 or 1"):
        influence(made_up("log"), "trace", "logit")


# ------------------------------------------------------------------------------------------- a fine-tune

GOOD, BAD = ("good", "great", "love"), ("bad", "awful", "hate")


def leverage(n: int, seed: int) -> Rows:
    """Answers that go one way for most, and the other way for the few on whom the coefficient of z rests.

    The text does not tell who is who, so a model can fit one of the groups only.
    """
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(GOOD + BAD + ("it", "film"), size=rng.integers(3, 9))) for _ in range(n)]
    level = np.array([sum((w in GOOD) - (w in BAD) for w in text.split()) for text in texts], dtype=float)
    few = rng.random(n) < 0.2
    z = np.where(few, 10.0, 0.3) * rng.choice([-1, 1], n)
    answers = 5 + level * np.where(few, -1, 1) + 0.1 * z + rng.normal(0, 0.3, n)
    ids = tuple(f"r{seed}-{i}" for i in range(n))
    return Rows(ids, tuple(texts), answers, None, np.column_stack([np.ones(n), z]))


@pytest.fixture(scope="module")
def fits(tiny_bert: Path) -> dict[str, tuple]:
    """The same labels, model and seed under three objectives: (spec, predictor, result)."""
    from ftrect_ray.finetune.training import fit_local

    torch.set_num_threads(1)
    rows = leverage(240, 1)
    training = Training(
        precision="fp32", batch_size=40, epochs=15, min_epochs=5, learning_rate=1e-2, head_learning_rate=1e-2
    )
    model = Model(name=str(tiny_bert), max_tokens=16)
    found = {}
    for objective, coefficients in (
        ("variance", None),
        ("coefficient", Coefficients("identity", 1)),
        ("determinant", Coefficients("identity")),
    ):
        train, stop = rows.take(np.arange(200)), rows.take(np.arange(200, 240))
        spec = FitSpec("fold-0", train, stop, model, training, objective, 3, coefficients)
        found[objective] = (spec, *fit_local(spec))
    return found


def test_the_coefficient_objective_leaves_a_smaller_nu_than_the_variance_objective(fits: dict[str, tuple]) -> None:
    held = leverage(400, 2)
    of_interest = influence(held, "coefficient", "identity", 1)
    nu, plain = {}, {}
    for objective in ("variance", "coefficient"):
        residual = held.answers - fits[objective][1].predict(held.texts)[0]
        nu[objective], plain[objective] = of_interest.variance(held, residual), float(np.var(residual))
    alone = of_interest.variance(held, held.answers - of_interest.fitted)
    assert nu["coefficient"] < 0.8 * alone < 1.5 * alone < nu["variance"]
    assert plain["variance"] < 0.8 * plain["coefficient"]


@pytest.mark.parametrize("objective", ["coefficient", "determinant"])
def test_the_curve_is_in_the_unit_of_nu(objective: str, fits: dict[str, tuple]) -> None:
    """The kept epoch's metric, from the saved model's predictions in the answer's own unit."""
    spec, predictor, result = fits[objective]
    u = Influence.of_fit(spec).weights(spec.stop) * (spec.stop.answers - predictor.predict(spec.stop.texts)[0])[:, None]
    covariance = np.atleast_2d(np.cov(u.T, ddof=0))
    expected = np.linalg.det(covariance) ** (1 / len(covariance))
    assert result.curve[result.best_epoch - 1].stop_metric == pytest.approx(expected, rel=1e-4)
    assert result.best_epoch == 1 + int(np.argmin([np.inf] * 4 + [e.stop_metric for e in result.curve[4:]]))


def test_rows_without_a_usable_text_take_their_weights_with_them(fits: dict[str, tuple]) -> None:
    from ftrect_ray.finetune.training import Fit

    spec = fits["determinant"][0]
    texts = tuple("" if i in (0, 7) else text for i, text in enumerate(spec.train.texts))
    spec = replace(spec, train=replace(spec.train, texts=texts))
    kept = spec.train.take(np.setdiff1d(np.arange(len(spec.train)), [0, 7]))
    with Fit.alone(spec) as fit:
        assert fit.train_rows.ids == kept.ids
        np.testing.assert_allclose(fit.train_rows.weights * fit.influence.scale, fit.influence.weights(kept))
        np.testing.assert_allclose(fit.influence.matrix, Influence.of_fit(spec).matrix)


# ------------------------------------------------------------------------------------------- pilots


def test_pilots_aim_at_the_coefficient_and_measure_nu_by_the_validation_rows(tiny_bert: Path) -> None:
    from ftrect_ray.finetune.training import fit_local

    rows = leverage(100, 4)
    target = OlsTarget(kind="ols", features=["z"], coefficient="z")
    coefficients = Coefficients.of(target, "coefficient")
    assert coefficients == Coefficients("identity", 1, ("intercept", "z"))
    training = Training(precision="fp32", epochs=1, min_epochs=1)
    specs = plan_pilots(
        rows,
        Pilots(sizes=[20, 30, 40], seeds=1, validation=30),
        Model(name=str(tiny_bert), max_tokens=16),
        training,
        "coefficient",
        7,
        coefficients,
    )
    assert {spec.fit.coefficients for spec in specs} == {coefficients}
    spec = specs[0]
    held = spec.measure
    residual = held.answers - fit_local(spec.fit)[0].predict(held.texts)[0]
    w = held.features @ np.linalg.inv(held.features.T @ held.features / 30)[:, 1]
    rest = residual - held.features @ np.linalg.lstsq(held.features, residual, rcond=None)[0]
    assert measure(spec).residual_variance == pytest.approx(np.var(w * rest, ddof=1), rel=1e-5)
    np.testing.assert_allclose(specs[0].influence().matrix, specs[1].influence().matrix)  # alike for all sizes


def test_the_target_is_part_of_what_names_a_pilot_only_where_the_objective_aims_at_it() -> None:
    assert Coefficients.of(OlsTarget(kind="ols", features=["z"], coefficient="z"), "variance") is None
    rows = leverage(60, 5)
    fit = spec_of(rows, "trace")
    fit = replace(fit, coefficients=Coefficients("identity", None, ("intercept", "z")))
    assert fit.key != replace(fit, coefficients=Coefficients("identity", 1, ("intercept", "z"))).key
    pilot = PilotSpec("pilot", 58, 0, fit, rows)
    moved = replace(rows, features=rows.features + np.array([0, 1]))
    assert pilot.key != replace(pilot, measure=moved).key


def test_validation_rows_that_cannot_carry_the_coefficients_are_refused_before_any_pilot() -> None:
    rows = leverage(60, 6)
    order = plan_pilots(rows, Pilots(sizes=[20, 30, 40], seeds=1), Model(), Training(), "variance", 7)[0].measure.ids
    flat = np.isin(rows.ids, order)
    features = np.column_stack([np.ones(60), np.where(flat, 1.0, rows.features[:, 1])])
    with pytest.raises(StatisticalRefusal, match="drop column 'z' .*validation labels of the pilots"):
        plan_pilots(
            replace(rows, features=features),
            Pilots(sizes=[20, 30, 40], seeds=1),
            Model(),
            Training(),
            "coefficient",
            7,
            Coefficients("identity", 1, ("intercept", "z")),
        )
