"""What the labs on chains of modular arithmetic share: problems of mixed lengths, policies taught in stages, pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from forethought.labs.runs import check, finish
from forethought.problems import open_task
from forethought.problems.task import Split, Task
from forethought.recipes import sft
from forethought.scaling.plot import svg
from forethought.scaling.stages import Chart
from forethought.thought.marks import thought_of
from forethought.types import Problem

MAX_TOKENS = 96
"""Of a thought; one of 5 steps has 70."""


def tasks(levels: Sequence[int], modulus: int) -> list[Task]:
    """Chains of each of these numbers of steps; they are graded and labelled alike."""
    return [open_task(f"chain:steps={level},modulus={modulus}") for level in levels]


def mixed(levels: Sequence[int], modulus: int, split: Split, count: int, seed: int) -> list[Problem]:
    """`count` problems, no two alike, the levels by turns."""
    found = []
    for task in tasks(levels, modulus):
        alone = {problem.messages[0]["content"]: problem for problem in task.load(split, count=count, seed=seed)}
        found.append(list(alone.values()))
    turns = [problem for row in zip(*found, strict=False) for problem in row]
    if len(turns) < count:
        raise ValueError(f"levels {tuple(levels)} modulo {modulus} have {len(turns)} {split} problems; ask for no more")
    return turns[:count]


def taught(
    out: Path, seed: int, *, levels: Sequence[int], modulus: int, stages: int, steps: int, examples: int
) -> list[Path]:
    """The runs of a cold start in `stages` of `steps` optimizer steps, each from the one before; what is there already
    stays.

    Raises ValueError, before anything runs, where a folder holds a run with other settings.
    """
    folder = out / f"problems-{seed}"
    runs = [
        sft.Config(
            model=str(out / f"taught-{seed}-{stage - 1}") if stage else "tiny",
            problems=f"gsm8k:{folder}",
            examples=examples,
            batch=16,
            steps=steps,
            lr=3e-3,
            warmup=10,
            layers=2,
            width=64,
            max_tokens=MAX_TOKENS,
            eval_problems=0,
            seed=seed,
            out=str(out / f"taught-{seed}-{stage}"),
        )
        for stage in range(stages)
    ]
    check(runs)
    if any(not (Path(run.out) / "done").exists() for run in runs):
        _write(folder, mixed(levels, modulus, "train", examples, seed), tasks(levels, modulus))
    return [finish(run) for run in runs]


def _write(folder: Path, problems: Sequence[Problem], of: Sequence[Task]) -> None:
    """Worked examples of several tasks as one file, in GSM8K's form."""
    worked = {str(task.name): task.worked for task in of}
    rows = []
    for problem in problems:
        text = worked[problem.id.partition("/")[0]]
        assert text is not None
        answer = f"{thought_of(text(problem))}\n#### {problem.answer}"
        rows.append(json.dumps({"question": problem.messages[0]["content"], "answer": answer}) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):  # nothing is measured on the second one, but the task has two
        (folder / f"{split}.jsonl").write_text("".join(rows), encoding="utf-8")


def pictures(path: Path, charts: Sequence[Chart]) -> Path:
    """A page of pictures, with the words below each."""
    shown = "".join(f"<h2>{escape(chart.title)}</h2>{svg(chart)}<p>{escape(chart.caption)}</p>" for chart in charts)
    style = "<style>body{max-width:46rem;margin:2rem auto;font-family:system-ui}:root{color-scheme:light dark}</style>"
    path.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8">{style}{shown}</html>\n', encoding="utf-8")
    return path
