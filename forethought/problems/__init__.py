"""Problems whose answers can be checked: one module per task, opened by a spec.

    task = open_task("addition:digits=1-5")
    problems = task.load("train", count=100, seed=0)
    verdict = task.grade(problems[0], trace)

A spec is a task's name with its options (`sums:terms=3,most=12`, `humaneval:path=FILE`), `gsm8k:` and a path, or the
path of a `.jsonl`, `.json` or `.parquet` file. docs/problems.md has the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from forethought.problems import (
    addition,
    chain,
    code,
    countdown,
    files,
    gym,
    instructions,
    letters,
    mix,
    products,
    sums,
)
from forethought.problems.generate import Option
from forethought.problems.grading import final_answer, grade, grade_answer
from forethought.problems.proofs import task as proofs
from forethought.problems.task import Load, Split, Task

__all__ = ["GENERATORS", "Load", "Split", "Task", "final_answer", "grade", "grade_answer", "open_task"]

GENERATORS = {
    "addition": addition,
    "chain": chain,
    "countdown": countdown,
    "letters": letters,
    "products": products,
    "sums": sums,
}
"""Name to module. Each has `OPTIONS` (option to (parser, what it may be)) and `task(spec, **options)`."""


PROGRAMS = ("humaneval", "mbpp", "code")
"""Tasks whose answers are programs: `code.task`."""


def open_task(spec: str, *, question: str = "question", answer: str = "answer") -> Task:
    """The task a spec names; `question` and `answer` are the columns of a file, and mean nothing to a generator.

    Raises `ValueError` for an unknown name (with the nearest), an unknown option or value (with those allowed), and a
    path that is no file. A file's content is read, and refused, by `load`.
    """
    name, _, rest = spec.partition(":")
    if name == "gsm8k":
        if not rest:
            raise ValueError(
                "gsm8k needs the path of its files, e.g. gsm8k:data/gsm8k (a folder with train.jsonl and test.jsonl) "
                "or gsm8k:data/gsm8k/test.jsonl"
            )
        return files.task(spec, Path(rest), question=question, answer=answer)
    if name in GENERATORS:
        opened: Task = GENERATORS[name].task(spec, **_options(name, rest, GENERATORS[name].OPTIONS))
        return opened
    if name in PROGRAMS:
        return code.task(spec, **_options(name, rest, code.OPTIONS))  # type: ignore[arg-type]  # parsed by OPTIONS
    if name == "gym":
        chosen, _, others = rest.partition(",")
        return gym.task(spec, chosen, **_options(name, others, gym.OPTIONS))  # type: ignore[arg-type]  # by OPTIONS
    if name == "mix":
        sources, unlike = mix.sources(rest, question, answer)
        return mix.task(spec, [(source.weight, _part(source)) for source in sources], unlike)
    if name == "instructions":
        return instructions.task(spec, **_options(name, rest, instructions.OPTIONS))  # type: ignore[arg-type]  # likewise
    if name == "proofs":
        return proofs.task(spec, **_options(name, rest, proofs.OPTIONS))  # type: ignore[arg-type]  # parsed by OPTIONS
    if Path(spec).suffix.lower() in files.SUFFIXES:
        return files.task(spec, Path(spec), question=question, answer=answer)
    known = [*GENERATORS, "gsm8k", *PROGRAMS, "proofs", "gym", "instructions", "mix"]
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"there is no task {spec!r}; {meant}tasks are {', '.join(known)} "
        f"(gsm8k:PATH, {PROGRAMS[0]}:path=PATH, proofs:path=PATH, gym:NAME, mix:2*TASK + TASK, mix:path=PATH), "
        f"or the path of a {', '.join(files.SUFFIXES)} file"
    )


def _part(source: mix.Source) -> Task:
    try:
        return open_task(source.spec, question=source.question, answer=source.answer)
    except ValueError as error:
        raise ValueError(f"{source.where}: {error}" if source.where else str(error)) from error


def _options(name: str, text: str, allowed: Mapping[str, Option]) -> dict[str, object]:
    """`terms=3,most=12` as the keyword arguments of that module's `task`."""
    options: dict[str, object] = {}
    for item in text.split(",") if text else []:
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in allowed:
            names = ", ".join(f"{key}={means}" for key, (_, means) in allowed.items())
            raise ValueError(f"{name} has no option {key!r}; it has {names}")
        parse, means = allowed[key]
        try:
            options[key] = parse(value)
        except ValueError as error:
            given = repr(value) if equals else "without a value"
            raise ValueError(f"{name}: option {key} is {given}; it must be {means}") from error
    return options
