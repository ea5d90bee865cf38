"""Agreement with the truth, by hand; and the lab that holds a judge of rules against a program."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest
from judges import Judge

from forethought.labs import rubric_agreement as lab
from forethought.labs.rubric_agreement import Config, Item, judged, made, table
from forethought.problems.instructions import CHECKS
from forethought.scaling.agreement import Confusion, agreement
from forethought.verify.rubric import rule


def test_kappa_is_that_of_the_textbook() -> None:
    found = Confusion(true_yes=20, false_yes=5, false_no=10, true_no=15)  # 0.7 observed, 0.5 by chance
    assert (found.total, found.accuracy) == (50, 0.7)
    assert found.kappa == pytest.approx(0.4)
    assert Confusion(25, 0, 0, 25).kappa == 1
    assert Confusion(0, 25, 25, 0).kappa == -1
    assert Confusion(25, 25, 0, 0).kappa == 0  # always yes
    assert Confusion(9, 0, 0, 0).kappa == 0


def test_what_was_not_judged_is_left_out_and_counted() -> None:
    found = agreement([0.9, 0.5, 0.49, None, 0.1, 0.8], [True, True, True, True, False, False])
    assert found.confusion == Confusion(2, 1, 1, 1)
    assert (found.unjudged, found.kappa.n) == (1, 5)
    assert found.auc == pytest.approx(4 / 6)
    assert found.kappa.low <= found.kappa.value <= found.kappa.high
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter"):
        agreement([0.5], [])
    nothing = agreement([None], [True])
    assert nothing.confusion.total == 0
    assert nothing.kappa.value != nothing.kappa.value


def test_a_coin_agrees_by_chance_alone_and_one_wrong_word_in_ten_costs_a_fifth() -> None:
    rng = random.Random(3)
    truth = [bool(at % 2) for at in range(2000)]
    coin = agreement([rng.random() for _ in truth], truth)
    assert coin.kappa.low < 0 < coin.kappa.high
    noisy = agreement([float(so != (rng.random() < 0.1)) for so in truth], truth)
    assert noisy.kappa.low < 0.8 < noisy.kappa.high
    assert noisy.kappa.high - noisy.kappa.low < 0.08


ITEMS = made(8, seed=0)
KINDS = set(CHECKS) - {"at most"}
"""No text of the set is long enough to break that one."""


def test_the_set_has_as_many_kept_as_broken_of_each_kind() -> None:
    counts = Counter((item.kind, item.kept) for item in ITEMS)
    assert {kind for kind, _ in counts} == KINDS
    assert all(counts[kind, True] == counts[kind, False] > 0 for kind in KINDS)
    excepted = [item for item in ITEMS if item.unless]
    assert 0.2 < len(excepted) / len(ITEMS) < 0.8
    assert ITEMS == made(8, seed=0) != made(8, seed=1)
    assert [item.kept for item in ITEMS] != sorted(item.kept for item in ITEMS)


def asked(item: Item) -> str:
    """What the judge is shown of it."""
    criterion = rule(item.rule, [item.unless] if item.unless else ())
    return f"Problem:\n{item.topic}.\n\nSolution:\n{item.text}\n\nCriterion: {criterion.text}\nDoes the"


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_judge_that_knows_the_truth_but_for_noise_agrees_as_far(noise: float) -> None:
    rng = random.Random(1)
    wrong = [rng.random() < noise for _ in ITEMS]

    def belief(read: str) -> float:
        (at,) = (at for at, item in enumerate(ITEMS) if read.startswith(asked(item)))
        return 0.95 if ITEMS[at].kept != wrong[at] else 0.05

    judge = Judge(belief=belief)
    scores = asyncio.run(judged(ITEMS, judge, 4))
    found = agreement(scores, [item.kept for item in ITEMS])
    assert found.confusion.accuracy == pytest.approx(1 - sum(wrong) / len(ITEMS))
    assert found.kappa.value == pytest.approx(2 * found.confusion.accuracy - 1, abs=0.02)
    assert all("Write about" in read and "Follow all" not in read for read in judge.read)  # its arm stays hidden
    rows = {line[:20].strip(): line.split() for line in table(ITEMS, scores)}
    assert KINDS | {"all", "without exceptions", "with an exception", "rules"} == set(rows)
    assert rows["all"][1] == str(len(ITEMS))


def test_verdicts_are_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Config(model="judge", items=2, out=str(tmp_path / "out"))
    monkeypatch.setattr(lab, "open_engine", lambda _: Judge())
    lines = lab.main(asked)
    monkeypatch.setattr(lab, "open_engine", lambda _: pytest.fail("asked again"))
    assert lab.main(asked) == lines
    with pytest.raises(ValueError, match="was measured with"):
        lab.main(Config(model="judge", items=4, out=str(tmp_path / "out")))
