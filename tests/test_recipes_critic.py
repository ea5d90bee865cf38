"""The critic recipe: errors put in at known places, critiques that say them, its place after a kill, what it leaves."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forethought.engines.local.tiny import TinyConfig, build
from forethought.problems import open_task
from forethought.recipes import critic, verifier
from forethought.recipes.student import Student
from forethought.store import open_store
from forethought.train import checkpoint
from forethought.train.metrics import read
from forethought.verify.critic import MARK, NONE, highlights

TASK = open_task("chain:steps=2,modulus=5")
WORKED = "<think>\nb=3*4=12=2\nc=2+1=3=3\n</think>\n\\boxed{3}"
SMALL: dict[str, Any] = {
    "problems": TASK.name, "examples": 12, "drawn": 2, "steps": 3, "batch": 4, "warmup": 1, "save_every": 1,
    "asked": "Errors?", "eval_problems": 4, "eval_samples": 2, "max_tokens": 12, "dtype": "fp32",
}  # fmt: skip


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small checkpoint to begin from."""
    folder = tmp_path_factory.mktemp("model") / "policy"
    model, tokenizer = build(TinyConfig(layers=1, width=32, context=256))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def config(policy: str, out: Path, **options: Any) -> critic.Config:
    return critic.Config(model=policy, out=str(out), **{**SMALL, **options})


@pytest.mark.parametrize("bugs", [0, 1, 2, 9])
def test_so_many_lines_have_another_digit(bugs: int) -> None:
    for seed in range(20):
        changed = critic.tamper(WORKED, bugs, random.Random(seed))
        pairs = list(zip(WORKED.splitlines(), changed.splitlines(), strict=True))
        odd = [(one, two) for one, two in pairs if one != two]
        assert len(odd) == min(bugs, 3)  # the marks' lines hold no digit
        for one, two in odd:
            assert [c.isdigit() for c in one] == [c.isdigit() for c in two]
            assert sum(a != b for a, b in zip(one, two, strict=True)) == 1


def test_the_labels_of_a_tampered_solution_are_its_bugs() -> None:
    for problem in TASK.load("train", count=20):
        assert TASK.worked is not None
        text = TASK.worked(problem)
        changed = critic.tamper(text, 2, random.Random(problem.id))
        odd = [one != two for one, two in zip(text.splitlines(), changed.splitlines(), strict=True)]
        labels = critic.truth(problem, critic.lines(changed), TASK)
        assert [label == 0 for label in labels] == odd


def test_a_lesson_quotes_each_error_and_says_what_should_stand_there(policy: str, tmp_path: Path) -> None:
    student = Student.load(policy)
    (problem,) = TASK.load("train", count=1)
    assert TASK.worked is not None
    right = TASK.worked(problem)
    wrong = right.replace("boxed{", "boxed{9")
    solutions = [(problem, critic.lines(text)) for text in (right, wrong, f"{right}\n7=7")]
    data = critic.lessons(solutions, TASK, config(policy, tmp_path), student)
    told = [
        student.engine.decode([token for token, target in zip(datum.tokens, datum.mask, strict=True) if target])
        for datum in data
    ]
    box = right.splitlines()[-1]
    assert told == [
        NONE,
        f"{MARK}\\{MARK} Should be {box}",
        f"{MARK}7{MARK} Should not be there.",
    ]
    assert [one.step for one in highlights(told[1], solutions[1][1])] == [len(right.splitlines()) - 1]


