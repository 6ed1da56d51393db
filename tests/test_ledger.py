"""The rule of the house: no label both shapes and rectifies a model."""

from __future__ import annotations

import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.ledger import SEEING, Ledger, Use
from ftrect_ray.storage import RunStorage

IDS = [f"r{i}" for i in range(10)]


@pytest.mark.parametrize("use", sorted(SEEING))
def test_a_label_that_a_model_saw_cannot_rectify_it(use: Use) -> None:
    ledger = Ledger(IDS)
    ledger.record(use, "fold-0", IDS[:5])
    with pytest.raises(
        InputError,
        match=rf"2 labels would both shape and rectify model 'fold-0' \({use}, then rectify\), the first 'r3'",
    ):
        ledger.record(Use.RECTIFY, "fold-0", ["r3", "r4", "r7"])
    assert ledger.ids(Use.RECTIFY) == []


@pytest.mark.parametrize("use", sorted(SEEING))
def test_a_label_that_rectifies_cannot_be_seen_afterwards(use: Use) -> None:
    ledger = Ledger(IDS)
    ledger.record(Use.RECTIFY, "fold-0", IDS[:5])
    with pytest.raises(InputError, match=rf"\(rectify, then {use}\)"):
        ledger.record(use, "fold-0", ["r4"])
    ledger.record(use, "fold-1", ["r4"])  # another model is another matter: that is cross-fitting


def test_strangers_and_duplicates() -> None:
    with pytest.raises(InputError, match="id 'a' is in the label budget twice"):
        Ledger(["a", "b", "a"])
    with pytest.raises(InputError, match="1 ids are outside the label budget, the first 'zz'"):
        Ledger(IDS).record(Use.FINETUNE, "fold-0", ["r1", "zz"])


def test_counts_forget_and_the_way_through_storage(tmp_path) -> None:
    ledger = Ledger(IDS)
    ledger.record(Use.PILOT_TRAIN, "pilot-s5-r0", IDS[:5])
    ledger.record(Use.FINETUNE, "fold-0", IDS[:4])
    ledger.record(Use.RECTIFY, "fold-0", IDS[5:8])
    ledger.record(Use.RECTIFY, "fold-0", IDS[5:8])
    storage = RunStorage.open(tmp_path)
    ledger.save(storage)
    again = Ledger.load(storage)
    assert again.budget == set(IDS)  # labels without a use stay in the budget
    assert again.counts() == ledger.counts()
    assert {"use": "rectify", "model": "fold-0", "count": 3} in again.counts()
    assert again.models(Use.RECTIFY) == ["fold-0"]
    again.forget([Use.FINETUNE, Use.RECTIFY])
    assert again.counts() == [{"use": "pilot_train", "model": "pilot-s5-r0", "count": 5}]
    again.record(Use.RECTIFY, "fold-0", IDS[:4])
