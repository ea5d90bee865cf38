"""STaR on a small tiny model: what it keeps, tries again and is reminded of; and the lab that puts it to the test."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forethought.engines.local.tiny import TinyConfig
from forethought.labs import star_addition
from forethought.problems import Task, open_task
from forethought.recipes import star
from forethought.recipes.run import write_config
from forethought.recipes.student import Student
from forethought.scaling.measure import Pool, Sample
from forethought.scaling.stages import Report, Stage, load_report, save_report
from forethought.store import open_store
from forethought.train import checkpoint
from forethought.train.losses import nll
from forethought.train.metrics import read
from forethought.types import Problem, Trace, Verdict

SMALL: dict[str, Any] = {"layers": 1, "width": 32}
MIX = "mix:addition:digits=1..2"


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def course(folder: Path) -> list[dict[str, Any]]:
    """What was logged, less the clock."""
    return [{k: v for k, v in row.items() if k != "time" and "seconds" not in k} for row in read(folder)]


@pytest.fixture(scope="module")
def beginner(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base that writes thoughts in our form and ends them, right or wrong."""
    asked = star.Config(
        problems="addition:digits=1-2", iterations=0, known=1, easy=12, shown=6, hinted=6, cold_steps=80, cold_lr=3e-3,
        batch=8, eval_problems=0, out=str(tmp_path_factory.mktemp("star") / "base"), layers=2, width=64,
    )  # fmt: skip
    return str(star.main(asked) / "base")


