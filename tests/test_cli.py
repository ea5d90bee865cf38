"""The command line, in process: each command on scripted, tiny and loopback pieces, and each kind of wrong input."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forethought import __version__
from forethought.cli import COMMANDS, evaluate, main, model
from forethought.cli.terminal import clean, rows
from forethought.engines.http import HttpEngine
from forethought.engines.open import described, find, is_trained_here, open_engine, public
from forethought.engines.scripted import Reply, Scripted, always
from forethought.scaling.stages import load_report
from forethought.store import open_store
from forethought.thought.marks import INSTRUCTION, compose
from forethought.types import Messages, Sampling, Step, Trace, Verdict, user


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


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`forethought` with these words, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `train sft` on the tiny model."""
    run = tmp_path_factory.mktemp("runs") / "sft-1"
    words = "train sft --layers 1 --width 32 --problems addition:digits=1 --examples 4 --batch 2 --steps 2 --warmup 0"
    assert main([*words.split(), "--eval-problems", "0", "--out", str(run)]) == 0
    return run


# --- help, versions, unknown words ---


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(cli: Cli, words: list[str]) -> None:
    said = cli(*words)
    assert said.status == 0
    assert all(f"  {name} " in said.out for name in COMMANDS)


@pytest.mark.parametrize("words", ["solve", "eval", "report", "models", "train", "train sft", "store", "store ls"])
def test_every_command_has_help(cli: Cli, words: str) -> None:
    said = cli(*words.split(), "--help")
    assert (said.status, said.err) == (0, "")
    assert f"usage: forethought {words}" in said.out


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"forethought {__version__}\n"


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["evla"], "did you mean 'eval'?"),
        (["train", "gprro"], "did you mean 'grpo'?"),
        (["store", "exprot", "x"], "did you mean 'export'?"),
        (["solve", "2+2?", "--model", "smollm"], "did you mean 'smollm2-135m'?"),
        (["solve", "2+2?", "--think", "hihg"], "did you mean 'high'?"),
        (["eval", "--problems", "aditon"], "did you mean 'addition'?"),
        (["eval", "--problems", "sums", "--model", "smollm"], "did you mean 'smollm2-135m'?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(cli: Cli, words: list[str], near: str) -> None:
    assert near in cli(*words).error


def test_an_unknown_option_is_answered_with_the_nearest(cli: Cli) -> None:
    said = cli("solve", "2+2?", "--tihnk", "high")
    assert (said.status, said.out) == (2, "")
    assert "--tihnk" in said.err
    assert "--think" in said.err


def test_a_traceback_is_shown_only_when_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is no command"):
        cli("--debug", "evla")
    monkeypatch.setenv("FORETHOUGHT_DEBUG", "1")
    with pytest.raises(ValueError, match="there is no command"):
        cli("evla")


def test_nothing_heavy_is_loaded_for_help_and_models() -> None:
    code = (
        "import sys; from forethought.cli import main; main(['--help']); main(['models']);"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'pyarrow'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "[]", run.stderr


def test_output_that_nobody_reads_ends_quietly() -> None:
    code = f"{sys.executable} -c 'from forethought.cli import main; main([\"models\"])' | true"
    run = subprocess.run(["sh", "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stderr == ""


# --- what reaches the terminal ---


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("a\x1b[31mred\x1b[0m", "ared"),
        ("a\x1b[2J\x1b[1;1Hb", "ab"),
        ("a\x9b31mb", "ab"),
        ("\x1b]0;title\x07b", "b"),
        ("\x1b]52;c;bHM=\x1b\\b", "b"),
        ("\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("never closed \x1b]0;x", "never closed ]0;x"),
        ("over\rwrite\x08\x00\x7f\x85", "overwrite"),
        ("\u202egnp.exe\u2066", "gnp.exe"),
        ("half \ud800 pair", "half \N{REPLACEMENT CHARACTER} pair"),
        ("kept: \t\n é 漢 👩‍🔬", "kept: \t\n é 漢 👩‍🔬"),
    ],
)
def test_what_steers_a_terminal_is_taken_out(hostile: str, shown: str) -> None:
    assert clean(hostile) == shown


def test_a_cell_stays_in_its_place() -> None:
    assert rows(("a", "n"), [("x\ny\x1b[5D", "7"), ("é", "12")], "<>") == "a     n\nx y   7\né    12"


# --- models ---


def test_models_are_listed_with_size_licence_and_whether_cached(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FORETHOUGHT_CACHE", str(tmp_path))
    assert re.search(r"smollm2-135m .*\n.*98 MB.*licence Apache-2.0; not cached yet", cli("models").out)
    file = tmp_path / "smollm2-135m" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.parent.mkdir()
    file.touch()
    said = cli("models")
    assert "licence Apache-2.0; cached\n" in said.out
    assert "http://host:port/v1#name" in said.out


def test_a_run_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "grpo-1"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="grpo-1 has no checkpoint yet"):
        find(str(run))
    for step in ("step-000009", "step-000010", "step-1000000"):
        (run / "checkpoints" / step).mkdir()
        (run / "checkpoints" / step / "state.json").touch()
    (run / "checkpoints" / "step-2000000").mkdir()  # not whole
    assert find(str(run)) == ("path", str(run / "checkpoints" / "step-1000000"))
    assert is_trained_here(str(run))
    assert is_trained_here("tiny")
    assert not is_trained_here("smollm2-135m")


def test_the_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.delitem(sys.modules, "forethought.engines.local", raising=False)
    for name in [name for name in sys.modules if name.startswith("forethought.engines.local.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"tiny needs torch.*pip install 'forethought\[local\]'"):
        open_engine("tiny")
    monkeypatch.delitem(sys.modules, "forethought.recipes.sft", raising=False)
    assert "pip install 'forethought[local]'" in cli("train", "sft").error


def test_a_servers_key_comes_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str | None] = []
    monkeypatch.setattr("forethought.engines.open.connect", lambda url, *, api_key: given.append(api_key))
    monkeypatch.setenv("OPENAI_API_KEY", "not for us")
    open_engine("http://127.0.0.1:1/v1#m")
    monkeypatch.setenv("FORETHOUGHT_API_KEY", "ours")
    open_engine("http://127.0.0.1:1/v1#m")
    open_engine("http://127.0.0.1:1/v1#m", api_key="mine")
    assert given == [None, "ours", "mine"]


# --- solve ---


def test_solve_answers_with_the_majority_and_its_bill(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, [compose("2 + 2 = 5", "5"), compose("2 + 2 = 4", "4"), compose("four", "4.0")])
    said = cli("solve", "2+2?", "--k", 3)
    assert (said.status, said.out) == (0, "4\n")
    assert f"{engine.tokens} tokens, 3 thoughts" in said.err
    assert "2 of 3 votes" in said.err


def test_solve_shows_the_winning_thought_before_its_answer(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [compose("2 + 2 = 5", "5"), compose("2 +\x1b[2J 2 = 4", "4"), compose("four", "4")])
    assert cli("solve", "2+2?", "--k", 3, "--show-thought").out == "2 + 2 = 4\n\n4\n"


def test_solve_shows_a_text_without_marks_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, ["It is four."])
    said = cli("solve", "2+2?", "--k", 2, "--show-thought")
    assert said.out == "It is four.\n"
    assert "nobody boxed an answer" in said.err


@pytest.mark.parametrize(
    ("options", "calls", "most"),
    [
        (["--think", "low"], 1, 256),
        (["--think", "medium"], 4, 256),
        (["--think", "high"], 16, 256),
        (["--think", "100"], 1, 100),
        (["--think", "300", "--max-tokens", "64"], 4, 64),
        (["--think", "high", "--k", "2"], 2, 256),
        (["--think", "high", "--temperature", "0"], 1, 256),
    ],
)
def test_think_sets_how_many_thoughts(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], calls: int, most: int
) -> None:
    engine = scripted(monkeypatch, ["\\boxed{4}"])
    assert cli("solve", "2+2?", *options).status == 0
    assert [asked[2].max_tokens for asked in engine.asked] == [most] * calls


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--think", "0"], "a budget of 0 tokens"),
        (["--think=-5"], "a budget of -5 tokens"),
        (["--max-tokens", "0"], "max_tokens is 0"),
        (["--k", "0"], "k is 0"),
        (["--k", "3", "--temperature", "0"], "temperature 0 draws the same thought 3 times"),
        (["--temperature=-1"], "temperature is -1.0"),
        (["--top-p", "0"], "top_p is 0.0"),
    ],
)
def test_a_budget_that_buys_nothing_is_refused_before_the_model_is_opened(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], named: str
) -> None:
    monkeypatch.setattr(model, "open_engine", lambda name, **_: pytest.fail("the model was opened"))
    assert named in cli("solve", "2+2?", *options).error


