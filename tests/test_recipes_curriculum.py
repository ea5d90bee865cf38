"""Curricula: what a policy half solves is asked more often, and a killed run goes on with the same problems."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forethought.engines.local.tiny import TinyConfig, build
from forethought.problems import Task, open_task
from forethought.recipes import grpo, star
from forethought.recipes.curriculum import EXPLORE, WINDOW, Curriculum, learnability, rule
from forethought.recipes.run import prompts
from forethought.scaling.stages import load_report
from forethought.train import checkpoint
from forethought.train.metrics import read
from forethought.types import Problem, Trace, Verdict

MIX = "mix:2*chain:steps=1..2 + sums:terms=2,most=3"
NAMES = ("chain:steps=1", "chain:steps=2", "sums:terms=2,most=3")


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def graded(problem: Problem, *rewards: float | None) -> list[Trace]:
    return [Trace(problem.id, problem.messages, (), "m@0", verdicts={"grade": Verdict(one)}) for one in rewards]


def measured(text: str, **success: tuple[float | None, ...]) -> Curriculum:
    """A curriculum that has seen these rewards of the first, second and third part."""
    curriculum = Curriculum(text, open_task(MIX), seed=0)
    for place, rewards in enumerate(success.values()):
        if rewards:
            problem = Problem("p", (), "", {"part": place})
            curriculum.observe([problem], [graded(problem, *rewards)])
    return curriculum


def test_bounds_favour_the_parts_between_them_and_leave_the_rest_a_share() -> None:
    curriculum = measured("0.1-0.9", first=(1, 1, 1), second=(0, 1, None, None), third=(0, 0))
    assert curriculum.shares() == pytest.approx([EXPLORE / 3, EXPLORE / 3 + 1 - EXPLORE, EXPLORE / 3])
    counts = Counter(problem.meta["part"] for problem in curriculum.prompts(600))
    assert counts[1] > 480 > 60 > counts[0] > 15 < counts[2]
    edge = measured("0.5-1", first=(1,), second=(0, 1), third=(0, 0, 1))
    assert edge.shares()[:2] == pytest.approx([EXPLORE / 3 + (1 - EXPLORE) / 2] * 2)


def test_where_no_part_is_favoured_the_weights_stand() -> None:
    weights = [1 / 3, 1 / 3, 1 / 3]
    assert measured("0.1-0.9", first=(1,), second=(1,), third=(0,)).shares() == pytest.approx(weights)
    assert measured("learnability", first=(1,), second=(1,), third=(0,)).shares() == pytest.approx(weights)
    assert measured("0.1-0.9").shares() == pytest.approx(weights)


def test_learnability_is_the_variance_of_the_reward() -> None:
    assert [learnability(x) for x in (0, 0.5, 1)] == [0, 0.25, 0]
    shares = measured("learnability", first=(0, 1), second=(0, 0, 0, 1), third=(1,)).shares()
    assert shares[0] - EXPLORE / 3 == pytest.approx((shares[1] - EXPLORE / 3) * 0.25 / (0.25 * 0.75))
    assert shares[2] == pytest.approx(EXPLORE / 3)


def test_success_is_that_of_the_newest_thoughts() -> None:
    curriculum = measured("0.1-0.9", first=(0.0,) * WINDOW)
    problem = Problem("p", (), "", {"part": 0})
    curriculum.observe([problem], [graded(problem, *[1.0] * (WINDOW // 4))])
    curriculum.prompts(4)
    found = curriculum.metrics()
    assert found["success/chain:steps=1"] == 0.25
    assert sum(found[f"prompts/{name}"] for name in NAMES) == 4
    assert "success/chain:steps=2" not in found


def test_a_curriculum_goes_on_with_the_same_problems() -> None:
    task = open_task("mix:addition:digits=1 + chain:steps=1,modulus=3")  # of both there are few: they begin again
    whole, begun = (Curriculum("0.3-0.6", task, seed=4) for _ in range(2))

    def step(curriculum: Curriculum) -> list[str]:
        problems = curriculum.prompts(40)
        curriculum.observe(problems, [graded(each, float(len(each.answer) == 1)) for each in problems])
        return [each.id for each in problems]

    steps = [step(whole) for _ in range(6)]
    assert [step(begun) for _ in range(3)] == steps[:3]
    resumed = Curriculum("0.3-0.6", task, seed=4)
    resumed.restore(begun.state())
    assert [step(resumed) for _ in range(3)] == steps[3:]
    assert resumed.metrics() == whole.metrics()
    everything = [name for names in steps for name in names]
    assert len(set(everything)) < len(everything) == 240


@pytest.mark.parametrize("text", ["0.1", "0.9-0.1", "-0.1-0.5", "a-b", "0-1.1", "nan-1", "learning"])
def test_a_rule_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"it must be bounds of success like 0\.1-0\.9, or learnability"):
        rule(text)
    for recipe in (grpo, star):
        with pytest.raises(ValueError, match="curriculum is"):
            recipe.Config(model="tiny", curriculum=text)


def test_a_curriculum_of_nothing_to_choose_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'chain' is no mixture.*mix:chain:steps=2\.\.8"):
        Curriculum("0.1-0.9", open_task("chain"), seed=0)
    (tmp_path / "a.jsonl").write_text('{"question": "One?", "answer": "1"}\n')
    (tmp_path / "b.jsonl").write_text('{"question": "one", "answer": "1"}\n')
    with pytest.raises(ValueError, match=r"b.jsonl has no problem that no other part"):
        Curriculum("0.1-0.9", open_task(f"mix:{tmp_path}/a.jsonl + {tmp_path}/b.jsonl"), seed=0)


def test_prompts_of_a_mixture_that_has_no_new_ones_begin_again() -> None:
    task = open_task("mix:chain:steps=1,modulus=3")
    asked = [[problem.id for problem in prompts(task, 10, number, 0)] for number in range(9)]
    assert all(len(each) == 10 for each in asked)
    flat = [name for each in asked for name in each]
    assert len(set(flat)) < 45
    assert set(Counter(flat).values()) <= {90 // len(set(flat)), 90 // len(set(flat)) + 1}


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small checkpoint to reinforce."""
    folder = tmp_path_factory.mktemp("model") / "thinker"
    model, tokenizer = build(TinyConfig(layers=1, width=32, context=64))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def lottery(spec: str, **columns: str) -> Task:
    """The task, with rewards that differ even between the thoughts of an untrained model."""

    def grade(problem: Problem, trace: Trace) -> Verdict:
        return Verdict(float(sum(trace.steps[-1].tokens) % (problem.meta["part"] + 1) == 0))

    return replace(open_task(spec, **columns), grade=grade)


