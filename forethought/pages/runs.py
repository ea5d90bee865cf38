"""What the page *Runs* is told: which runs there are, where each stands, its settings, and its curves."""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from forethought.pages.curves import FILE, Axis, Log, ends
from forethought.pages.shell import operator
from forethought.pages.stores import Name
from forethought.serve.errors import ApiError
from forethought.serve.house import house_of

CONFIG = "config.json"
DEEP, MANY = 4, 500
"""How far below the folder runs are looked for, and how many are shown: those that were written last."""
SERIES, POINTS = 16, 100_000
"""Most runs of one picture, and most points of one answer."""
OPEN = 32
"""Runs whose columns are kept in memory; the one that was looked at longest ago is read anew."""
SILENT = 60.0
"""Seconds without a line after which a run counts as stopped, or ten times as long as its lines usually take."""
STEPS = {"star": ("iterations", 0), "demo": ("rounds", 1)}
"""Which setting says how many lines a run of this recipe writes, and how many it writes beside, where it is not
`steps`."""


def folders(root: Path) -> dict[str, Path]:
    """The runs at and below `root` by their paths from there, those written last first: folders with metrics, or with a
    config that names a recipe. Links are not followed."""
    found: dict[str, Path] = {}
    for folder in _walk(root, DEEP):
        if (folder / FILE).is_file() or "recipe" in _config(folder):
            found[folder.relative_to(root).as_posix() if folder != root else root.name] = folder
    order = sorted(found, key=lambda name: _written(found[name]), reverse=True)
    return {name: found[name] for name in order[:MANY]}


def _walk(folder: Path, deep: int) -> Iterator[Path]:
    yield folder
    try:
        below = sorted(one.path for one in os.scandir(folder) if one.is_dir(follow_symlinks=False)) if deep else []
    except OSError:
        return
    for path in below:
        if not path.endswith(("/shards", "/checkpoints")):
            yield from _walk(Path(path), deep - 1)


def _written(folder: Path) -> float:
    for name in (FILE, CONFIG):
        try:
            return (folder / name).stat().st_mtime
        except OSError:
            continue
    return 0.0


def _made(folder: Path, otherwise: float) -> float:
    try:
        return (folder / CONFIG).stat().st_mtime
    except OSError:
        return otherwise


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def standing(name: str, folder: Path, now: float) -> dict[str, Any]:
    """Where a run stands: `running`, `ended`, or `stopped`, by its last line and how many it is to have; `begun`,
    where it has no line yet: it may be measuring the model as it is, and nothing tells for how long."""
    config, lines = _config(folder), ends(folder)
    recipe, settings = config.get("recipe"), config.get("config")
    settings = settings if isinstance(settings, dict) else {}
    setting, beside = STEPS.get(str(recipe), ("steps", 0))
    of = _number(settings.get(setting))
    of = None if of is None else of + beside
    first, last = lines or ({}, {})
    step, begun, said = _number(last.get("step")), _number(first.get("time")), _number(last.get("time"))
    each = None
    if (
        step is not None
        and begun is not None
        and said is not None
        and (taken := step - (_number(first.get("step")) or 0))
    ):
        each = (said - begun) / taken
    written = _written(folder)
    pace = each
    if pace is None and said is not None:  # one line: as long as it took to come
        pace = said - _made(folder, said)
    if of is not None and step is not None and step >= of:
        state = "ended"
    elif step is None:
        state = "running" if now - written < SILENT else "begun"
    else:
        state = "running" if now - written < max(SILENT, 10 * (pace or 0)) else "stopped"
    return {
        "name": name, "recipe": recipe if isinstance(recipe, str) else None, "state": state, "step": step, "of": of,
        "begun": begun, "written": written, "seconds_a_step": each,
    }  # fmt: skip


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


class Logs:
    """The columns of the runs that were looked at last."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, Log] = OrderedDict()

    def of(self, folder: Path) -> Log:
        """This run's, as far as it has been read."""
        log = self._open.pop(folder, None) or Log(folder)
        self._open[folder] = log
        while len(self._open) > OPEN:
            self._open.popitem(last=False)
        return log


def data() -> APIRouter:
    """The page's data; of no run where the server was given no folder."""
    router = APIRouter(prefix="/pages/runs", dependencies=[Depends(operator)], include_in_schema=False)
    logs = Logs()
    known: dict[str, Path] = {}

    def look(request: Request) -> dict[str, Path]:
        nonlocal known
        root = house_of(request).config.runs
        known = found = folders(Path(root).expanduser()) if root else {}  # at once: other threads are reading the last
        return found

    def asked(request: Request, names: list[str]) -> dict[str, Path]:
        there = known
        if not there.keys() >= set(names):
            there = look(request)
        if missing := [name for name in names if name not in there]:
            raise ApiError(404, f"There is no run {missing[0][:200]!r} here.", code="run_not_found", param="run")
        return {name: there[name] for name in names}

    @router.get("")
    def every(request: Request) -> dict[str, Any]:
        """The runs, those written last first."""
        now = time.time()
        runs = [standing(name, folder, now) for name, folder in look(request).items()]
        return {"folder": house_of(request).config.runs or None, "runs": runs, "now": now}

    @router.get("/config")
    def config(request: Request, run: Name) -> dict[str, Any]:
        """A run's settings as they stand in its config.json."""
        (folder,) = asked(request, [run]).values()
        return _config(folder)

    @router.get("/curves")
    def curves(
        request: Request,
        run: Annotated[list[str], Query(max_length=SERIES)],
        metric: Annotated[list[str] | None, Query(max_length=64)] = None,
        x: Axis = "step",
        points: Annotated[int, Query(ge=16, le=4000)] = 600,
        smooth: Annotated[float, Query(ge=0, le=0.999)] = 0.0,
        seen: str = "",
    ) -> dict[str, Any]:
        """The metrics (all, where none is named) of the runs over `x`; nothing but `seen` where that is as it was."""
        chosen = [(name, logs.of(folder)) for name, folder in asked(request, list(dict.fromkeys(run))).items()]
        for _, log in chosen:
            log.refresh()
        state = " ".join(log.seen for _, log in chosen)
        if state == seen:
            return {"seen": state}
        wanted = metric or list(dict.fromkeys(name for _, log in chosen for name in log.metrics()))
        each = max(16, min(points, POINTS // (len(chosen) * max(1, len(wanted)))))
        drawn = {name: {run: log.curve(name, x, each, smooth) for run, log in chosen} for name in wanted}
        return {
            "seen": state,
            "curves": {name: {run: xy for run, xy in by.items() if xy} for name, by in drawn.items()},
            "lines": {run: log.lines for run, log in chosen},
            "broken": {run: log.broken for run, log in chosen if log.broken},
        }

    return router
