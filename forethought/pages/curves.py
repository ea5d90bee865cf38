"""A run's metrics as curves: read on as the file grows, and thinned to what a screen can show."""

from __future__ import annotations

import json
import math
import os
import threading
from array import array
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

FILE = "metrics.jsonl"
Axis = Literal["step", "tokens", "seconds"]
AXES: tuple[Axis, ...] = get_args(Axis)
TOKENS = "computed"
"""The metric whose running sum is the axis `tokens`: those that the learner ran through in a step."""
METRICS = 200
"""Names kept of one run; any further ones are left out."""
CHUNK = 1 << 22
"""Bytes read at a time."""

Numbers = NDArray[np.float64]


class Log:
    """One run's `metrics.jsonl` as columns; each `refresh` reads only what has been written since the last one.

    Memory is 8 bytes a line and metric. Lines that are no JSON object are counted and left out; threads may share it.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / FILE
        self.columns: dict[str, array[float]] = {}
        """By metric, `step` and `time` among them: as many values as there are lines, NaN where a line has none."""
        self.lines = 0
        self.broken = 0
        self._at = 0
        self._file = -1
        self._lock = threading.Lock()

    @property
    def seen(self) -> str:
        """Changes whenever a refresh has found anything new."""
        return f"{self._file}-{self._at}"

    def refresh(self) -> None:
        """Take up what was written since. A file that was written anew, as on resumption, is read from its start."""
        with self._lock:
            try:
                file = self.path.open("rb")
            except OSError:
                return
            with file:
                there = os.fstat(file.fileno())
                if there.st_ino != self._file or there.st_size < self._at:
                    self.columns, self.lines, self.broken, self._at = {}, 0, 0, 0
                    self._file = there.st_ino
                file.seek(self._at)
                rest = b""
                while chunk := file.read(CHUNK):
                    *whole, rest = (rest + chunk).split(b"\n")  # the last line may still be written
                    self._take(whole)
                    self._at = file.tell() - len(rest)

    def _take(self, lines: list[bytes]) -> None:
        rows = []
        for line in lines:
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                found = None
            if isinstance(found, dict):
                rows.append(found)
            else:
                self.broken += 1
        for name in dict.fromkeys(chain(self.columns, *rows)):
            values = [_float(row.get(name)) for row in rows]
            if name not in self.columns:
                if len(self.columns) >= METRICS or all(map(math.isnan, values)):
                    continue
                self.columns[name] = array("d", [math.nan]) * self.lines
            self.columns[name].extend(values)
        self.lines += len(rows)

    def metrics(self) -> list[str]:
        """Names of what can be drawn, in the order of their first line."""
        with self._lock:
            return [name for name in self.columns if name not in ("step", "time")]

    def curve(self, metric: str, x: Axis, points: int, smooth: float = 0.0) -> tuple[list[float], list[float]] | None:
        """The metric over `x`, at most about so many points; `None` where the run does not have the one or the other.

        `seconds` are of the clock, counted from the first line: those in which the run was stopped are among them.
        `smooth` is the share that the past keeps in a moving average over all lines, taken before any are left out.
        """
        with self._lock:
            columns = {name: np.array(self.columns[name]) for name in {metric, *_NEEDED[x]} if name in self.columns}
        if len(columns) < len({metric, *_NEEDED[x]}):
            return None
        return thinned(_places(columns, x), smoothed(columns[metric], smooth), points)


_NEEDED: dict[Axis, tuple[str, ...]] = {"step": ("step",), "tokens": (TOKENS,), "seconds": ("time",)}


def _places(columns: dict[str, Numbers], x: Axis) -> Numbers:
    if x == "step":
        return columns["step"]
    return np.nancumsum(columns[TOKENS]) if x == "tokens" else columns["time"] - columns["time"][0]


def smoothed(y: Numbers, keep: float) -> Numbers:
    """The exponential moving average, its first values not pulled to 0 (Adam's bias correction); NaN stays NaN and
    counts for nothing."""
    if not keep:
        return y
    total = weight = 0.0
    means = []
    for one in y.tolist():
        if math.isfinite(one):
            total, weight = keep * total + (1 - keep) * one, keep * weight + (1 - keep)
        means.append(total / weight if math.isfinite(one) else one)
    return np.array(means)


def thinned(x: Numbers, y: Numbers, points: int) -> tuple[list[float], list[float]]:
    """At most about `points` of the finite points of a curve: of each stretch of them the first, the lowest, the
    highest and the last, so that no spike is lost (M4: Jugel et al., "M4: A Visualization-Oriented Time Series Data
    Aggregation", VLDB 2014). Seven digits are kept."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(y) > points:
        edges = np.linspace(0, len(y), max(1, points // 4) + 1).astype(int)
        kept = {
            at
            for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            if start < end
            for at in (start, start + int(y[start:end].argmin()), start + int(y[start:end].argmax()), end - 1)
        }
        x, y = x[sorted(kept)], y[sorted(kept)]
    return [float(f"{one:.10g}") for one in x], [float(f"{one:.7g}") for one in y]


def _float(value: Any) -> float:
    """The number; NaN for whatever is none."""
    if type(value) is float:
        return value
    try:
        return float(value) if type(value) is int else math.nan
    except OverflowError:  # JSON has integers of any length
        return math.nan


def ends(run: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The first and the last whole line of the file, without reading what is between; `None` where there is none."""
    try:
        with (run / FILE).open("rb") as file:
            first = file.readline(CHUNK)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - (1 << 16)))
            tail = file.read().split(b"\n")[:-1]
    except OSError:
        return None
    for line in reversed(tail):
        try:
            found = json.loads(first), json.loads(line)
        except ValueError:
            continue
        return found if all(isinstance(one, dict) for one in found) else None
    return None