def course(folder: Path) -> list[dict[str, Any]]:
    """What was logged, less the clock."""
    return [{k: v for k, v in row.items() if k != "time" and "seconds" not in k} for row in read(folder)]


@pytest.mark.parametrize("killed_after", [1, 2, 3, 4])
def test_grpo_with_a_curriculum_goes_on_to_the_bit(
    thinker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    """Two optimizer steps on each rollout, so that every other place lies in the middle of one."""
    monkeypatch.setattr(grpo, "open_task", lottery)
    asked = grpo.Config(
        model=thinker, problems=MIX, curriculum="0.05-0.95", steps=6, prompts=6, group=4, updates=2, lr=1e-3,
        max_tokens=10, eval_problems=0, save_every=1, dtype="fp32", out=str(tmp_path / "whole"),
    )  # fmt: skip
    whole = grpo.main(asked)
    save = checkpoint.save

    def dying(run: Path, step: int, *args: Any, **options: Any) -> Path:
        found = save(run, step, *args, **options)
        if step == killed_after:
            raise Killed
        return found

    monkeypatch.setattr(checkpoint, "save", dying)
    part = replace(asked, out=str(tmp_path / "part"))
    with pytest.raises(Killed):
        grpo.main(part)
    monkeypatch.setattr(checkpoint, "save", save)
    resumed = grpo.main(part, tmp_path / "part")
    assert course(whole) == course(resumed)
    ours, theirs = (load_file(next(f.glob("checkpoints/*6/model.safetensors"))) for f in (whole, resumed))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    rows = course(whole)
    assert {f"{what}/{name}" for what in ("prompts", "success") for name in NAMES} <= set(rows[-1])
    assert rows[-1][f"success/{NAMES[0]}"] == 1.0  # every number is a multiple of 1
    last = sum(row[f"prompts/{NAMES[0]}"] for row in rows[2:])
    assert last < sum(row["prompts/chain:steps=2"] + row[f"prompts/{NAMES[2]}"] for row in rows[2:]) / 2


def test_grpo_ends_with_the_step_that_passes_its_tokens(
    thinker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo, "open_task", lottery)
    asked = grpo.Config(
        model=thinker, problems=MIX, steps=6, prompts=2, group=4, lr=1e-3, max_tokens=10, eval_problems=4,
        eval_samples=1, save_every=5, dtype="fp32", out=str(tmp_path / "all"),
    )  # fmt: skip
    rows = course(grpo.main(asked))
    assert len(rows) == 6
    enough = replace(asked, tokens=int(rows[2]["tokens"]), out=str(tmp_path / "part"))
    assert course(grpo.main(enough)) == rows[:3]
    assert checkpoint.latest(tmp_path / "part") == tmp_path / "part" / "checkpoints" / "step-000003"
    grpo.main(enough, tmp_path / "part")
    assert course(tmp_path / "part") == rows[:3]
    after = load_report(tmp_path / "part").stages[1]
    assert after.training_tokens + after.sampled_tokens <= enough.tokens
