"""What the tests of the command line share: running it in process, and a script in the place of a model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forethought.cli import main, model
from forethought.engines.scripted import Reply, Scripted
from forethought.thought.marks import compose
from forethought.types import Messages, Sampling, Step


@dataclass
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """Its one line of error; anything else, a traceback above all, fails."""
        assert self.status == 2
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.err.rstrip().endswith(line)
        assert "Traceback" not in self.err
        return line


Cli = Callable[..., Said]


def command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Cli:
    """`forethought` with these words, in `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FORETHOUGHT_DEBUG", raising=False)

    def run(*words: object) -> Said:
        try:
            status = main([str(word) for word in words])
        except SystemExit as stopped:  # how tyro ends on --help and on a wrong option
            status = int(stopped.code or 0)
        out, err = capsys.readouterr()
        return Said(status, out, err)

    return run


def scripted(monkeypatch: pytest.MonkeyPatch, reply: Any) -> Scripted:
    """Whatever `--model` names, this script answers."""
    engine = Scripted(reply)
    monkeypatch.setattr(model, "open_engine", lambda name, **options: engine)
    return engine


def adder(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
    """Adds up the question's numbers, wrongly for one seed in three."""
    total = sum(map(int, re.findall(r"\d+", messages[-1]["content"].partition("=")[0])))
    return compose("let me see", str(total + (sampling.seed or 0) % 3 // 2))
