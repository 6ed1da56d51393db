"""The report as a reader gets it: whole, self-contained, in one way of writing numbers, and never with a hole."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ftrect_ray.errors import InputError
from ftrect_ray.report import ReportInputs, build_report

Make = Callable[..., ReportInputs]

NOTHING = {
    "pilots": (),
    "law": None,
    "allocation": None,
    "curves": {},
    "best_epochs": {},
    "ledger_counts": (),
    "answers": None,
    "predictions": None,
    "truth": None,
    "run": {},
}


def tree(html: str) -> ElementTree.Element:
    """The page as XML: the template closes every element, so a parser without mercy can read it."""
    return ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>"))


def text_of(html: str) -> str:
    root = tree(html)
    for style in list(root.iter("style")):
        style.text = ""
    return re.sub(r"\s+", " ", " ".join(root.itertext()))


def headings(html: str) -> list[str]:
    return [str(element.text) for element in tree(html).iter("h2")]


def ols(make: Make, names: list[str]) -> ReportInputs:
    estimate = make().estimate
    bounds = {"std_error": [0.2, 0.004], "interval": [[0.8, -0.0198], [1.6, -0.0042]]}
    parts = {key: {"value": [1.2, -0.012], **bounds} for key in ("classical", "naive")}
    changed = {
        "target": "ols",
        "names": names,
        "value": [1.2, -0.012],
        "effective_n": [900.0, 1100.0],
        **bounds,
        **parts,
    }
    study = make().study
    target = {"kind": "ols", "features": names[1:]}
    return make(
        study={**study, "target": target}, estimate={**estimate, **changed, "interval_ratio": [0.8, 0.7]}, truth=None
    )


def test_page_says_the_estimate_first_in_one_sentence(make_inputs: Make) -> None:
    html, _ = build_report(make_inputs())
    said = text_of(html)
    assert "The mean rating is 0.538 , with a 95% interval from 0.445 to 0.630 ." in said
    assert "600 human answers are as precise as asking for 1,208 without it: the interval is 30% shorter." in said
    assert said.index("The mean rating is") < said.index("Where the labels went")


def test_numbers_are_written_the_same_way_everywhere(make_inputs: Make) -> None:
    html, _ = build_report(make_inputs())
    said = text_of(html)
    assert said.count("0.538") >= 4  # sentence, figure (wide, narrow), methods
    assert not re.search(r"0\.53780|0\.5378\b|(?<![\d.])0\.54\b", said)
    assert "23,703" in said
    assert "-0." not in said.replace("\u2212", "")  # minus signs are minus signs
    assert "all answers: 0.519" in said
    assert "known only because this is a benchmark table" in said


def test_page_loads_nothing_and_runs_nothing(make_inputs: Make) -> None:
    html, _ = build_report(make_inputs())
    root = tree(html)
    links = {element.get("href") for element in root.iter("a")}
    assert all(link.startswith("https://arxiv.org/abs/") for link in links)
    assert len(links) == 4
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in ("src", "srcset", "data", "action") or (name == "href" and element.tag != "a"):
                assert value.startswith("#"), (element.tag, name, value)
            assert not name.startswith("on"), (element.tag, name)
    assert not list(root.iter("script"))
    assert not list(root.iter("link"))
    style = "".join(str(element.text) for element in root.iter("style"))
    assert "@import" not in style
    assert "url(" not in style
    assert len(list(root.iter("style"))) == 1  # none inside a figure, where it would rule the whole page
    assert not list(root.iter("metadata"))
    assert "xmlns" not in html


def test_ids_are_unique_and_references_resolve(make_inputs: Make) -> None:
    html, _ = build_report(make_inputs())
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    referred = {name for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html) for name in pair if name}
    assert referred
    assert referred <= set(ids)


def test_svg_follows_the_page_colours(make_inputs: Make) -> None:
    html, _ = build_report(make_inputs())
    inside = "".join(ElementTree.tostring(svg, encoding="unicode") for svg in tree(html).iter("svg"))
    assert not re.search(r"#[0-9a-fA-F]{6}", inside)
    used, defined = set(re.findall(r"var\(--([a-z-]+)\)", inside)), set(re.findall(r"--([a-z-]+): #", html))
    assert {"rectified", "classical", "ink"} <= used <= defined


def test_everything_from_outside_is_escaped(make_inputs: Make) -> None:
    evil = "<script>alert(1)</script>\"'&\x00\x1b$\\bad{$"  # the last part would stop a parser of formulas
    base = make_inputs()
    study = {**base.study, "study": evil, "data": {**base.study["data"], "label": evil}}
    study["model"] = {**base.study["model"], "name": evil}
    pilots = [{**row, "error": evil if row["error"] else None} for row in base.pilots]
    estimate = {**base.estimate, "diagnostics": {**base.estimate["diagnostics"], "warnings": [evil]}}
    curves = {evil: base.curves["fold-0"]}
    run = {**base.run, "git": evil, "versions": {evil: evil}}
    inputs = make_inputs(study=study, study_yaml=evil, pilots=pilots, estimate=estimate, curves=curves, run=run)
    html, _ = build_report(inputs)
    assert "<script" not in html
    assert not list(tree(html).iter("script"))
    assert "\x00" not in html
    assert text_of(html).count("<script>alert(1)</script>") >= 8


def test_figures_are_png_of_sensible_size(make_inputs: Make) -> None:
    _, pngs = build_report(make_inputs())
    assert set(pngs) == {"intervals", "labels", "law", "designs", "budget", "curves", "calibration", "residuals"}
    for name, content in pngs.items():
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            width, height = image.size
            assert image.format == "PNG", name
            assert image.info["dpi"][0] == pytest.approx(200, abs=1), name
        assert width == (740 if name in ("calibration", "residuals") else 1500), name
        assert 200 < height < 1500, name
        assert 5_000 < len(content) < 400_000, name


def test_same_inputs_same_bytes(make_inputs: Make) -> None:
    first, second = build_report(make_inputs()), build_report(make_inputs())
    assert first == second


@pytest.mark.parametrize(
    ("missing", "gone", "figures"),
    [
        ({"pilots": (), "law": None}, "What the pilots measured", {"law", "budget"}),
        ({"law": None}, "What a bigger budget would buy", {"budget"}),
        ({"allocation": None}, "Ways to spend the labels that were considered", {"designs"}),
        ({"curves": {}}, "How the fine-tunes learned", {"curves"}),
        ({"ledger_counts": ()}, "Where the labels went", {"labels"}),
        ({"answers": None, "predictions": None}, None, {"calibration", "residuals"}),
    ],
)
def test_a_section_disappears_with_its_inputs(make_inputs: Make, missing: dict, gone: str | None, figures: set) -> None:
    full, pngs = build_report(make_inputs())
    html, fewer = build_report(make_inputs(**missing))
    assert set(pngs) - set(fewer) == figures
    if gone:
        assert gone in headings(full)
        assert gone not in headings(html)


def test_truth_is_shown_only_where_it_is_known(make_inputs: Make) -> None:
    html, _ = build_report(make_inputs(truth=None))
    assert "benchmark" not in text_of(html)
    html, _ = build_report(make_inputs(truth=0.9))
    assert "The interval does not cover it." in text_of(html)


def test_a_classical_run_makes_no_claim_about_a_model(make_inputs: Make) -> None:
    part = {"value": 0.5729, "std_error": 0.06714, "interval": [0.4413, 0.7045]}
    estimate = {"target": "mean", "alpha": 0.05, "n": 600, "m": 23_103, "design": "classical", "effective_n": 600.0}
    whole = {**estimate, **part, "classical": part, "naive": None, "interval_ratio": 1.0, "diagnostics": {}}
    html, pngs = build_report(make_inputs(**NOTHING, estimate=whole))
    said = text_of(html)
    assert headings(html) == ["Methods, to paste", "How it ran", "Settings"]
    assert set(pngs) == {"intervals"}
    assert "It rests on 600 human answers alone; no model was used." in said
    assert "fine-tun" not in said[: said.index("Settings")]
    assert "Rectified" not in said


def test_rectify_only_has_no_pilots_and_no_training(make_inputs: Make) -> None:
    kept = {key: value for key, value in NOTHING.items() if key not in ("answers", "predictions")}
    estimate = {**make_inputs().estimate, "design": "rectify-only", "interval_ratio": 1.1, "effective_n": 496.0}
    ledger = [{"use": "rectify", "model": "given", "count": 600}]
    html, pngs = build_report(make_inputs(**{**kept, "ledger_counts": ledger}, estimate=estimate))
    said = text_of(html)
    assert set(pngs) == {"intervals", "labels", "calibration", "residuals"}
    assert "The model did not sharpen it: the interval is 10% longer" in said
    assert "predictions made beforehand" in said
    assert "was fine-tuned" not in said


def test_recycled_run_says_that_its_training_labels_are_averaged(make_inputs: Make) -> None:
    uses = {"select": 96, "finetune": 82, "early_stop": 14, "rectify": 504, "classical": 96}
    ledger = [{"use": use, "model": "split", "count": count} for use, count in uses.items()]
    estimate = {**make_inputs().estimate, "design": "recycle", "n": 504}
    html, _ = build_report(make_inputs(estimate=estimate, ledger_counts=ledger))
    said = text_of(html)
    assert "also enter the estimate, as a plain mean" in said
    assert "combined by inverse variance" in said
    assert "is averaged" not in said  # the bar shows no label twice
    assert "Zrnic, T., & Candès" not in said


def test_a_vector_target_has_a_table_and_a_panel_each(make_inputs: Make) -> None:
    html, pngs = build_report(ols(make_inputs, ["(intercept)", "<b>income</b> $k$"]))
    said = text_of(html)
    assert "2 of 2 coefficients have a 95% interval without zero" in said
    assert "<b>income</b> $k$" in said
    assert "\u22120.0120" in said
    assert "budget" not in pngs
    assert "the intervals are on average 25% shorter" in said.lower()


def test_for_other_targets_the_plan_is_only_a_plan_for_the_mean(make_inputs: Make) -> None:
    """Widths predicted for the mean are no prediction of a median's interval."""
    full, _ = build_report(make_inputs())
    assert "it came out as 0.185" in text_of(full)
    study = {**make_inputs().study, "target": {"kind": "quantile", "q": 0.5}}
    html, pngs = build_report(make_inputs(study=study))
    said = text_of(html)
    assert "The median rating is" in said
    assert "budget" not in pngs
    assert "came out as" not in said
    assert "predictions for the mean answer, made after the pilots" in said


