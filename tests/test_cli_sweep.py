"""`forethought sweep` and `forethought allocate`: measured, stopped, gone on with, chosen from, refused."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli, Said, adder, command_line, scripted

from forethought.cli import evaluate, model
from forethought.engines.scripted import Reply
from forethought.scaling import report
from forethought.scaling.stages import load_report
from forethought.scaling.sweep import read
from forethought.search.allocate import load
from forethought.store import open_store
from forethought.types import Messages, Sampling, Step


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`forethought` with these words, in a folder of its own."""
    return command_line(capsys, monkeypatch, tmp_path)


@pytest.fixture
def pageless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the page, whose pictures take a second: `test_sweep_measures_keeps_and_reports` has it."""
    monkeypatch.setattr(report, "write_report", lambda path, record: path)


def swept(cli: Cli, *options: object) -> Said:
    return cli(
        "sweep", "--problems", "sums:terms=2", "--limit", 6, "--k", 8, "--max-tokens", 64, "--grid", "60,240",
        "--search", "majority,best_of_n,revise", "--verify", "confidence", "--seeds", 2, "--concurrency", 1, *options,
    )  # fmt: skip


def kept(run: str) -> list[dict[str, Any]]:
    return [{**row, "seconds": 0} for row in read(Path(run, "records.jsonl"))]


def test_sweep_measures_keeps_and_reports(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, adder)
    said = swept(cli, "--out", "run")
    assert said.status == 0
    assert "6 problems × 8 thoughts × up to 64 tokens: at most 3,072 to draw; 24 searches: at most 3,600" in said.err
    assert re.search(r"^majority +240 +\d+\.\d \[", said.out, re.MULTILINE)
    assert said.out.splitlines()[-1] == "run/report.html"

    table = json.loads(Path("run/sweep.json").read_text())["rows"]
    assert [(row["strategy"], row["budget"]) for row in table] == [
        (name, budget) for name in ("majority", "best-of-n", "revise") for budget in (60, 240)
    ]
    assert all(row["accuracy"]["n"] == 6 for row in table)
    records = kept("run")
    assert len(records) == 2 * 2 * 6
    banked = sum(len(trace.text) for trace in open_store("run/store").traces(run="bank"))
    assert sum(row["tokens"] for row in records) == engine.tokens - banked
    assert len(list(open_store("run/store").traces(run="revise@60"))) == 12
    page = Path("run/report.html").read_text()
    assert "Accuracy against tokens, every search" in page
    assert load_report("run").command.startswith("forethought sweep --problems sums:terms=2 --limit 6 --k 8")
    again = cli("report", "run")
    assert (again.status, Path("run/report.html").read_text()) == (0, page)


@pytest.mark.usefixtures("pageless")
def test_a_sweeps_thoughts_may_call_tools(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def calling(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        written = "".join(step.text for step in prefix)
        sums = messages[-1]["content"].partition("=")[0].strip()
        given = re.search(r"<output>(-?\d+)</output>", written)
        return f"</think>\\boxed{{{given[1]}}}" if given else f"<think><calc>{sums}</calc>"

    scripted(monkeypatch, calling)
    said = swept(cli, "--tools", "calculator", "--search", "majority,revise", "--out", "run")
    assert said.status == 0
    traces = list(open_store("run/store").traces(run="bank"))
    assert len(traces) == 6 * 8
    assert {tuple(step.action for step in trace.steps)[:2] for trace in traces} == {("tool", "observe")}
    assert all(trace.reward == 1 for trace in traces)
    assert all(row["right"] for row in kept("run"))
    assert "no tool 'abacus'" in swept(cli, "--tools", "abacus", "--out", "other").error
    assert not Path("other").exists()


@pytest.mark.usefixtures("pageless")
@pytest.mark.parametrize("call", [21, 60])
def test_a_sweep_that_was_stopped_goes_on(cli: Cli, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Ctrl-C in the bank or among the searches, then `--resume`: the same numbers, and nothing drawn twice."""
    whole = scripted(monkeypatch, adder)
    swept(cli, "--out", "whole")

    def stopping(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, number: int) -> Reply:
        if number == call:
            signal.raise_signal(signal.SIGINT)
        return adder(messages, prefix, sampling, number)

    first = scripted(monkeypatch, stopping)
    said = swept(cli, "--out", "run")
    assert said.status == 130
    assert said.err.endswith("stopped; go on with: forethought sweep --resume run\n")

    second = scripted(monkeypatch, adder)
    assert cli("sweep", "--resume", "run").status == 0
    assert second.calls < whole.calls
    assert first.calls + second.calls - whole.calls <= 3 * 8  # what was under way
    assert kept("run") == kept("whole")
    rows = [json.loads(Path(run, "sweep.json").read_text())["rows"] for run in ("run", "whole")]
    assert [{**row, "seconds": 0} for row in rows[0]] == [{**row, "seconds": 0} for row in rows[1]]

    monkeypatch.setattr(model, "open_engine", lambda name, **_: pytest.fail("there is nothing left to draw"))
    said = cli("sweep", "--resume", "run")
    assert said.status == 0
    assert "0 problems × 8 thoughts × up to 64 tokens: at most 0 to draw; 0 searches: at most 0" in said.err


