"""`forethought overlap TRAINING EVALUATION`: was the test in the training data?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from forethought.cli.terminal import rows, say, tell
from forethought.problems import files
from forethought.problems.overlap import Named, overlaps, questions_of, strings
from forethought.store import find_store


@dataclass(frozen=True)
class Options:
    """What `forethought overlap` is asked."""

    training: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TRAINING")]
    """A .jsonl, .json or .parquet file, every text of whose rows counts, or the folder of a store or a run."""
    evaluation: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="EVALUATION")]
    """A file of questions."""
    question: str = "question"
    """Its column."""
    n: int = 13
    """Words of a run that count as the same text."""


def overlap(words: list[str]) -> int:
    """Print which questions share a run of words with which training text; 1 where any does, else 0."""
    what = "Tell which questions of EVALUATION have n words in a row that TRAINING has too; status 1 where any has."
    options = tyro.cli(Options, prog="forethought overlap", description=what, args=words)
    questions = list(questions_of(options.evaluation, options.question))
    if not questions:
        raise ValueError(f"{options.evaluation} holds no row")
    found = overlaps(questions, _texts(options.training), n=options.n)
    if found:
        head = ("question", "training", "share", "words")
        say(rows(head, [(one.question, one.source, f"{one.share:.0%}", one.words) for one in found], "<<>"))
    tell(f"{len(found)} of {len(questions)} questions share {options.n} words in a row, or all of theirs")
    return 1 if found else 0


def _texts(path: Path) -> Iterator[Named]:
    if path.is_file():
        for where, row in files.rows(path):
            yield where, "\n".join(strings(row))
        return
    for trace in find_store(path).traces():
        yield trace.problem_id, "\n".join([*(message["content"] for message in trace.messages), trace.text])
