"""Runs from the command line: trained, stopped, gone on with, their report and their store."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import Cli, adder, command_line, scripted

from forethought.cli import main
from forethought.problems import open_task
from forethought.store import open_store
from forethought.types import Step, Trace, Verdict, user


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`forethought` with these words, in a folder of its own."""
    return command_line(capsys, monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `train sft` that knows the bare answers of four problems by heart."""
    run = tmp_path_factory.mktemp("runs") / "sft-1"
    words = "train sft --layers 1 --width 32 --problems addition:digits=1 --direct --examples 4 --batch 4 --lr 2e-2"
    assert main([*words.split(), "--steps", "60", "--eval-problems", "0", "--out", str(run)]) == 0
    return run


def test_a_folder_that_is_no_run_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for words in (["eval", "--resume"], ["train", "sft", "--resume"], ["report"], ["store", "ls"]):
        for folder in ("folder", "nowhere"):
            assert folder in cli(*words, folder).error
    assert list((tmp_path / "folder").iterdir()) == []
    (tmp_path / "folder" / "config.json").write_text('["not ours"]')
    assert "is not a run's config" in cli("eval", "--resume", "folder").error


def test_a_trained_model_is_solved_and_measured_with(cli: Cli, trained: Path) -> None:
    for problem in open_task("addition:digits=1").load("train", count=4, seed=0):
        said = cli("solve", problem.messages[0]["content"], "--model", trained, "--temperature", 0)
        assert (said.status, said.out) == (0, f"{problem.answer}\n")
    drawing = ["--limit", 3, "--k", 2, "--max-tokens", 8]
    said = cli("eval", "--problems", "addition:digits=1", *drawing, "--out", "run", "--model", trained)
    assert said.status == 0
    (policy,) = {entry.policy for entry in open_store("run/store").entries()}
    assert policy == "sft-1@60"
    config = json.loads(Path("run/config.json").read_text())["config"]
    assert config["model"] == str(trained / "checkpoints" / "step-000060")  # as it stood when the run began


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


def test_report_is_written_again(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scripted(monkeypatch, adder)
    assert cli("eval", "--problems", "sums:terms=2", "--limit", 2, "--out", "run").status == 0
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


def test_store_labels_says_how_far_people_agree(cli: Cli, kept: Path) -> None:
    assert "nobody has labelled" in cli("store", "labels", kept).error
    store = open_store(kept / "store")
    for who, labels in {"ann": (1, -1, 1), "bob": (1, 1, 1)}.items():
        for trace, label in zip(store.traces(), labels, strict=True):
            store.labels.put(trace, who, len(trace.text), label)
    said = cli("store", "labels", kept)
    assert re.search(r"^ann +3 +3 +20\d\d-", said.out, re.MULTILINE)
    assert re.search(r"^ann, bob +3 +2 +0$", said.out, re.MULTILINE)
    assert "Krippendorff's alpha 0, over 3 steps" in said.out
    assert "[person:ann] 1: no answer (ann, 20" in cli("store", "show", kept, next(store.entries()).id).out


def test_store_export_writes_one_file(cli: Cli, kept: Path, tmp_path: Path) -> None:
    said = cli("store", "export", kept, "out/best.jsonl", "--min-reward", 1)
    assert (said.status, said.out, said.err) == (0, "out/best.jsonl\n", "1 trace\n")
    (line,) = (tmp_path / "out" / "best.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "\\boxed{4}"
    cli("store", "export", kept, "all.parquet", "--format", "parquet")
    assert (tmp_path / "all.parquet").read_bytes()[:4] == b"PAR1"
    (tmp_path / "file").touch()
    assert "cannot write file/x.jsonl" in cli("store", "export", kept, "file/x.jsonl").error