@pytest.mark.parametrize(
    ("critique", "counts", "quality"),
    [
        (NONE, (0, 2, 0), 0.0),
        (f"{MARK}b=3*4=12=3{MARK} no", (1, 2, 1), 1 / 2),
        (f"{MARK}b=3*4=12=3{MARK} no\n\n{MARK}\\boxed{{4}}{MARK}", (2, 2, 2), 1.0),
        (f"{MARK}b=3*4=12=3{MARK} {MARK}c=2+1=3=3{MARK}", (1, 2, 2), 1 / 3),
        (f"{MARK}b=3*4=12=3{MARK} {MARK}b=3*4=12=3{MARK}", (1, 2, 2), 1 / 3),
        (f"{MARK}b=3*4=12=3{MARK} {MARK}z=9{MARK}", (1, 2, 2), 1 / 3),
    ],
)
def test_misses_inventions_and_repeats_cost_a_critique(
    critique: str, counts: tuple[int, int, int], quality: float
) -> None:
    steps = critic.lines(WORKED.replace("=2\n", "=3\n").replace("{3}", "{4}"))
    labels = (None, 0.0, 1.0, None, 0.0)
    assert critic.counts(critique, steps, labels) == counts
    assert critic.quality(critique, steps, labels) == pytest.approx(quality)


def test_silence_is_worth_most_where_nothing_is_wrong() -> None:
    steps, labels = critic.lines(WORKED), (None, 1.0, 1.0, None, 1.0)
    assert critic.quality(NONE, steps, labels) == 1.0
    assert critic.quality(f"{MARK}c=2+1=3=3{MARK}", steps, labels) == 0.0


def test_a_killed_run_goes_on_to_the_bit_and_leaves_graded_critiques(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = critic.main(config(policy, tmp_path / "whole"))
    save = checkpoint.save

    def dying(run: Path, step: int, *args: Any, **options: Any) -> Path:
        found = save(run, step, *args, **options)
        if step == 2:
            raise Killed
        return found

    monkeypatch.setattr(checkpoint, "save", dying)
    part = config(policy, tmp_path / "part")
    with pytest.raises(Killed):
        critic.main(part)
    monkeypatch.setattr(checkpoint, "save", save)
    critic.main(part, tmp_path / "part")
    ours, theirs = (load_file(next(f.glob("checkpoints/*3/model.safetensors"))) for f in (whole, tmp_path / "part"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    losses = [[row["loss"] for row in read(folder)] for folder in (whole, tmp_path / "part")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3
    traces = list(open_store(whole / "store").traces())
    assert [trace.text for trace in traces] == [trace.text for trace in open_store(tmp_path / "part/store").traces()]
    assert len(traces) == 4 * 2
    assert [len(trace.steps) for trace in traces] == [1, 2] * 4
    assert all(trace.steps[0].text == MARK and not trace.steps[0].sampled for trace in traces[1::2])
    assert all(trace.reward is not None for trace in traces)
    assert all(trace.messages[-1]["content"].endswith("\n\nErrors?") for trace in traces)


def test_a_reward_model_learns_from_its_store(policy: str, tmp_path: Path) -> None:
    run = critic.main(config(policy, tmp_path / "run"))
    with open_store(run / "store").writer("graded") as writer:  # critiques that differ in worth, whatever was drawn
        for at, trace in enumerate(open_store(run / "store").traces()):
            verdict = replace(trace.verdicts["grade"], score=float(at % 2))
            writer.append(replace(trace, verdicts={"grade": verdict}))
    asked = verifier.Config(
        model=str(run), kind="bradley_terry", store=str(run), run="graded", steps=2, batch=2, eval_problems=0,
        dtype="fp32", out=str(tmp_path / "reward"),
    )  # fmt: skip
    assert len(read(verifier.main(asked))) == 2


def test_what_is_asked_wrongly_is_refused_before_anything_is_learned(policy: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="asked is empty"):
        config(policy, tmp_path, asked=" ")
    with pytest.raises(ValueError, match="bugs is -1"):
        config(policy, tmp_path, bugs=-1)
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"and its critique take 3.. tokens, and .* holds 256"):
        critic.main(config(policy, out, asked="Errors? " * 25, drawn=0))
    with pytest.raises(ValueError, match="countdown has no worked examples whose steps are known"):
        critic.main(config(policy, out, problems="countdown"))
    assert not out.exists()