def test_solve_reads_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, ["\\boxed{4}"])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda: "from a file?\n"))
    assert cli("solve", "-", "--instruct", "no").out == "4\n"
    assert engine.asked[0][0] == user("from a file?\n")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda: " \n"))
    assert "the question is empty" in cli("solve", "-").error


@pytest.mark.parametrize(
    ("options", "instructed"),
    [
        ([], True),
        (["--instruct", "no"], False),
        (["--model", "tiny"], False),
        (["--model", "tiny", "--instruct=yes"], 1),
    ],
)
def test_a_model_that_we_did_not_train_is_told_how_to_think(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], instructed: bool
) -> None:
    engine = scripted(monkeypatch, ["\\boxed{4}"])
    said = cli("solve", "2+2?", *options)
    assert engine.asked[0][0] == user(f"2+2?\n\n{INSTRUCTION}" if instructed else "2+2?")
    assert ("tiny knows nothing until it is trained" in said.err) is ("tiny" in options)


def test_solve_says_when_no_thought_came_to_an_end(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, ["<think>\n" + "and " * 100])
    said = cli("solve", "2+2?", "--max-tokens", 20, "--k", 1)
    assert (said.status, said.out) == (1, "")
    assert "no thought came to an end (20 tokens" in said.err
    assert "--max-tokens" in said.err
    said = cli("solve", "2+2?", "--max-tokens", 20, "--k", 3, "--think", 20)  # the last two never start
    assert (said.status, said.out) == (1, "")
    assert "no thought came to an end (20 tokens" in said.err


