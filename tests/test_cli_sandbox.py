"""`forethought sandbox doctor`: what it says, and its exit status, of sandboxes that hold and that do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Cli, command_line
from jails import needs_jail

from forethought.cli import sandbox as command
from forethought.problems.sandbox import Limits, Sandbox, SandboxUnavailable
from forethought.problems.sandbox.attacks import ATTACKS
from forethought.problems.sandbox.run import Ran


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    return command_line(capsys, monkeypatch, tmp_path)


def leaking(program: str, stdin: bytes, limits: Limits) -> Ran:
    """A sandbox out of which the environment can be read, and nothing else."""
    return Ran("ended", 0, b"escaped: it\n" if "bait['variable']" in program else b"", b"", 0.0)


def test_an_attack_that_gets_through_is_named_and_is_exit_status_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "default", lambda: Sandbox("leaky", leaking, 1))
    said = cli("sandbox", "doctor")
    assert said.status == 1
    assert f"leaky: 1 attack of {len(ATTACKS) + 1} got through" in said.out
    (line,) = [line for line in said.out.splitlines() if line.startswith("environment")]
    assert line.endswith("a secret in the environment")
    said = cli("sandbox", "doctor", "--json")
    report = json.loads(said.out)
    assert (said.status, report["holds"], report["through"]["environment"]) == (
        1,
        False,
        ["a secret in the environment"],
    )
    assert report["through"]["network"] == []


def test_no_sandbox_at_all_is_exit_status_1_and_says_the_fix(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Sandbox:
        raise SandboxUnavailable("apt install bubblewrap")

    monkeypatch.setattr(command, "default", none)
    said = cli("sandbox", "doctor", "--json")
    assert said.status == 1
    assert json.loads(said.out) == {"sandbox": None, "holds": False, "why": "apt install bubblewrap"}


@needs_jail
def test_the_jail_of_this_machine_holds(cli: Cli) -> None:
    said = cli("sandbox", "doctor", "--sandbox", "bwrap-pool")
    assert said.status == 0, said.out
    assert "bwrap-pool: every attack failed" in said.out
    assert "memory and processes of a program together: " in said.out


def test_another_word_is_refused(cli: Cli) -> None:
    assert "there is no sandbox command 'docter'; did you mean 'doctor'?" in cli("sandbox", "docter").error
    assert cli("sandbox").out.startswith("usage: forethought sandbox doctor")
    assert "there is no sandbox 'x'" in cli("sandbox", "doctor", "--sandbox", "x").error
