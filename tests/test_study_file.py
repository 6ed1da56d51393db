"""The study file: what is accepted, and every way in which it can be wrong."""

from __future__ import annotations

import time

import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.study_file import MAX_STUDY_BYTES, default_study_text, dump_study, load_study, parse_study

SMALL = "study: a\ndata: {source: vader, text: text, label: rating}\n"


def test_the_default_study_is_what_the_models_default_to() -> None:
    """The commented file spells out defaults: they must not drift apart."""
    written = parse_study(default_study_text())
    bare = parse_study(
        "study: vader-valence\nlabels: 600\ndata: {source: vader, text: text, label: rating, id: id, scale: [-4, 4]}\n"
    )
    assert written == bare


def test_dump_reads_back() -> None:
    study = parse_study(SMALL, ["target={kind: quantile, q: 0.3}", "training.epochs=4"])
    assert study.training.epochs == 4
    assert parse_study(dump_study(study)) == study


def test_candidates_read_back_and_stand_for_studies_of_one_model() -> None:
    study = parse_study(
        SMALL + "candidates: {mini: {model: {name: minilm}}, llm: {model: {name: smollm2}, training: {epochs: 3}}}"
    )
    assert parse_study(dump_study(study)) == study
    assert "\nmodel:" not in dump_study(study)
    assert list(study.contenders) == ["mini", "llm"]
    chosen = study.with_candidate("llm")
    assert (chosen.model.name, chosen.training.epochs, chosen.candidates) == ("smollm2", 3, None)
    assert study.with_candidate("mini").training == study.training
    alone = parse_study(SMALL)
    assert alone.contenders == {"": alone}