def test_no_nan_ever_reaches_the_reader(make_inputs: Make) -> None:
    nan = float("nan")
    base = make_inputs()
    estimate = {**base.estimate, "effective_n": None, "lam": None, "interval_ratio": nan, "naive": None}
    estimate["diagnostics"] = dict.fromkeys(base.estimate["diagnostics"], nan) | {"warnings": None, "models": None}
    estimate["diagnostics"]["checks"] = [{**base.estimate["diagnostics"]["checks"][0], "value": nan}]
    pilots = [{**row, "residual_variance": nan, "seconds": nan, "best_epoch": None} for row in base.pilots[:1]] + list(
        base.pilots[1:]
    )
    law = {**base.law, "r2": nan, "intervals": {"a": [nan, nan], "alpha": None, "b": None}, "band": None}
    curves = {"fold-0": [{"epoch": 1, "stop_metric": nan}], "fold-1": base.curves["fold-1"]}
    answers = np.where(np.arange(600) % 7 == 0, np.nan, base.answers)
    stages = {"finetune": {"seconds": 0.0, "cpu_seconds": None, "model_seconds": None}}
    html, _ = build_report(
        make_inputs(estimate=estimate, pilots=pilots, law=law, curves=curves, answers=answers, run={"stages": stages})
    )
    assert not re.search(r"\b(nan|inf|None)\b", text_of(html))
    assert "nan" not in re.sub(r"<style>.*</style>", "", html, flags=re.DOTALL).lower()


def test_an_estimate_without_spread_can_still_be_drawn(make_inputs: Make) -> None:
    flat = {"value": 3.0, "std_error": 0.0, "interval": [3.0, 3.0]}
    estimate = {
        **make_inputs().estimate,
        **flat,
        "classical": flat,
        "naive": flat,
        "effective_n": None,
        "interval_ratio": None,
    }
    html, _ = build_report(make_inputs(estimate=estimate, answers=np.full(600, 3.0), predictions=np.full(600, 3.0)))
    assert "The mean rating is 3.000" in text_of(html)


def test_an_incomplete_estimate_is_refused_with_a_remedy(make_inputs: Make) -> None:
    estimate = {key: value for key, value in make_inputs().estimate.items() if key != "interval"}
    with pytest.raises(
        InputError, match=r"the estimate lacks 'interval' \(estimate.json\) — run 'ftrect rectify' again"
    ):
        make_inputs(estimate=estimate)
