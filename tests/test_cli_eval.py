"""`forethought eval`: measured, stopped, gone on with, refused."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from command_line import Cli, Said, adder, command_line, scripted

from forethought import __version__
from forethought.cli import evaluate, model
from forethought.engines.scripted import Reply
from forethought.scaling.stages import load_report
from forethought.store import open_store
from forethought.thought.marks import INSTRUCTION
from forethought.types import Messages, Sampling, Step, user


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`forethought` with these words, in a folder of its own."""
    return command_line(capsys, monkeypatch, tmp_path)


def evaluated(cli: Cli, *options: object) -> Said:
    return cli("eval", "--problems", "sums:terms=2", "--limit", 6, "--k", 4, *options)


def test_eval_measures_keeps_and_reports(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scripted(monkeypatch, adder)
    said = evaluated(cli, "--out", "run")
    assert said.status == 0
    assert "6 problems × 4 × up to 256 tokens: at most 6,144 to draw" in said.err
    assert re.search(r"^ +4 +\d+\.\d \[.*\] +\d+\.\d \[", said.out, re.MULTILINE)
    assert said.out.splitlines()[-1] == "run/report.html"
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    traces = list(open_store("run/store").traces())
    assert len(traces) == 24
    record = load_report("run")
    assert record.ks == (1, 2, 4)
    rewards = [trace.reward for trace in traces]
    assert [s.score for pool in record.stages[0].pools for s in pool.samples] == rewards
    assert {0.0, 1.0} == set(rewards)
    config = json.loads(Path("run/config.json").read_text())
    assert (config["recipe"], config["config"]["k"], config["version"]) == ("eval", 4, __version__)
    assert record.command == "forethought eval --problems sums:terms=2 --limit 6 --k 4 --out run"
    assert all(INSTRUCTION in trace.messages[-1]["content"] for trace in traces)


def test_an_evaluation_that_was_stopped_goes_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle, then `--resume`: the same samples as without a stop, each drawn once."""
    whole = scripted(monkeypatch, adder)
    evaluated(cli, "--out", "whole", "--concurrency", 1)

    def stopping(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        if call == 13:  # in the fourth problem
            signal.raise_signal(signal.SIGINT)
        return adder(messages, prefix, sampling, call)

    scripted(monkeypatch, stopping)
    said = evaluated(cli, "--out", "run", "--concurrency", 1)
    assert said.status == 130
    assert said.err.endswith("stopped; go on with: forethought eval --resume run\n")
    kept = {trace.problem_id for trace in open_store("run/store").traces()}
    assert 0 < len(kept) < 6

    engine = scripted(monkeypatch, adder)
    said = cli("eval", "--resume", "run")
    assert said.status == 0
    assert f"({len(kept)} problems drawn already)" in said.err
    assert engine.calls == whole.calls - 4 * len(kept)
    assert load_report("run").stages[0].pools == load_report("whole").stages[0].pools

    monkeypatch.setattr(model, "open_engine", lambda name, **_: pytest.fail("there is nothing left to draw"))
    assert cli("eval", "--resume=run").status == 0
    assert "Unrecognized options: --k" in cli("eval", "--resume", "run", "--k", 8).err


def test_problems_that_the_engine_failed_on_are_drawn_again(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, lambda *asked: OSError("gone") if asked[-1] >= 8 else adder(*asked))
    said = evaluated(cli, "--out", "run", "--concurrency", 1)
    assert said.status == 0  # two problems of six were drawn, four failed
    assert "error 16" in said.out
    assert "could not judge: 16" in said.out
    engine = scripted(monkeypatch, adder)
    said = cli("eval", "--resume", "run")
    assert engine.calls == 16
    assert "could not judge: 0" in said.out
    assert "error" not in said.out


def test_an_engine_that_is_gone_stops_the_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "FAILURES", 3)
    scripted(monkeypatch, lambda *asked: OSError("gone") if asked[-1] >= 8 else adder(*asked))
    error = evaluated(cli, "--out", "run", "--concurrency", 1).error
    assert "failed on 3 problems in a row: OSError: gone; go on with: forethought eval --resume run" in error


def test_an_evaluation_of_other_problems_is_not_gone_on_with(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripted(monkeypatch, adder)
    file = tmp_path / "p.jsonl"
    file.write_text('{"question": "1 + 2 =", "answer": 3}\n')
    assert cli("eval", "--problems", file, "--out", "run").status == 0
    file.write_text('{"question": "1 + 3 =", "answer": 4}\n')
    assert "p.jsonl/0 is not what it was" in cli("eval", "--resume", "run").error


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"question": "1+1?", "answer": 2}\n{"question": "1+2?"}\n', "p.jsonl:2: there is no column 'answer'"),
        ('{"q": "1+1?", "answer": 2}\n', "there is no column 'question'; it has 'q', 'answer'"),
        ("", "holds no problem"),
        ('{"question": "1+1?", "answer": 2}\n{"question": \n{"question": "3", "answer": 3}\n', "p.jsonl:2: not JSON"),
    ],
)
def test_a_bad_file_of_problems_is_refused_and_leaves_nothing(
    cli: Cli, tmp_path: Path, content: str, named: str
) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    assert named in cli("eval", "--problems", "p.jsonl", "--out", "run").error
    assert not (tmp_path / "run").exists()


def test_columns_of_another_name(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine = scripted(monkeypatch, adder)
    (tmp_path / "p.jsonl").write_text('{"q": "1 + 2 =", "gold": 3}\n')
    said = cli("eval", "--problems", "p.jsonl", "--question", "q", "--answer", "gold", "--instruct", "no")
    assert said.status == 0
    assert engine.asked[0][0] == user("1 + 2 =")
    assert re.fullmatch(r"runs/eval-[\d-]+/report.html", said.out.splitlines()[-1])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--k", "0"], "k is 0"),
        (["--limit", "0"], "count is 0"),
        (["--concurrency", "0"], "concurrency is 0"),
        (["--max-tokens", "0"], "max_tokens is 0"),
        (["--temperature", "0"], "temperature 0 draws the same answer 4 times"),
        (["--out", "file/run"], "the run cannot be kept in file/run: Not a directory"),
        (["--out", "full"], "full is not empty"),
        (["--model", "./nowhere"], "there is no file or folder"),
    ],
)
def test_what_eval_refuses(cli: Cli, tmp_path: Path, options: list[str], named: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert named in evaluated(cli, *options).error
    assert not (tmp_path / "runs").exists()


def test_each_answer_can_be_searched_for_and_its_price_is_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, adder)
    said = evaluated(cli, "--search", "majority", "--think", 150, "--max-tokens", 50, "--out", "run")
    assert said.status == 0
    assert "6 problems × 4 × up to 150 tokens: at most 3,600 to draw" in said.err
    traces = list(open_store("run/store").traces())
    assert len(traces) == 6 * 4
    assert engine.calls == 6 * 4 * 3
    assert len({trace.tree for trace in traces}) == 6
    mean = engine.tokens / 24
    assert f"majority spent {mean:,.0f} tokens and 0 on judging for an answer (mean of 24)" in said.out
    one = sum(trace.reward == 1 for trace in traces) / 24
    assert f"{100 * one:.1f} [" in said.out
    engine = scripted(monkeypatch, adder)
    assert cli("eval", "--resume", "run").status == 0
    assert engine.calls == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--search", "bestofn"], "did you mean 'best-of-n'"),
        (["--search", "mcts"], "mcts goes by a verifier's scores"),
        (["--verify", "confidence"], "one thought needs no judge; give --search"),
        (["--search", "majority", "--think", "0"], "a budget of 0 tokens"),
    ],
)
def test_a_search_that_eval_cannot_make_is_refused(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], named: str
) -> None:
    monkeypatch.setattr(model, "open_engine", lambda name, **_: pytest.fail("the model was opened"))
    assert named in evaluated(cli, *options).error
