"""What stands around every recipe's loop: its folder, its config, its place after an interruption."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TypeVar

import tyro

from forethought import __version__
from forethought.problems import Task
from forethought.problems.tools import open_tools
from forethought.scaling.report import rebuild
from forethought.scaling.stages import FILE, Report, Stage, load_report, save_report
from forethought.store import Writer, open_store
from forethought.train.metrics import MetricsLog, read
from forethought.types import Problem, Trace

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every recipe of `forethought train` is told, whatever its method; each adds its own and sets defaults."""

    model: str
    """A checkpoint's folder or a run's, smollm2-135m, tiny, or a hub name."""
    problems: str = "sums"
    """A task, as `sums:terms=3,most=12`, or a file of problems."""
    question: str = "question"
    """Column of the question, where the problems are a file's."""
    answer: str = "answer"
    """Column of the answer."""
    max_tokens: int = 128
    """Longest thought."""
    tools: str = ""
    """What a thought may call while it is drawn: python, calculator, or both with a comma."""
    eval_problems: int = 200
    """Held-out problems; 0 measures nothing."""
    eval_samples: int = 4
    """Thoughts for each of them."""
    eval_temperature: float = 1.0
    """Of these thoughts."""
    lora_rank: int = 0
    """Leave the weights as they are and train low-rank adapters of this rank over them; 0 trains the weights."""
    recompute: bool = False
    """Keep no activations between the passes but compute them again: a third more work for a fraction of the memory."""
    dtype: str = "auto"
    """auto, bf16 or fp32."""
    sinks: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """More places for metrics: trackio, tensorboard, wandb."""
    seed: int = 0
    """Of problems, order, new weights and samples."""
    out: Annotated[str, tyro.conf.arg(metavar="RUN", help_behavior_hint="(default: runs/RECIPE-TIME)")] = ""
    """The run's folder."""

    def __post_init__(self) -> None:
        open_tools(self.tools)  # refuses what is not there
        at_least(self, 1, "max_tokens", "eval_samples")
        at_least(self, 0, "eval_problems", "eval_temperature", "lora_rank")
        if self.lora_rank and find_spec("peft") is None:
            raise ValueError(f"lora_rank is {self.lora_rank}, and LoRA needs peft: pip install 'forethought[lora]'")


def at_least(config: Any, least: int, *names: str) -> None:
    """Refuse a config in which one of the named fields is set and below `least`, with a `ValueError`."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


@dataclass
class Run:
    """A recipe at work in its folder."""

    recipe: str
    folder: Path
    config: Any
    metrics: MetricsLog
    writer: Writer
    stages: list[Stage]
    """What has been measured so far, in this process or before an interruption."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set by Ctrl-C: the loop is to save its place and end."""

    def due(self, step: int, steps: int, every: int) -> bool:
        """Is a checkpoint to be written after `step`? At the last step and after Ctrl-C always."""
        return self.stop.is_set() or step == steps or step % every == 0

    def raise_if_asked(self) -> None:
        """End with KeyboardInterrupt where Ctrl-C asked for it; call it where the place is saved."""
        if self.stop.is_set():
            raise KeyboardInterrupt

    def keep(self, groups: Iterable[Sequence[Trace]]) -> None:
        """Put thoughts in the run's store."""
        for group in groups:
            self.writer.extend(group)

    def add(self, stage: Stage, ks: Sequence[int], model: str, title: str) -> Path:
        """Take up what was measured, and write `stages.json` and `report.html` with all of it."""
        self.stages.append(stage)
        verb = "demo" if self.recipe == "demo" else f"train {self.recipe}"
        command = f"forethought {verb} --config {self.folder / 'config.json'}"
        report = Report(title, model, tuple(self.stages), tuple(ks), config=asdict(self.config), command=command)
        save_report(self.folder, report)
        return rebuild(self.folder, read(self.folder))


def folder_of(recipe: str, out: str, resume: Path | None) -> Path:
    """Where the run lives: the one to resume, the one named, or a fresh `runs/RECIPE-TIME`."""
    return resume or Path(out or f"runs/{recipe}-{time.strftime('%Y%m%d-%H%M%S')}")


