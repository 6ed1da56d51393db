"""``ftrect plan --law``: designs, doubt of nothing, costs, power; and what is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ftrect_ray.allocation import Compute, Prices, ScalingLaw, cheapest, labels_for_power, plan, power, s_star

WINE = ("plan", "--law", "16.86,0.553,2.754", "--labels", "500")
KNOWN = (*WINE, "--variance", "9.57", "--unlabeled", "14500")
COSTS = ("--label-price", "2", "--gpu-hour-price", "3", "--seconds-per-label", "1.5", "--seconds-per-text", "0.02")
LAW = ScalingLaw(16.86, 0.553, 2.754)


def asked(ftrect: Any, *words: object) -> dict[str, Any]:
    code, out, err = ftrect(*words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_every_design_as_the_library_plans_it(ftrect: Any) -> None:
    found = asked(ftrect, *KNOWN, "--rectify-variance", "4", "--rotations", "1/3,2/4", "--alpha", "0.1")
    made = plan(
        LAW,
        labels=500,
        unlabeled=14500,
        variance=9.57,
        rectify_variance=4.0,
        rotations=[(1, 3), (2, 4)],
        alpha=0.1,
    )
    assert found["designs"] == json.loads(json.dumps([design.to_dict() for design in made.designs]))
    assert found["chosen"]["name"] == made.choose().name
    assert found["feasible"] is True
    assert found["feasibility"]["left"] < found["feasibility"]["right"]
    assert found["s_star"] == pytest.approx(s_star(LAW, 500))
    assert found["n_finetune"] == made["split"].n_finetune < found["s_star"]


def test_few_texts(ftrect: Any) -> None:
    """Where there are fewer texts than rectifying labels, the best split is still the plan's own."""
    found = asked(ftrect, *WINE, "--unlabeled", "50", "--variance", "9.57")
    split = next(design for design in found["designs"] if design["name"] == "split")
    assert found["n_finetune"] == split["n_finetune"] == 12
    assert found["n_times_variance"] == pytest.approx(500 * split["variance"])


