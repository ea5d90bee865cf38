"""The lab of equal spend: its arms run and are gone on with, and its tables are those of hand-made cells."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forethought.engines.scripted import Scripted
from forethought.labs import equal_spend
from forethought.labs.equal_spend import ARMS, Asked, Config, arms, given, plan, random_value
from forethought.labs.leads import leads, thirds
from forethought.recipes.run import write_config
from forethought.scaling.bank import Drawn
from forethought.scaling.strategies import Cell
from forethought.scaling.sweep import read
from forethought.types import Messages, Sampling, Step, Verdict, user

FULL = "<think>\nb=1\n</think>\n"


def says(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> str:
    """The form of a thought, line by line or whole, with an answer that its seed decides."""
    said, drawn = "".join(step.text for step in prefix), f"\\boxed{{{(sampling.seed or 0) % 3}}}"
    return FULL[len(said) :] + drawn if FULL.startswith(said) else drawn


async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
    return Verdict(0.9 if "{1}" in steps[-1].text else 0.5, cost=len(steps[-1].tokens))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    engine = Scripted(says)
    monkeypatch.setattr(equal_spend, "TASKS", {"chain": Asked("chain:steps=1,modulus=3", 8, 40, 24)})
    monkeypatch.setattr(equal_spend, "plan", lambda *asked: [])
    monkeypatch.setattr(equal_spend, "open_engine", lambda path: engine)
    monkeypatch.setattr(equal_spend, "open_verifier", lambda path, engine=None: judge)
    return engine


def test_every_arm_is_run_within_its_budget_and_an_interrupted_lab_goes_on(
    engine: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = tuple(ARMS)
    asked = Config(tasks=("chain",), arms=every, seeds=(0, 1), grid=(150,), problems=2, k=2, out=str(tmp_path))
    equal_spend.main(asked)
    first, drawn = capsys.readouterr().out, engine.calls
    rows = [row for seed in (0, 1) for row in read(tmp_path / f"chain-{seed}" / "records.jsonl")]
    assert sorted(row["strategy"] for row in rows) == sorted(every * 4)
    assert all(row["tokens"] + row["judge"] <= row["budget"] for row in rows)
    assert all(row["judge"] == 0 for row in rows if "random" in row["strategy"] or row["strategy"] == "force")
    assert (tmp_path / "chain.html").read_text().count("<svg") >= 2

    equal_spend.main(asked)
    assert engine.calls == drawn
    file = tmp_path / "chain-1" / "records.jsonl"
    kept = file.read_text().splitlines(keepends=True)
    file.write_text("".join(kept[:-2]) + kept[-2][:20])  # killed in the middle of a line
    capsys.readouterr()
    equal_spend.main(asked)
    assert drawn < engine.calls < drawn * 1.1
    assert [line for line in capsys.readouterr().out.splitlines() if "weighted" in line] == [
        line for line in first.splitlines() if "weighted" in line
    ]


def cell(name: str, *right: float) -> Cell:
    column = np.array(right)[:, None]
    return Cell(name, 100, column, column, column, column)


def drawn(name: str, *right: bool) -> Drawn:
    return Drawn(name, (None,) * len(right), right, (1,) * len(right), (0,) * len(right))


def test_a_search_is_told_against_whole_thoughts_by_the_same_choice_problem_by_problem() -> None:
    cells = [
        cell("majority", 1, 0, 0, 0),
        cell("weighted", 1, 0, 0, 1),
        cell("beam", 1, 1, 1, 1),
        cell("mcts, random, vote", 1, 0, 0, 0),
    ]
    head, *lines = leads(cells).splitlines()
    assert head.split() == ["points", "over", "100"]
    assert [" ".join(line.split()) for line in lines] == [
        "majority - weighted −25.0 [−75.0, +0.0]",
        "beam - weighted +50.0 [+0.0, +100.0]",
        "mcts, random, vote - majority +0.0 [+0.0, +0.0]",
    ]


def test_thirds_go_from_the_hardest_problems_to_the_easiest() -> None:
    bank = [drawn("easy", True, True), drawn("hard", False, False), drawn("even", True, False)]
    head, _, line = thirds([cell("beam", 1, 0, 1)], bank).splitlines()
    assert head == "thirds by pass@1: hardest 0 %, middle 50 %, easiest 100 %"
    assert line.split() == ["beam", "0", "100", "100"]


async def _scores(*texts: str) -> list[float | None]:
    return [(await random_value(user("1+1?"), (Step(text),))).score for text in texts]


def test_random_values_are_a_thoughts_own_and_even() -> None:
    scores = asyncio.run(_scores("a", "a", *(str(i) for i in range(400))))
    assert scores[0] == scores[1]
    told = [score for score in scores if score is not None]
    assert 0.45 < sum(told) / len(told) < 0.55
    assert len(set(told)) == 401


def test_controls_are_run_at_the_largest_budget_alone() -> None:
    asked = Config(arms=("beam", "mcts, random"), grid=(100, 200, 300))
    assert list(arms(asked)) == [("beam", 100), ("beam", 200), ("beam", 300), ("mcts, random", 300)]


@pytest.mark.parametrize("wrong", [{"tasks": ("chains",)}, {"arms": ("beams",)}])
def test_what_the_lab_does_not_have_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'(chains|beams)' in this lab; there is (planted|beam), "):
        equal_spend.main(replace(Config(out=str(tmp_path / "run")), **wrong))
    assert not (tmp_path / "run").exists()


def test_a_run_with_other_settings_is_refused_before_anything_runs(tmp_path: Path) -> None:
    asked = Config(out=str(tmp_path))
    policy, process, value = plan(asked, "addition", 2)
    write_config(Path(value.out), "verifier", replace(value, steps=7), resume=False)
    with pytest.raises(ValueError, match="begun with other settings: steps was 7"):
        equal_spend.main(asked)
    assert [folder.name for folder in tmp_path.iterdir()] == ["addition-2"]
    assert (process.model, value.model) == (policy.out, policy.out)


def test_the_policy_and_the_head_of_another_lab_are_taken_instead_of_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Config(labelled="runs/step-labels", out=str(tmp_path))
    opened: list[str] = []
    monkeypatch.setattr(equal_spend, "open_engine", opened.append)
    monkeypatch.setattr(equal_spend, "open_verifier", opened.append)
    equal_spend.players(tmp_path, {"process"}, planted=False, given=given(asked, "chain", 2))
    assert opened == ["runs/step-labels/cold-2", "runs/step-labels/process-2"]
    assert plan(asked, "chain", 2) == []
    assert len(plan(asked, "addition", 2)) == 3
    with pytest.raises(ValueError, match="have no value head, which 'beam, value' asks"):
        equal_spend.main(replace(asked, arms=("beam, value",)))