def test_exponents_are_numbers() -> None:
    """YAML 1.1 reads 1e-5 as a string; here it is what it looks like."""
    assert parse_study(SMALL, ["training.learning_rate=1e-5"]).training.learning_rate == 1e-5
    assert parse_study(SMALL + "training: {learning_rate: 1E-5}").training.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (SMALL + "alpha: 0", [], r"'alpha': .*greater than 0; got 0 .*the bound itself is not allowed"),
        (SMALL + "alpha: 1", [], r"'alpha': .*less than 1; got 1"),
        (SMALL + "alpha: -0.1", [], r"'alpha': .*got -0.1"),
        (SMALL + "alpha: 1.5", [], r"'alpha': .*got 1.5"),
        (SMALL + "alpha: .nan", [], r"'alpha': .*finite number; got nan"),
        (SMALL + "alpha: 5%", [], r"'alpha': .*got '5%'"),
        (SMALL, ["target={kind: quantile, q: 0}"], r"'target.q': .*got 0"),
        (SMALL, ["target={kind: quantile, q: 1}"], r"'target.q': .*got 1"),
        (SMALL, ["target={kind: quantile, q: 1.2}"], r"'target.q': .*got 1.2"),
        (SMALL, ["target={kind: ols}"], r"'target.features' is missing"),
        (SMALL, ["target.kind=median"], r"'target.kind' must be one of 'mean', .*'poisson'; got 'median'"),
        (
            SMALL + "training: {lerning_rate: 1}",
            [],
            r"unknown key 'training.lerning_rate' .*did you mean 'learning_rate'\?",
        ),
        (SMALL + "lables: 5", [], r"unknown key 'lables' .*did you mean 'labels'\?"),
        (SMALL + "study: b", [], r"key 'study' is given twice \(study:3:1\)"),
        (SMALL + "training: {learning_rate: fast}", [], r"'training.learning_rate': .*got 'fast'"),
        (SMALL + "training: {workers: yes}", [], r"'training': 'workers' must not be yes or no .*got True"),
        (SMALL + "x: !!python/object/apply:os.system [touch canary]", [], r"YAML tags are not allowed"),
        ("a: &a [1]\nb: *a", [], r"aliases \(\*name\) are not allowed"),
        ("- 1\n- 2", [], r"this one is a list"),
        ("", [], r"this one is empty"),
        ("study: [", [], r"cannot read YAML"),
        ("study: a\0b", [], r"cannot read YAML"),
        ("study: ../x\ndata: {source: vader, text: t}", [], r"'study': .*letters, digits"),
        ("study: a\ndata: {source: vader, table: x, text: t}", [], r"name exactly one origin"),
        ("study: a\ndata: {labeled: x, text: t}", [], r"'labeled' and 'unlabeled' go together"),
        ("study: a\ndata: {source: vader}", [], r"give 'text' .* or 'prompt'"),
        ("study: a\ndata: {source: vader, text: t, scale: [4, -4]}", [], r"low < high; got \[4.0, -4.0\]"),
        (SMALL + "pilots: {sizes: [100, 50]}", [], r"must increase strictly"),
        (SMALL + "pilots: {scheme: rampup}", [], r"'pilots.scheme': .*'ramp-up'.*got 'rampup'"),
        (SMALL + "pilots: {scheme: ramp-up, sizes: [10, 20]}", [], r"three or more, for the law has three.*\[10, 20\]"),
        (SMALL + "pilots: {scheme: cross-validated, sizes: [10, 40, 80], folds: 6}", [], r"6 'folds' of the smallest"),
        (SMALL + "pilots: {scheme: cross-validated, validation: 30}", [], r"holds no labels for 'validation'"),
        (SMALL + "pilots: {scheme: cross-fitted, validation: 30}", [], r"'scheme: cross-fitted' holds no labels"),
        (SMALL + "pilots: {gpus_per_pilot: 1.5}", [], r"share of one GPU or a whole number"),
        (SMALL + "candidates: {a: {model: {name: minilm}}}\nmodel: {max_tokens: 64}", [], r"'model' or 'candidates'"),
        (SMALL + "candidates: {a: {model: {name: minilm}}}\ndesign: classical", [], r"are compared by pilots"),
        (SMALL + "candidates: {a b: {model: {name: minilm}}}", [], r"'candidates.a b': a candidate's name has"),
        (SMALL + "candidates: {a: {model: {nam: minilm}}}", [], r"'candidates.a.model.nam' .*did you mean 'name'\?"),
        (SMALL + "candidates: {}", [], r"'candidates': .*at least 1"),
        (
            SMALL + "candidates: {a: {model: {name: minilm, adapter: head}, training: {zero_stage: 3}}}",
            [],
            r"'adapter: head' of candidate 'a' is fitted in closed form",
        ),
        (SMALL + "pilots: null", [], r"'design: auto' needs 'pilots'"),
        (SMALL + "finetune_labels: 50", [], r"'finetune_labels' sizes .* 'design: auto' needs none"),
        (SMALL + "design: rectify-only", [], r"needs 'data.prediction'"),
        (SMALL, ["epochs"], r"--set takes key.sub=value"),
    ],
)
def test_bad_studies(text: str, overrides: list[str], message: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        parse_study(text, overrides)
    assert list(tmp_path.iterdir()) == []


def test_every_error_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_study(SMALL + "alpha: 2\nfolds: 1\nfoo: 3")
    assert len(str(caught.value).split("\n")) == 3


def test_alias_bomb_and_huge_file_are_refused_at_once(tmp_path) -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
    )
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (MAX_STUDY_BYTES * 50))
    began = time.monotonic()
    with pytest.raises(InputError, match="aliases"):
        parse_study(bomb)
    with pytest.raises(InputError, match="larger than 1048576 bytes"):
        load_study(huge)
    assert time.monotonic() - began < 1


def test_encodings(tmp_path) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load_study(file).study == "a"
    file.write_bytes(SMALL.encode("utf-16"))
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte 0\)"):
        load_study(file)
    file.write_bytes(bytes(range(1, 32)) * 20)
    with pytest.raises(InputError, match="cannot read YAML"):
        load_study(file)
    with pytest.raises(InputError, match="cannot read the study file: No such file"):
        load_study(tmp_path / "none.yaml")