@pytest.mark.parametrize(
    ("restart", "problems", "curriculum"),
    [(False, "addition:digits=1-2", ""), (True, "addition:digits=1-2", ""), (False, MIX, "0.1-0.4")],
)
def test_star_keeps_what_was_right_tries_again_what_was_not_and_goes_on_where_it_stopped(
    beginner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: bool, problems: str, curriculum: str
) -> None:
    asked = star.Config(
        model=beginner, problems=problems, curriculum=curriculum, iterations=3, fresh=12, tries=2, known=1, shown=6,
        hinted=6, cold_steps=0, restart=restart, steps=4, lr=3e-3, batch=8, eval_problems=8, max_tokens=70,
        rationalise=True, out=str(tmp_path / "whole"),
    )  # fmt: skip
    monkeypatch.setattr(star, "open_task", _half_right)
    whole = star.main(asked)
    rows = course(whole)
    assert len(rows) == 3
    assert all(row["kept"] > 0 for row in rows)
    assert sum(row["rationales"] for row in rows) > 0
    if curriculum:
        assert all({f"prompts/addition:digits={n}", f"success/addition:digits={n}"} <= set(rows[-1]) for n in (1, 2))
    plain, asked_again = defaultdict(list), set()
    for trace in open_store(whole / "store").traces():
        if "/train/" in trace.problem_id and "(" in trace.messages[-1]["content"]:
            asked_again.add(trace.problem_id)
        elif "/train/" in trace.problem_id:
            plain[trace.problem_id].append(trace.reward)
    assert len(plain) == 3 * 12
    assert all(rewards in ([1], [0, 1], [0, 0]) for rewards in plain.values())  # what was right is not tried again
    assert asked_again == {problem for problem, rewards in plain.items() if rewards == [0, 0]}
    assert [stage.name for stage in load_report(whole).stages] == ["base", *(f"iteration {n}" for n in (1, 2, 3))]
    save = checkpoint.save

    def dying(run: Path, step: int, *args: Any, **options: Any) -> Path:
        found = save(run, step, *args, **options)
        if step == 2:
            raise Killed
        return found

    monkeypatch.setattr(checkpoint, "save", dying)
    part = replace(asked, out=str(tmp_path / "part"))
    with pytest.raises(Killed):
        star.main(part)
    monkeypatch.setattr(checkpoint, "save", save)
    star.main(part, tmp_path / "part")
    assert course(whole) == course(tmp_path / "part")
    ours, theirs = (load_file(next(f.glob("checkpoints/*3/model.safetensors"))) for f in (whole, tmp_path / "part"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def _half_right(spec: str, **columns: str) -> Task:
    """The task with a grade that a barely trained model passes now and then, with the hint and without."""

    def grade(problem: Problem, trace: Trace) -> Verdict:
        return Verdict(float(sum(trace.steps[-1].tokens) % 2))

    return replace(open_task(spec, **columns), grade=grade, labels=None)


def test_star_shows_hints_with_the_few_examples_of_the_harder_levels_only() -> None:
    student = Student.load("tiny", tiny=TinyConfig(**SMALL))
    asked = star.Config(known=1, easy=32, shown=1, hinted=3, **SMALL)
    cold, reminders = (
        ["".join(student.tokenizer.convert_ids_to_tokens(datum.tokens)) for datum in data]
        for data in star.lessons(student, open_task("addition:digits=1-2"), asked)
    )
    (shown, *with_hint) = reminders
    assert re.search(r">\d\d \+ \d\d = \?<", shown)
    assert len(set(with_hint)) == 3
    assert all(re.search(r">\d\d \+ \d\d = \? \((\d+)\)<.*boxed{\1}", text, re.DOTALL) for text in with_hint)
    easy = cold[: -2 - 3]
    assert all(re.search(r">\d \+ \d = \?<", text) for text in easy)
    assert len(easy) == len(set(easy)) == 32
    assert cold[len(easy) :] == [shown, shown, *with_hint]


@pytest.mark.parametrize(("solved", "steps"), [(0.0, 8), (1.1, 8 + 4 * 2)])
def test_the_cold_start_of_star_goes_on_while_the_known_levels_are_unsolved(
    monkeypatch: pytest.MonkeyPatch, solved: float, steps: int
) -> None:
    monkeypatch.setattr(star, "SOLVED", solved)
    monkeypatch.setattr(star, "PROBES", 4)
    taken: list[Any] = []

    def counted(*batch: Any) -> Any:
        taken.append(batch)
        return nll(*batch)

    monkeypatch.setattr(star, "nll", counted)
    student = Student.load("tiny", tiny=TinyConfig(**SMALL))
    asked = star.Config(known=1, easy=4, shown=2, hinted=2, cold_steps=8, batch=2, max_tokens=5, **SMALL)
    task = open_task("addition:digits=1-2")
    star.cold_start(student, task, asked, star.lessons(student, task, asked)[0])
    assert len(taken) == steps


def test_the_lab_refuses_a_run_with_other_settings_before_it_runs_anything(tmp_path: Path) -> None:
    asked = star_addition.Config(seeds=(0, 1), out=str(tmp_path))
    last = star_addition.plan(asked)[-1]
    write_config(Path(last.out), "sft", replace(last, steps=7), resume=False)
    (Path(last.out) / "done").touch()
    with pytest.raises(ValueError, match=r"direct-1 was begun with other settings: steps was 7 and is"):
        star_addition.main(asked)
    assert [folder.name for folder in tmp_path.iterdir()] == ["direct-1"]


def test_the_lab_prints_where_each_length_crosses_half(tmp_path: Path) -> None:
    def stage(name: str, *right: float) -> Stage:
        pools = (Pool(str(at), (Sample(score),), level=str(1 + at // 2)) for at, score in enumerate(right))
        return Stage(name, tuple(pools))

    stages = (stage("base", 1, 0, 0, 0), stage("iteration 1", 1, 1, 0, 0), stage("iteration 2", 1, 1, 1, 0))
    save_report(tmp_path, Report("addition", "tiny", stages))
    rows: list[dict[str, Any]] = [{"step": 1, "sound_thoughts": 1.0}, {"step": 2, "sound_rationales": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    head, *lines = star_addition.table(tmp_path).splitlines()
    assert head.split()[1:] == ["0", "1", "2"]
    assert [" ".join(line.split()) for line in lines] == [
        "1 digits 50 100 100 50 % at 0",
        "2 digits 0 0 50 50 % at 2",
        "all 25 50 75 50 % at 1",
        "sound_thoughts 100 - % of the right ones have only right lines",
        "sound_rationales - 50 % of the right ones have only right lines",
    ]


def test_star_without_a_right_thought_says_what_to_change(tmp_path: Path) -> None:
    asked = star.Config(
        problems="addition:digits=3", iterations=1, fresh=2, easy=2, shown=0, cold_steps=1, eval_problems=0,
        max_tokens=5, out=str(tmp_path / "run"), **SMALL,
    )  # fmt: skip
    with pytest.raises(ValueError, match="none of 6 thoughts of iteration 1 was right"):
        star.main(asked)
