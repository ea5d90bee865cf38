"""`forethought serve --demo`: what the newest demo taught, or the embedded model and the command that teaches it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from forethought.cli import demo_model
from forethought.cli.serve import serve
from forethought.pages import app


def run(name: str, age: int, recipe: str = "demo", checkpoint: bool = True) -> None:
    """A run's folder below runs/, as far as the demo's model goes by it."""
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    config = {"model": "tiny", "problems": "chain:steps=4,modulus=7", "max_tokens": 48}
    (folder / "config.json").write_text(json.dumps({"recipe": recipe, "config": config, "version": "0"}))
    os.utime(folder / "config.json", (1e9 - age, 1e9 - age))
    if checkpoint:
        place = folder / "checkpoints" / "step-000002"
        place.mkdir(parents=True)
        (place / "state.json").write_text("{}")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_newest_demo_that_has_a_checkpoint_is_shown() -> None:
    run("demo-old", 9)
    run("demo-new", 5)
    run("demo-begun", 1, checkpoint=False)
    run("grpo", 0, recipe="grpo")
    (Path("runs") / "odd").mkdir()
    (Path("runs") / "odd" / "config.json").write_text("not JSON")
    found = demo_model.shown()
    assert (found.model, found.tokens, found.runs) == ("runs/demo-new", 48, "runs")
    assert len(found.examples) == 3
    assert all(example.startswith("Mod 7: a=") for example in found.examples)


def test_without_one_the_embedded_model_is_shown_as_it_is_and_the_command_is_said() -> None:
    found = demo_model.shown()
    assert (found.model, found.runs) == ("smollm2-135m", "")
    assert "as it is, taught nothing here" in found.said
    assert "`forethought demo`" in found.said
    assert len(found.examples) == 3


def test_the_demo_is_served_with_its_thoughts_and_its_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("demo-1", 0)
    seen: list[Any] = []

    def create(*given: Any, **more: Any) -> None:
        seen.extend([*given, more])
        raise ValueError("enough")

    monkeypatch.setattr(app, "create", create)
    with pytest.raises(ValueError, match="enough"):
        serve(["--demo"])
    config, (model,), more = seen
    assert (config.runs, model.model, model.show_thoughts) == ("runs", "runs/demo-1", True)
    assert model.runs("mcts"), "a tree is what there is to look at"
    assert more["examples"] == demo_model.shown().examples
    assert "what runs/demo-1 taught tiny" in capsys.readouterr().err


def test_a_folder_of_runs_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="runs is nowhere, and there is no such folder"):
        serve(["--model", "tiny", "--runs", "nowhere"])


def test_a_model_that_cannot_be_opened_is_one_error_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="unknown model 'nonsense'"):
        serve(["--model", "nonsense", "--port", "0"])
    assert "Traceback" not in capsys.readouterr().err