def test_solve_says_why_an_engine_failed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, always(OSError("the server is gone")))
    assert "the server is gone" in cli("solve", "2+2?").error


def test_a_prompt_longer_than_the_context_is_refused(cli: Cli) -> None:
    error = cli("solve", "7 + " * 200, "--model", "tiny").error
    assert re.search(r"takes? 80\d tokens and tiny holds 512; shorten the prompt", error)


# --- eval ---


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
    assert f"({len(kept)} problems are drawn already)" in said.err
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


def test_a_folder_that_is_no_run_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for words in (["eval", "--resume"], ["train", "sft", "--resume"], ["report"], ["store", "ls"]):
        for folder in ("folder", "nowhere"):
            assert folder in cli(*words, folder).error
    assert list((tmp_path / "folder").iterdir()) == []
    (tmp_path / "folder" / "config.json").write_text('["not ours"]')
    assert "is not a run's config" in cli("eval", "--resume", "folder").error


# --- train, and what it leaves, on the tiny model ---


def test_a_trained_model_is_solved_and_measured_with(cli: Cli, trained: Path) -> None:
    said = cli("solve", "3 + 4 = ?", "--model", trained, "--think", 64, "--max-tokens", 32, "--show-thought")
    assert said.status in (0, 1)  # it has learned next to nothing
    assert "thought" in said.err
    drawing = ["--limit", 3, "--k", 2, "--max-tokens", 8]
    said = cli("eval", "--problems", "addition:digits=1", *drawing, "--out", "run", "--model", trained)
    assert said.status == 0
    (policy,) = {entry.policy for entry in open_store("run/store").entries()}
    assert policy == "sft-1@2"
    config = json.loads(Path("run/config.json").read_text())["config"]
    assert config["model"] == str(trained / "checkpoints" / "step-000002")  # as it stood when the run began


def test_train_goes_on_and_takes_over_settings(cli: Cli, trained: Path, tmp_path: Path) -> None:
    said = cli("train", "sft", "--resume", trained)
    assert (said.status, said.out.splitlines()[-1]) == (0, str(trained))
    said = cli("train", "sft", "--config", trained / "config.json", "--steps", 1, "--out", "again")
    assert said.status == 0
    ours, theirs = (json.loads((run / "config.json").read_text())["config"] for run in (tmp_path / "again", trained))
    assert ours == {**theirs, "steps": 1, "out": "again"}
    assert "is a run of 'sft', not of 'star'" in cli("train", "star", "--resume", trained).error
    assert "--config needs a value" in cli("train", "sft", "--config").error


