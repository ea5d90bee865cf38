"""The metrics file: a line a step, cut at the step a run goes on from."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from forethought.train.metrics import MetricsLog, read


def test_one_json_object_a_line(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "run") as log:
        log.log(1, {"loss": 0.5})
        assert len(read(tmp_path / "run")) == 1  # on the disk at once
        log.log(2, {"loss": math.nan, "big": math.inf})
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["loss"] == 0.5
    assert lines[0]["time"] > 1e9
    assert lines[1]["loss"] is lines[1]["big"] is None


def test_resume_cuts_later_lines_and_a_broken_end(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in range(5):
            log.log(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert [line["step"] for line in read(tmp_path)] == [0, 1, 2, 3, 4]
    with MetricsLog(tmp_path, resume=2) as log:
        log.log(3, {"loss": 33.0})
    assert [(line["step"], line["loss"]) for line in read(tmp_path)] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 33.0)]


def test_another_runs_metrics_are_not_overwritten(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.log(1, {"loss": 0.5})
    with pytest.raises(ValueError, match="holds the metrics of a run"):
        MetricsLog(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .* is not JSON"):
        MetricsLog(tmp_path, resume=1)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n[2]\n')
    with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl is '\[2\]'; each line must be a JSON object"):
        read(tmp_path)


def test_unknown_and_missing_sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no sink called 'mlflow'; choose from trackio, tensorboard, wandb"):
        MetricsLog(tmp_path, ["mlflow"])
    modules = {"trackio": "trackio", "wandb": "wandb", "tensorboard": "torch.utils.tensorboard"}
    for sink, module in modules.items():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=f"needs {sink}: pip install {sink}"):
            MetricsLog(tmp_path, [sink])


def test_a_sink_hears_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    fake = ModuleType("trackio")
    for name in ("init", "log", "finish"):
        setattr(fake, name, lambda *args, _name=name, **options: heard.append((_name, args, options)))
    monkeypatch.setitem(sys.modules, "trackio", fake)
    with MetricsLog(tmp_path / "run7", ["trackio"], config={"lr": 0.1}) as log:
        log.log(1, {"loss": 0.5})
    assert heard == [
        ("init", (), {"project": "forethought", "name": "run7", "config": {"lr": 0.1}, "resume": "allow"}),
        ("log", ({"loss": 0.5},), {"step": 1}),
        ("finish", (), {}),
    ]
