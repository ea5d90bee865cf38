"""What a run measured, and the file it keeps it in, so that its report can be written again without sampling."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from forethought import __version__
from forethought.scaling.measure import Pool, Sample

FILE = "stages.json"
FORMAT = 1


@dataclass(frozen=True)
class Stage:
    """A model at one point of its training, and what it could do there. Costs are its own, not running sums."""

    name: str
    pools: tuple[Pool, ...]
    """The same held-out problems at every stage."""
    training_tokens: int = 0
    """Tokens the learner ran through, prompts and epochs included, to get here from the stage before."""
    sampled_tokens: int = 0
    """Tokens drawn to learn from; what measuring drew is in `pools`."""
    train_flops: float = 0.0
    sample_flops: float = 0.0
    seconds: float = 0.0
    """Wall-clock, measuring included."""
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One series of a chart: n points, with intervals or without."""

    name: str
    """Lines of one name share a colour."""
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    kind: str = ""
    """Lines of one kind share a dash pattern."""
    labels: tuple[str, ...] = ()
    """Written above the points."""
    faint: bool = False
    """Drawn thin and left out of the legend: the raw values behind a mean."""

    def __post_init__(self) -> None:
        for name in ("y", "low", "high", "labels"):
            size = len(getattr(self, name))
            if size != len(self.x) and (size or name == "y"):
                raise ValueError(f"line {self.name!r} has {len(self.x)} x and {size} {name}; they must be as many")


@dataclass(frozen=True)
class Chart:
    """A picture before it is drawn."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    caption: str = ""
    log_x: bool = False
    percent: bool = False
    """y runs from 0 to 1 and is shown as a percentage."""
    x_names: tuple[str, ...] = ()
    """Names of x = 0, 1, 2, … where x counts things."""


@dataclass(frozen=True)
class Report:
    """All that the page says."""

    title: str
    model: str
    """What the model honestly is, e.g. `smollm2-135m: instruct model, 4-bit weights, dequantised`."""
    stages: tuple[Stage, ...]
    """In the order they were reached; gains are told from each to the next."""
    ks: tuple[int, ...] = (1, 2, 4, 8)
    """Samples to vote over."""
    charts: tuple[Chart, ...] = ()
    """The recipe's own pictures, shown after those of accuracy against compute."""
    config: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    """What to type to get these numbers again."""
    notes: tuple[str, ...] = ()
    """What a reader must know to judge the numbers, a sentence each."""
    when: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M"))
    version: str = __version__

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a report needs at least one stage; this run measured none")
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks is {self.ks}; give at least one k, each at least 1")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages are named {names}; each needs a name of its own")


def examples(stages: Sequence[Stage]) -> dict[str, str]:
    """Problems to show, by id, and what became of each: the first that was learned, still wrong, lost, or still right.

    Judged by the first sample at the first and at the last stage, so that nothing is picked for looks.
    """
    outcomes = {(False, True): "learned", (False, False): "still wrong", (True, False): "lost", (True, True): "right"}
    after = {pool.problem_id: pool for pool in stages[-1].pools}
    found: dict[str, str] = {}
    for pool in stages[0].pools:
        later = after.get(pool.problem_id)
        if later is None or not pool.right or not later.right:
            continue
        found.setdefault(outcomes[pool.right[0], later.right[0]], pool.problem_id)
    return {found[outcome]: outcome for outcome in outcomes.values() if outcome in found}


def save_report(run: str | Path, report: Report) -> Path:
    """Write `stages.json` into the run's folder. Texts are kept only of the problems that the page shows."""
    shown = set(examples(report.stages))
    stages = [
        {**vars(stage), "pools": [packed(pool, pool.problem_id in shown) for pool in stage.pools]}
        for stage in report.stages
    ]
    record = {"format": FORMAT, **vars(report), "stages": stages, "charts": [asdict(c) for c in report.charts]}
    path = Path(run) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".json.new")
    new.write_text(json.dumps(record, default=str), encoding="utf-8")
    os.replace(new, path)
    return path


def load_report(run: str | Path) -> Report:
    """The report that `save_report` wrote.

    Raises:
        ValueError: the folder does not exist, measured nothing, or its file cannot be read.
    """
    path = Path(run) / FILE
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder; give the folder of a run")
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no {FILE}: it is not a run, or it ended before anything was measured")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record.pop("format")
        if version != FORMAT:
            raise ValueError(f"it is of format {version!r}, and this forethought reads {FORMAT}")
        record["stages"] = tuple(
            Stage(**{**stage, "pools": tuple(unpacked(pool) for pool in stage["pools"])}) for stage in record["stages"]
        )
        record["charts"] = tuple(_chart(chart) for chart in record["charts"])
        return Report(**_tuples(record))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as a run's measurements: {error}") from error


_COLUMNS = tuple(column.name for column in fields(Sample))


def packed(pool: Pool, texts: bool) -> dict[str, Any]:
    """A pool by columns, so that names are written once, as JSON takes it; texts only where asked for."""
    columns = {name: [getattr(sample, name) for sample in pool.samples] for name in _COLUMNS}
    if not texts:
        columns["text"] = [""] * len(pool.samples)
    # A column that is the same throughout (no judge, no text) is written once.
    thin = {name: column[0] if len(set(column)) == 1 else column for name, column in columns.items()}
    about = {"id": pool.problem_id, "question": pool.question, "gold": pool.gold, "level": pool.level}
    return {**about, "n": len(pool.samples), **thin}


def unpacked(row: Mapping[str, Any]) -> Pool:
    """The pool that was `packed`."""
    n = row["n"]
    columns = [row[name] if isinstance(row[name], list) else [row[name]] * n for name in _COLUMNS] if n else []
    samples = tuple(Sample(*values) for values in zip(*columns, strict=True))
    return Pool(row["id"], samples, question=row["question"], gold=row["gold"], level=row["level"])


def _chart(row: Mapping[str, Any]) -> Chart:
    return Chart(**{**_tuples(row), "lines": tuple(Line(**_tuples(line)) for line in row["lines"])})


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples; our records hold nothing else."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