@dataclass(frozen=True)
class Config:
    """Of a recipe that a test makes up."""

    model: str = "tiny"
    """Its model."""
    sizes: tuple[int, ...] = (1, 2)
    """Its sizes."""
    out: str = ""
    """Its folder."""


def recipe(monkeypatch: pytest.MonkeyPatch, body: Callable[[Config, Path | None], Path]) -> None:
    made_up = SimpleNamespace(Config=Config, main=body, __doc__="Walk the road.")
    monkeypatch.setitem(sys.modules, "forethought.recipes.demo", made_up)


def test_demo_is_run_and_gone_on_with(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Config, Path | None]] = []

    def walk(config: Config, resume: Path | None) -> Path:
        from forethought.recipes.run import write_config

        run = resume or Path(config.out)
        write_config(run, "demo", config, resume=resume is not None)
        seen.append((config, resume))
        if resume is None:
            raise KeyboardInterrupt
        (run / "report.html").touch()
        print(run / "report.html")
        return run

    recipe(monkeypatch, walk)
    said = cli("demo", "--sizes", "3", "4")
    assert said.status == 130
    (named,) = re.findall(r"go on with: forethought demo --resume (runs/demo-[\d-]+)", said.err)
    said = cli("demo", "--resume", named)
    assert (said.status, said.out) == (0, f"{named}/report.html\n")
    assert seen == [(Config("tiny", (3, 4), named), None), (Config("tiny", (3, 4), named), Path(named))]