@pytest.mark.usefixtures("pageless")
def test_an_engine_that_is_gone_stops_the_sweep_and_its_problems_are_drawn_again(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "FAILURES", 2)
    for limit in (20, 60):
        scripted(monkeypatch, lambda *asked, most=limit: OSError("gone") if asked[-1] >= most else adder(*asked))
        run = f"run-{limit}"
        error = swept(cli, "--out", run).error
        assert f"failed on 2 problems in a row: OSError: gone; go on with: forethought sweep --resume {run}" in error
        scripted(monkeypatch, adder)
        assert cli("sweep", "--resume", run).status == 0
        assert len(read(Path(run, "bank.jsonl"))) == 6
        assert all(row["right"] is not None for row in kept(run))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--search", "majority,mtcs"], "there is no search 'mtcs'; did you mean 'mcts'"),
        (["--search", "beam", "--verify", ""], "beam goes by a verifier's scores"),
        (["--search", "weighted", "--verify", ""], "weighted goes by a verifier's scores"),
        (["--verify", "confidense"], "did you mean 'confidence'"),
        (["--grid", "60,many"], "grid is '60,many'"),
        (["--grid", "0,60"], "grid is '0,60'"),
        (["--seeds", "0"], "seeds is 0"),
        (["--k", "0"], "k is 0"),
        (["--temperature", "0"], "temperature 0 draws the same"),
        (["--problems", "summs"], "did you mean 'sums'"),
    ],
)
def test_what_sweep_refuses(cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], named: str) -> None:
    engine = scripted(monkeypatch, adder)
    assert named in swept(cli, *options, "--out", "run").error
    assert engine.calls == 0


@pytest.mark.usefixtures("pageless")
def test_a_sweep_is_allocated_and_solved_by(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, adder)
    swept(cli, "--out", "run")
    calls = engine.calls
    said = cli("allocate", "run", "--probe", 2, "--bins", 2, "--out", "best.json")
    assert said.status == 0
    assert engine.calls == calls
    assert re.search(r"^ +240 +\d+\.\d \[.*\] ", said.out, re.MULTILINE)
    assert said.out.splitlines()[-1] == "best.json"
    plan = load("best.json")
    assert (plan.probe, plan.measure, plan.verify) == (2, "agreement", "confidence")
    assert plan.budgets == (240,)
    assert "first thoughts cost more than a budget of 60: left out" in said.err
    assert f"240, hardest first: {plan.choices[0][0].search} " in said.out

    engine = scripted(monkeypatch, lambda *asked: "<think>\n</think>\n\\boxed{4}")
    said = cli("solve", "2+2?", "--think", "auto", "--allocation", "best.json", "--max-tokens", 64)
    assert (said.status, said.out) == (0, "4\n")
    assert "auto, 240 tokens in all" in said.err
    assert 2 <= engine.calls <= 240 // plan.price


@pytest.mark.usefixtures("pageless")
def test_what_allocate_refuses(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, adder)
    swept(cli, "--out", "run", "--search", "majority")
    for options, named in {
        ("--probe", 9): "probe is 9",
        ("--bins", 0): "bins is 0",
        ("--probe", 8): "take fewer, or sweep a larger grid",
    }.items():
        assert named in cli("allocate", "run", *options).error
    assert not Path("run/allocation.json").exists()
    assert "is no run" in cli("allocate", "nowhere").error
