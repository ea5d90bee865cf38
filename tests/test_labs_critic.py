"""The lab of the forced critic: what a chosen critique is worth, the frontier, and a small run from end to end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forethought.labs import critic as lab
from forethought.labs.runs import kept
from forethought.recipes import critic
from forethought.recipes.run import write_config
from forethought.types import Step

Row = dict[str, Any]


def row(errors: int, forced: list[tuple[float, int, int, int]], plain: list[tuple[float, int, int, int]]) -> Row:
    """A solution with so many errors; a critique is reward, highlights, errors located, quotes."""
    pools = {"single": plain[:1], "best of 28": plain, "forced 28": forced}
    own = "inserted" if errors else "clean"
    return {"set": own, "errors": errors, "arms": {arm: {"pool": pools[arm], "tokens": 10} for arm in lab.ARMS}}


SHORT, LONG, WILD = (1.0, 1, 1, 1), (0.0, 3, 2, 3), (0.0, 3, 1, 3)
"""One error found; two of them and an invention; one and two inventions."""


def test_the_modifier_chooses_and_the_choice_is_scored() -> None:
    rows = [row(2, [SHORT, LONG], [SHORT, WILD]), row(0, [LONG], [(2.0, 0, 0, 0)])]
    recall, precision, quotes = lab.scores(rows, "forced 28", 0.0)
    assert (recall[0], precision[0], quotes[0]) == (0.5, 1.0, 1.0)
    assert math.isnan(recall[1])  # no error to be found
    recall, precision, quotes = lab.scores(rows, "forced 28", 1.0)
    assert (recall[0], precision[0], quotes[0]) == (1.0, 2 / 3, 3.0)
    recall, precision, quotes = lab.scores(rows, "best of 28", 0.0)
    assert math.isnan(precision[1])  # nothing was quoted
    assert quotes[1] == 0


def test_the_advantage_is_precision_at_equal_recall() -> None:
    """Both go from a recall of a half to 1, one by 2 good quotes of 3 and the other by 2 of 5."""
    wide = (0.0, 5, 2, 5)
    rows = [row(2, [SHORT, LONG], [SHORT, wide]) for _ in range(4)]
    gain, low, high = lab.advantage(rows, (0.0, 2.0), resamples=20)
    assert gain == pytest.approx((0 + (2 / 3 - 2 / 5)) / 2)
    assert low == pytest.approx(gain)
    assert high == pytest.approx(gain)
    same = lab.advantage([row(2, [LONG, SHORT], [SHORT, LONG])], (0.0, 2.0), resamples=2)
    assert same == pytest.approx((0.0, 0.0, 0.0))
    silent = (1.1, 0, 0, 0)  # a choice that quotes nothing has a recall and no precision: it is no point of a frontier
    quiet = [row(2, [SHORT, LONG], [silent, SHORT, wide]) for _ in range(4)]
    assert lab.advantage(quiet, (0.0, 0.2, 2.0), resamples=5) == pytest.approx((gain, low, high))
    assert np.isnan(lab.advantage([row(2, [SHORT], [silent])], (0.0,), resamples=2)).all()
    apart = [row(2, [(0.0, 2, 2, 2)], [SHORT])]
    assert np.isnan(lab.advantage(apart, (0.0,), resamples=2)).all()


def test_the_table_has_a_row_for_each_choice() -> None:
    rows = [row(2, [SHORT, LONG], [SHORT, WILD]), row(0, [LONG], [(2.0, 0, 0, 0)])]
    lines = [" ".join(line.split()) for line in lab.table(rows, (0.0, 2.0)).splitlines()]
    assert len(lines) == 1 + (1 + 2 + 2 + 1) + (1 + 2 + 2)
    assert "forced 28 inserted 2.0 100.0 [100.0, 100.0] 66.7 [66.7, 66.7] 3.00 10" in lines
    assert "best of 28 inserted 0.0 50.0 [50.0, 50.0] 100.0 [100.0, 100.0] 1.00 10" in lines
    assert "best of 28 clean 0.0 - - 0.00 10" in lines
    assert sum(line.startswith("at equal recall") for line in lines) == 1


def small(out: Path) -> lab.Config:
    return lab.Config(
        seeds=(0,), problems="chain:steps=1,modulus=5", solutions=4, policy_steps=1, examples=6, critic_steps=1,
        graded=4, reward_steps=1, modifiers=(0.0,), out=str(out),
    )  # fmt: skip


def test_a_small_run_goes_from_policy_to_table_and_measures_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def some(critique: str, steps: tuple[Step, ...], labels: object) -> float:  # an untaught critic is never right
        return sum(map(ord, critique)) % 5 / 4

    arms = {"single": {"n": 1, "rounds": 0}, "best of 28": {"n": 3, "rounds": 0}, "forced 28": {"n": 1, "rounds": 2}}
    monkeypatch.setattr(critic, "quality", some)
    monkeypatch.setattr(lab, "ARMS", arms)
    lab.main(small(tmp_path))
    first = capsys.readouterr().out
    found = {folder.name for folder in tmp_path.iterdir()}
    assert found == {"policy-0", "critic-0", "reward-0", "critiques-0.json"}
    rows = kept(tmp_path / "critiques-0.json", {"solutions": 4, "temperature": 1.3}, dict)
    assert len(rows) == 4
    assert all(len(one["arms"]["best of 28"]["pool"]) == 3 for one in rows)
    assert all(len(one["arms"]["forced 28"]["pool"]) == 2 for one in rows)
    monkeypatch.setattr(lab, "criticised", print)  # which nothing calls
    lab.main(small(tmp_path))
    again = capsys.readouterr().out
    assert first.endswith(again)
    assert again.count("forced 28") >= 1


def test_other_settings_are_refused_before_anything_runs(tmp_path: Path) -> None:
    *_, reward = lab.plan(small(tmp_path), 0)
    write_config(Path(reward.out), "verifier", replace(reward, steps=99), resume=False)
    with pytest.raises(ValueError, match="reward-0 was begun with other settings: steps was 99 and is 1"):
        lab.main(small(tmp_path))
    assert [folder.name for folder in tmp_path.iterdir()] == ["reward-0"]
    with pytest.raises(ValueError, match="graded is 0"):
        replace(small(tmp_path), graded=0)