def test_a_run_that_was_stopped_before_it_began_is_not_offered(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(config: Config, resume: Path | None) -> Path:
        raise KeyboardInterrupt

    recipe(monkeypatch, stopped)
    said = cli("demo")
    assert (said.status, said.err) == (130, "\nstopped\n")


def test_the_way_to_go_on_can_be_pasted_and_a_broken_step_is_one_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(config: Config, resume: Path | None) -> Path:
        if config.model == "broken":
            raise FloatingPointError("the gradient norm of step 3 is nan")
        Path(config.out).mkdir()
        (Path(config.out) / "config.json").touch()
        raise KeyboardInterrupt

    recipe(monkeypatch, body)
    assert cli("demo", "--out", "my runs").err.endswith("go on with: forethought demo --resume 'my runs'\n")
    assert "the gradient norm of step 3 is nan" in cli("demo", "--model", "broken").error


def test_a_run_of_another_version_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe(monkeypatch, lambda config, resume: pytest.fail("it must not run"))
    (tmp_path / "config.json").write_text('{"recipe": "demo", "config": {"speed": 3}, "version": "0.0.9"}')
    assert "begun by forethought 0.0.9, which had other settings" in cli("demo", "--resume", tmp_path).error


# --- report, store ---


def test_report_is_written_again(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scripted(monkeypatch, adder)
    evaluated(cli, "--out", "run")
    page = tmp_path / "run" / "report.html"
    before = page.read_text()
    page.unlink()
    said = cli("report", "run")
    assert (said.status, said.out) == (0, "run/report.html\n")
    assert page.read_text() == before


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A run's folder with a store of three traces, one of them hostile."""
    with open_store(tmp_path / "run" / "store").writer("grpo-1") as writer:
        for place, (text, score) in enumerate([("\\boxed{4}", 1.0), ("\x1b[2Jfive", 0.0), ("what?", None)]):
            verdicts = {"grade": Verdict(score, answer="4" if score else None, note="exact")}
            step = Step(text, tokens=(1, 2, 3))
            writer.append(Trace(f"sum/{place}", user("2+2?"), (step,), "tiny@3", verdicts=verdicts))
    return tmp_path / "run"


def test_store_ls_takes_a_run_or_a_store_and_filters(cli: Cli, kept: Path) -> None:
    whole = cli("store", "ls", kept)
    assert re.search(r"^grpo-1 .* 3 +3 +9 +0\.5$", whole.out, re.MULTILINE)
    assert re.search(r"^[0-9a-f]{8}  grpo-1  sum/0 +tiny@3 +1 +3  +end$", whole.out, re.MULTILINE)
    assert cli("store", "ls", kept / "store").out == whole.out
    right = cli("store", "ls", kept, "--min-reward", 1)
    assert "sum/0" in right.out
    assert "sum/1" not in right.out
    first = cli("store", "ls", kept, "--limit", 1)
    assert "sum/1" not in first.out
    assert "--limit shows more than 1" in first.err
    assert "limit is -1" in cli("store", "ls", kept, "--limit=-1").error


def test_store_show_prints_a_hostile_thought_harmlessly(cli: Cli, kept: Path) -> None:
    entry = next(open_store(kept / "store").entries(problem="sum/1"))
    said = cli("store", "show", kept, entry.id[:12])
    assert said.status == 0
    assert "\x1b" not in said.out
    assert "[user]\n2+2?\n\n[thought, 3 tokens]\nfive\n\n[grade] 0: no answer (exact)" in said.out
    assert "no trace" in cli("store", "show", kept, "zzz").error


def test_store_export_writes_one_file(cli: Cli, kept: Path, tmp_path: Path) -> None:
    said = cli("store", "export", kept, "out/best.jsonl", "--min-reward", 1)
    assert (said.status, said.out, said.err) == (0, "out/best.jsonl\n", "1 traces\n")
    (line,) = (tmp_path / "out" / "best.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "\\boxed{4}"
    cli("store", "export", kept, "all.parquet", "--format", "parquet")
    assert (tmp_path / "all.parquet").read_bytes()[:4] == b"PAR1"
    (tmp_path / "file").touch()
    assert "cannot write file/x.jsonl" in cli("store", "export", kept, "file/x.jsonl").error


# --- a model behind a server ---


class Handler(BaseHTTPRequestHandler):
    """Says 4, whatever is asked."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        choice = {"message": {"role": "assistant", "content": "<think>\n2 + 2\n</think>\n\\boxed{4}"}}
        choices = [{"index": i, "finish_reason": "stop", **choice} for i in range(asked.get("n", 1))]
        answer = json.dumps({"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": 9}}).encode()
        self.send_response(200 if self.headers["Authorization"] == "Bearer sesame" else 401)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server() -> Iterator[str]:
    """A server's `host:port`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def test_a_model_behind_a_url(cli: Cli, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FORETHOUGHT_API_KEY", raising=False)
    assert "refuses the key (401)" in cli("solve", "2+2?", "--model", f"http://{server}/v1#m").error
    monkeypatch.setenv("FORETHOUGHT_API_KEY", "sesame")
    assert cli("solve", "2+2?", "--model", f"http://{server}/v1#m", "--show-thought").out == "2 + 2\n\n4\n"
    (tmp_path / "p.jsonl").write_text('{"question": "2+2?", "answer": 4}\n')
    said = cli("eval", "--problems", "p.jsonl", "--k", 2, "--model", f"http://{server}/v1#m", "--out", "run")
    assert said.status == 0
    assert "100.0 [100.0, 100.0]" in said.out
    assert "sesame" not in "".join(path.read_text() for path in (tmp_path / "run").glob("*.*"))


def test_a_password_in_a_url_is_not_shown(tmp_path: Path) -> None:
    assert isinstance(open_engine("http://me:secret@127.0.0.1:1/v1#m"), HttpEngine)
    assert public("http://me:secret@127.0.0.1:1/v1#m") == "http://127.0.0.1:1/v1#m"
    assert described("http://me:secret@127.0.0.1:1/v1#m") == "m behind http://127.0.0.1:1/v1"
    assert public("org/na@me") == "org/na@me"


# --- the README ---


def test_the_readmes_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands: a vote of eight beats one sample, and every thought is in the store."""
    (code,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    first, voted = (float(value) for value in re.findall(r"value=([\d.]+)", capsys.readouterr().out))
    assert 0 < first < voted <= 1
    assert open_store(tmp_path / "runs" / "store").summary().runs[0].traces == 512


def test_the_readmes_commands_are_there(cli: Cli) -> None:
    """Each command of the tour is one, with options that it has."""
    page = (Path(__file__).parent.parent / "README.md").read_text()
    lines = re.findall(r"^forethought (.*)$", page, re.MULTILINE)
    assert len(lines) > 8
    for line in lines:
        words = [word for word in line.partition("#  ")[0].split() if not word.startswith('"')]
        command = words[: 2 if words[0] in ("train", "store") else 1]
        options = {word for word in words if word.startswith("--")}
        assert options <= set(re.findall(r"--[\w-]+", cli(*command, "--help").out)), line
