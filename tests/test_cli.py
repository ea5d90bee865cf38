"""The command line as a whole: help, wrong words, what reaches the terminal, models, and the README's promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Cli, command_line

from forethought import __version__
from forethought.cli import COMMANDS
from forethought.cli.terminal import clean, rows
from forethought.engines.open import find, is_trained_here, open_engine
from forethought.store import open_store


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`forethought` with these words, in a folder of its own."""
    return command_line(capsys, monkeypatch, tmp_path)


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
    assert ("--resume RUN" in said.out) is (words in ("train", "train sft", "eval"))


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
    read, write = os.pipe()
    os.close(read)
    code = "from forethought.cli import main; raise SystemExit(main(['models']))"
    run = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (run.returncode, run.stderr) == (141, "")


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
    begun = tmp_path / "grpo-2"
    begun.mkdir()
    with pytest.raises(ValueError, match="grpo-2 is neither a run nor a checkpoint"):
        find(str(begun))
    (begun / "config.json").write_text('{"recipe": "grpo"}')  # all there is until the first checkpoint is made
    with pytest.raises(ValueError, match="grpo-2 has no checkpoint yet"):
        find(str(begun))
    (begun / "config.json").write_text('{"model_type": "llama"}')
    assert find(str(begun)) == ("path", str(begun))
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
    monkeypatch.setattr("forethought.engines.open.connect", lambda url, *, api, api_key: given.append(api_key))
    monkeypatch.setenv("OPENAI_API_KEY", "not for us")
    open_engine("http://127.0.0.1:1/v1#m")
    monkeypatch.setenv("FORETHOUGHT_API_KEY", "ours")
    open_engine("http://127.0.0.1:1/v1#m")
    open_engine("http://127.0.0.1:1/v1#m", api_key="mine")
    assert given == [None, "ours", "mine"]


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