def write_config(folder: Path, recipe: str, config: Any, *, resume: bool) -> None:
    """Make the folder and write `config.json` in it, or hold the config against the one that is there.

    Raises:
        ValueError: the folder holds something else, a run of another recipe, or one with other settings.
        OSError: the folder cannot be written.
    """
    path = folder / "config.json"
    ours = {"recipe": recipe, "config": asdict(config), "version": __version__}
    if resume:
        theirs = read_config(folder)
        if theirs["recipe"] != recipe:
            raise ValueError(f"{folder} is a run of {theirs['recipe']}, not of {recipe}")
        changed = {
            name: (theirs["config"].get(name), value)
            for name, value in json.loads(json.dumps(ours["config"])).items()
            if theirs["config"].get(name) != value
        }
        if changed:
            words = ", ".join(f"{name} was {old!r} and is {new!r}" for name, (old, new) in changed.items())
            raise ValueError(f"{folder} was begun with other settings: {words}; resume it with its own")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty; give --resume {folder} to go on with it, or another --out")
        path.write_text(json.dumps(ours, indent=1, default=str) + "\n", encoding="utf-8")
    except OSError as error:
        raise OSError(f"the run cannot be kept in {folder}: {error.strerror or error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """A run's `config.json`: its recipe, config and version. Raises `ValueError` where the folder is no run."""
    try:
        found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{folder} is no run: it has no readable config.json ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / 'config.json'} is not JSON: {error}") from None
    return found


@contextmanager
def begin(recipe: str, config: Any, resume: Path | None, place: Path | None) -> Iterator[Run]:
    """Open a run's folder, its metrics (cut back to `place`'s step on resumption) and its store, and watch for Ctrl-C.

    The first Ctrl-C sets `Run.stop`, so that the loop can save its place between two steps; a second one ends at once.
    """
    folder = folder_of(recipe, config.out, resume)
    write_config(folder, recipe, config, resume=resume is not None)
    stages = list(load_report(folder).stages) if resume and (folder / FILE).exists() else []
    with (
        MetricsLog(folder, config.sinks, resume=step_of(place) if resume else None, config=asdict(config)) as metrics,
        open_store(folder / "store").writer(folder.name) as writer,
    ):
        run = Run(recipe, folder, config, metrics, writer, stages)
        with _watched(run.stop):
            yield run


def step_of(place: Path | None) -> int:
    """The step a checkpoint was written after; 0 for none."""
    return int(place.name.rpartition("-")[2]) if place else 0


@contextmanager
def _watched(stop: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may have handlers
        yield
        return

    def asked(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("\nstopping after this step; Ctrl-C again to stop now and lose it", flush=True)

    before = signal.signal(signal.SIGINT, asked)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def batches(items: Sequence[T], size: int, steps: int, seed: int) -> list[list[T]]:
    """`steps` batches of `size`, epoch after epoch, each epoch in an order of its own; the last of one may be mixed
    with the first of the next, so that every batch is full.

    Raises ValueError where there is nothing to take from.
    """
    if not items:
        raise ValueError("there is nothing to train on")
    rng = random.Random(seed)
    order: list[T] = []
    while len(order) < size * steps:
        epoch = list(items)
        rng.shuffle(epoch)
        order += epoch
    return [order[step * size : (step + 1) * size] for step in range(steps)]


def prompts(task: Task, count: int, number: int, seed: int) -> list[Problem]:
    """The `number`-th `count` training problems, counted from 0. A file's come in shuffled epochs without end, and so
    do those of a mixture of generators once it has no new ones."""
    taken = number * count
    problems = task.load("train") if task.finite else task.load("train", count=taken + count, seed=seed)
    if not task.finite and len(problems) == taken + count:
        return problems[taken:]
    epochs: dict[int, list[Problem]] = {}
    for epoch in range(taken // len(problems), (taken + count - 1) // len(problems) + 1):
        epochs[epoch] = list(problems)
        if epoch or task.finite:  # the first of a generator was in its own order
            random.Random(f"{seed}/{epoch}").shuffle(epochs[epoch])
    places = (divmod(index, len(problems)) for index in range(taken, taken + count))
    return [epochs[epoch][at] for epoch, at in places]


def levels_of(problems: Sequence[Problem]) -> Mapping[str, list[Problem]]:
    """Problems by `meta["level"]`, easiest first; those of a task without levels stand under one."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(str(problem.meta.get("level", "")), []).append(problem)
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))