def test_the_table_and_the_choice(ftrect: Any) -> None:
    code, out, err = ftrect(*KNOWN, "--max-finetunes", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "law v(s) = 16.86·s^-0.553 + 2.754, 500 labels, 14500 unlabelled texts"
    assert [line.split()[0] for line in lines[2:7]] == ["classical", "rectify-only", "split", "recycle", "sequential"]
    assert [f"crossfit-{k}" for k in range(2, 11)] == re.findall(r"^crossfit-\d+", out, re.MULTILINE)
    assert re.search(
        r"^choice: crossfit-2 — smallest predicted variance with at most 2 fine-tunes, 0.007501; .* 61 % of",
        out,
        re.MULTILINE,
    )


def test_without_a_variance(ftrect: Any) -> None:
    """What the number of texts costs hangs on it, and the designs of no fine-tune do."""
    _, out, _ = ftrect(*WINE, "--unlabeled", "100")
    assert "without '--variance' as if the texts were unlimited" in out.splitlines()[1]
    assert out.splitlines()[2:] == ftrect(*WINE)[1].splitlines()[1:]
    code, _, err = ftrect(*WINE, "--max-finetunes", "0")
    assert code == 4
    assert "classical: the variance of the answers is not given" in err
    assert "crossfit" not in err
    assert "recycle" not in err
    assert err.endswith("— give it\n")
    _, out, _ = ftrect(*WINE, "--rotations", "2/3,2/3")
    assert len(re.findall("^rotation-2-3 ", out, re.MULTILINE)) == 1


def test_do_not_fine_tune_says_why(ftrect: Any) -> None:
    words = ("plan", "--law", "0.287,0.297,0.042", "--labels", "80", "--variance", "0.1216")
    code, out, _ = ftrect(*words)
    assert code == 0
    assert "choice: classical — do not fine-tune: sequential would have variance" in out
    assert "no split beats the mean: b/σ² = 0.345 is not below -0.217" in out
    assert "a single split loses to the plain mean at this budget: b/σ² = 0.345 is not below -0.217" in out
    assert asked(ftrect, *words)["feasible"] is False


def test_a_finite_population(ftrect: Any) -> None:
    found = asked(ftrect, *KNOWN, "--population", "finite")
    assert found["population"] == "finite"
    assert found["designs"][0]["variance"] == pytest.approx(9.57 / 500 * (1 - 500 / 15000))
    few = asked(ftrect, *WINE, "--variance", "9.57", "--unlabeled", "100", "--population", "finite")
    split = next(design for design in few["designs"] if design["name"] == "split")
    assert few["n_finetune"] == split["n_finetune"] != found["n_finetune"]
    assert few["n_times_variance"] == pytest.approx(500 * split["variance"])


def test_a_width_of_a_finite_population(ftrect: Any) -> None:
    """Its rows stay as many: a label more is a text less."""
    words = (*WINE, "--variance", "9.57", "--unlabeled", "500", "--population", "finite", "--half-width", "0.1")
    needed = asked(ftrect, *words)["labels_for_half_width"]["classical"]
    wished = (0.1 / 1.959964) ** 2
    assert 9.57 * (1 / needed - 1 / 1000) <= wished < 9.57 * (1 / (needed - 1) - 1 / 1000)
    code, out, _ = ftrect(*words)
    assert code == 0
    assert re.search(rf"^classical +{needed}$", out, re.MULTILINE)


def test_labels_too_few_to_split(ftrect: Any) -> None:
    code, out, _ = ftrect("plan", "--law", "16.86,0.553,2.754", "--labels", "3", "--variance", "9.57")
    assert code == 0
    assert "split         — 3 labels leave fewer than 10 to rectify after 10 for training" in out
    assert "choice: classical" in out
    assert "best single split" not in out


def test_wished_width_and_what_it_costs(ftrect: Any) -> None:
    found = asked(ftrect, *KNOWN, *COSTS, "--half-width", "0.2")
    compute, prices = Compute(1.5, 0.02), Prices(2.0, 3.0)
    offers = cheapest(LAW, 0.2, prices=prices, compute=compute, unlabeled=14500, variance=9.57)
    assert found["offers"] == [offer.to_dict() for offer in offers]
    assert found["labels_for_half_width"]["classical"] == 920
    made = plan(LAW, labels=500, unlabeled=14500, variance=9.57, compute=compute, prices=prices)
    assert [row["price"] for row in found["designs"]] == [design.price for design in made.designs]
    _, out, _ = ftrect(*KNOWN, *COSTS, "--half-width", "0.2")
    told = f"cheapest for ± 0.2: {offers[0].design}, {offers[0].labels} labels and"
    assert told in out
    assert re.search(r"^classical +920$", out, re.MULTILINE)
    _, out, _ = ftrect(*KNOWN, "--half-width", "1e-9")
    assert re.search(r"^classical +none can$", out, re.MULTILINE)


def test_power(ftrect: Any) -> None:
    found = asked(ftrect, *KNOWN, "--difference", "0.5", "--power", "0.9")
    error = 2 * (9.57 / 500) ** 0.5
    assert found["power"]["classical"] == pytest.approx(power(0.5, error))
    assert found["labels_for_power"] == labels_for_power(LAW, 0.5, power=0.9, unlabeled=14500, variance=9.57)
    _, out, _ = ftrect(*KNOWN, "--difference", "0.5")
    assert re.search(r"^classical +0\.44 +1202$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--law", "1,0,1"), "'alpha' must be a number > 0; got 0"),
        (("--law", "1,0.5,-1"), "'b' must be a number ≥ 0; got -1"),
        (("--law", "nan,0.5,1"), "'a' must be a number > 0; got nan"),
        (("--law", "1e308,0.5,1"), r"'a' must be at most 1e\+100; got 1e\+308"),
        (("--law", "1,8000,1"), "'alpha' must be at most 10; got 8000"),
        (("--labels", "1" + 23 * "0"), r"'--labels' must be at most 1e\+15"),
        (("--spent", "600"), "'--spent' 600 is more than '--labels' 500"),
        (("--law", "1,0,1"), r"'alpha' must be a number > 0; got 0. \(--law A,ALPHA,B\)"),
        (("--law", "1,0.5,-1"), r"'b' must be a number ≥ 0; got -1. \(--law A,ALPHA,B\)"),
        (("--law", "-1,0.5,1"), "'--law' needs a value .* one that begins with '-' as --law=-…"),
        (("--gpu-hour-price", "3"), "'--gpu-hour-price' needs '--label-price'"),
        (("--label-price", "1", "--gpu-hour-price", "3"), "'--gpu-hour-price' needs device-hours"),
        (("--seconds-per-label", "3"), "device-hours need .* give '--seconds-per-text' too"),
        (("--seconds-per-label", "3", "--seconds-per-text", "1"), "device-hours need .* give '--unlabeled' too"),
        (("--label-price", "-1"), "'--label-price' must be a number >= 0; got -1"),
        (("--population", "finite"), "a finite population needs '--unlabeled'"),
        (
            ("--population", "finite", "--unlabeled", "50", "--difference", "1"),
            "power is of differences between endless",
        ),
        (("--rotations", "3/2"), "'--rotations' takes P/Q with 0 < P < Q; got '3/2'"),
        (("--rotations", "two"), "'--rotations' takes P/Q"),
        (("--difference", "0"), "'--difference' must be a number > 0; got 0"),
        (("--power", "1"), r"'--power' must be in \(0, 1\); got 1"),
        (("--power", "0.9"), "'--power' is of a difference .* give '--difference' too"),
        (("--labels", "1"), "'--labels' must be >= 2; got 1"),
        (("--max-finetunes", "-1"), "'--max-finetunes' must be >= 0; got -1"),
    ],
)
def test_refusals(ftrect: Any, words: tuple[str, ...], message: str) -> None:
    code, out, err = ftrect(*WINE, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err


def test_more_memory_than_there_is(ftrect: Any) -> None:
    code, _, err = ftrect("plan", "--model", "0.5b", "--gpus", "1", "--gpu-memory", "1e300")
    assert (code, err) == (2, "error: '--gpu-memory' must be at most 1e+06; got 1e300\n")


def test_options_of_a_law_do_not_go_with_a_model(ftrect: Any) -> None:
    code, _, err = ftrect("plan", "--model", "0.5b", "--gpus", "1", "--gpu-memory", "24", "--label-price", "1")
    assert code == 2
    assert "'--label-price' does not go with '--model'" in err
