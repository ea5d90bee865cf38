"""`forethought label` and `forethought verify`: from a store of thoughts to labels, a verifier, and its verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Cli, command_line

from forethought.cli import label
from forethought.engines.local.tiny import TinyConfig, build
from forethought.engines.scripted import Scripted
from forethought.problems import open_task
from forethought.store import open_store
from forethought.thought.tokens import worked_step
from forethought.train.checkpoint import latest
from forethought.types import Trace, Verdict

TASK = open_task("chain:steps=2,modulus=5")
MODEL, TOKENIZER = build(TinyConfig(layers=1, width=32, context=128))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`forethought` with these words, in a folder with a model and a store."""
    MODEL.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    with open_store(tmp_path / "store").writer("drawn") as writer:
        for problem in TASK.load("train", count=4):
            assert TASK.worked is not None
            sound = TASK.worked(problem)
            for number, text in enumerate((sound, sound.replace(f"{{{problem.answer}}}", "{9}"))):
                trace = Trace(problem.id, problem.messages, (worked_step(TOKENIZER, text),), "tiny", nodes=(number,))
                writer.append(replace(trace, verdicts={"grade": TASK.grade(problem, trace)}))
    return command_line(capsys, monkeypatch, tmp_path)


def labelled(cli: Cli, method: str, *options: object) -> list[Trace]:
    said = cli("label", method, "--store", "store", "--problems", TASK.name, "--model", "model", *options)
    assert said.status == 0, said.err
    assert said.out.splitlines()[-1] == f"store (run {method})"
    return list(open_store("store").traces(run=method))


def test_true_labels_cost_nothing(cli: Cli) -> None:
    traces = labelled(cli, "true", "--run", "drawn")
    assert [trace.verdicts["true"].steps[-1] for trace in traces] == [1.0, 0.0] * 4
    assert all(len(trace.steps) == 5 for trace in traces)


def test_labels_by_continuation_say_what_they_cost_and_go_on(cli: Cli) -> None:
    options = ("--run", "drawn", "--k", 2, "--max-tokens", 60)
    first = labelled(cli, "mc", *options, "--limit", 1)
    assert {trace.problem_id for trace in first} == {TASK.load("train", count=1)[0].id}
    said = cli("label", "mc", "--store", "store", "--problems", TASK.name, "--model", "model", *options)
    assert "3 problems, 6 thoughts (1 are labelled already)" in said.err
    sampled = [line.split()[-1] for line in said.out.splitlines() if "continuations" in line or "sampled  " in line]
    traces = list(open_store("store").traces(run="mc"))
    assert sum(trace.verdicts["mc"].cost for trace in traces[2:]) == int(sampled[1].replace(",", ""))
    assert int(sampled[0]) == 3 * 4 * 2  # three problems whose two thoughts share four places
    assert [trace.verdicts["mc"].steps[-1] for trace in traces] == [1.0, 0.0] * 4
    again = cli("label", "mc", "--store", "store", "--problems", TASK.name, "--model", "model", *options)
    assert "labelled already, in run 'mc'" in again.error


def test_omega_searches_the_wrong_ones(cli: Cli) -> None:
    traces = labelled(cli, "omega", "--k", 1, "--max-tokens", 60, "--searches", 1)
    assert len(traces) == 4
    assert all(trace.reward == 0 and "first_error" in trace.verdicts["omega"].parts for trace in traces)


def test_a_verifier_is_trained_and_judges_a_store(cli: Cli) -> None:
    trained = cli(
        "verify", "train", "--model", "model", "--store", "store", "--steps", 2, "--batch", 4, "--out", "judge",
        "--eval-problems", 2, "--dtype", "fp32",
    )  # fmt: skip
    assert trained.status == 0, trained.err
    assert "auc" in trained.out
    assert latest("judge") is not None
    said = cli("verify", "score", "--verifier", "judge", "--store", "store", "--dtype", "fp32")
    assert said.status == 0, said.err
    assert "8 thoughts judged, 0 could not be" in said.err
    assert said.out.splitlines()[0].startswith("thoughts 8, right 0.5, auc ")
    traces = list(open_store("store").traces(run="judge"))
    assert len(traces) == 8
    scores = [trace.verdicts["judge"].score for trace in traces]
    assert all(score is not None and 0 < score < 1 for score in scores)
    assert all(set(trace.verdicts) == {"grade", "judge"} for trace in traces)
    again = cli("verify", "score", "--verifier", "judge", "--store", "store", "--run", "drawn")
    assert "has a run 'judge' already" in again.error


def test_what_is_asked_wrongly(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("--store", "store", "--problems", TASK.name, "--model", "model")
    assert "k is 0" in cli("label", "mc", *asked, "--k", 0).error
    assert "is the run whose thoughts are labelled" in cli("label", "true", *asked, "--name", "drawn").error
    assert "no run 'x'; choose --run from drawn" in cli("label", "true", *asked, "--run", "x").error
    assert "has no problem" in cli("label", "true", *asked[:2], "--problems", "sums", "--model", "model").error
    assert "no verify command 'scor'; did you mean 'score'?" in cli("verify", "scor").error
    assert "is no verifier" in cli("verify", "score", "--verifier", "nobody", "--store", "store").error
    assert "train" in cli("verify").out
    monkeypatch.setattr(label, "open_engine", lambda name, **options: Scripted([""]))
    assert "which a server does not cut into steps" in cli("label", "true", *asked).error
    with open_store("empty").writer("r") as writer:
        writer.append(Trace("p", (), (), "m", verdicts={"grade": Verdict(1.0)}))
    assert "no problem 'p'" in cli("label", "true", "--store", "empty", *asked[2:]).error
