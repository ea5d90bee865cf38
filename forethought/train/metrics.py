"""Metrics of a run: one JSON object a line in `metrics.jsonl`, and other places for those who want them there."""

from __future__ import annotations

import importlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from forethought.store.shards import flush, publish


class Sink(NamedTuple):
    """Where metrics go besides the file."""

    log: Callable[[int, Mapping[str, float]], None]
    close: Callable[[], None]


class MetricsLog:
    """Appends a step's metrics to `RUN/metrics.jsonl`, each line with `step` and `time` (seconds since 1970).

    Values that are not finite are written as null, so that every line is JSON to any reader.

    Args:
        run: the run's folder, made where it is missing.
        sinks: any of `trackio`, `tensorboard`, `wandb`; each needs its package.
        resume: the step a resumed run goes on from: lines past it, which will be logged again, are cut off.
        config: the run's settings, for sinks that show them.

    Raises:
        ValueError: an unknown sink, or a folder that holds metrics though `resume` is `None`.
        ImportError: a sink's package is missing; the message says what to install.
    """

    def __init__(
        self,
        run: Path | str,
        sinks: Sequence[str] = (),
        *,
        resume: int | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(run) / "metrics.jsonl"
        if unknown := [name for name in sinks if name not in _SINKS]:
            raise ValueError(f"there is no sink called {unknown[0]!r}; choose from {', '.join(_SINKS)}")
        if resume is None and self.path.exists() and self.path.stat().st_size:
            raise ValueError(f"{self.path} holds the metrics of a run; resume that run or choose another folder")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._sinks = [_SINKS[name](self.path.parent, config or {}) for name in sinks]
        if resume is not None and self.path.exists():
            _cut(self.path, resume)
        self._file = self.path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line, and tell every sink."""
        line: dict[str, float | None] = {"step": step, "time": round(time.time(), 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for sink in self._sinks:
            sink.log(step, metrics)

    def close(self) -> None:
        """Close the file and every sink."""
        self._file.close()
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(run: Path | str) -> list[dict[str, Any]]:
    """All lines of a run's `metrics.jsonl`, oldest first, none where there is no file; a last line that a kill cut
    short is left out.

    Raises:
        ValueError: another line is not a JSON object; it is named by its number.
    """
    path = Path(run) / "metrics.jsonl"
    return [line for _, line in _lines(path)] if path.exists() else []


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Lines as text and as read; only the last may be broken."""
    found: list[tuple[str, dict[str, Any]]] = []
    texts = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            if number < len(texts):
                raise ValueError(f"line {number} of {path} is not JSON: {error}") from error
            break
        if not isinstance(line, dict):
            raise ValueError(f"line {number} of {path} is {text[:40]!r}; each line must be a JSON object")
        found.append((text, line))
    return found


def _cut(path: Path, step: int) -> None:
    """Drop the lines of later steps, by writing the others anew and renaming."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(text + "\n" for text, line in _lines(path) if line["step"] <= step)
    flush(part)
    publish(part, path)


def _need(module: str, sink: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"the sink {sink!r} needs {package}: pip install {package}") from error


def _trackio(run: Path, config: Mapping[str, Any]) -> Sink:
    trackio = _need("trackio", "trackio", "trackio")
    trackio.init(project="forethought", name=run.name, config=dict(config), resume="allow")
    return Sink(lambda step, metrics: trackio.log(dict(metrics), step=step), trackio.finish)


def _wandb(run: Path, config: Mapping[str, Any]) -> Sink:
    wandb = _need("wandb", "wandb", "wandb")
    handle = wandb.init(project="forethought", name=run.name, dir=str(run), config=dict(config), resume="allow")
    return Sink(lambda step, metrics: handle.log(dict(metrics), step=step), handle.finish)


def _tensorboard(run: Path, config: Mapping[str, Any]) -> Sink:
    writer = _need("torch.utils.tensorboard", "tensorboard", "tensorboard").SummaryWriter(str(run / "tensorboard"))
    writer.add_text("config", json.dumps(dict(config), indent=1, default=str))

    def log(step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return Sink(log, writer.close)


_SINKS: dict[str, Callable[[Path, Mapping[str, Any]], Sink]] = {
    "trackio": _trackio,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
