"""`forethought store`: look into the traces that a run kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, get_args

import tyro

from forethought.cli.terminal import rows, say, tell, unknown
from forethought.scaling.labellers import agreement
from forethought.scaling.tree_page import tree_of, write_tree
from forethought.scaling.words import counted
from forethought.store import Where, find_store
from forethought.store.memory import Format
from forethought.store.schema import sampled_tokens
from forethought.types import Stop

Folder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True)
class Filters:
    """Which traces; all that is given must hold."""

    run: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Of this run."""
    problem: Annotated[str | None, tyro.conf.arg(metavar="ID", help_behavior_hint="")] = None
    """Of this problem."""
    policy: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Drawn by this model, as `smollm2-135m@120`."""
    stop: Annotated[Stop | None, tyro.conf.arg(metavar="|".join(get_args(Stop)), help_behavior_hint="")] = None
    """That ended so."""
    min_reward: Annotated[float | None, tyro.conf.arg(metavar="R", help_behavior_hint="")] = None
    """Graded at least this."""
    max_reward: Annotated[float | None, tyro.conf.arg(metavar="R", help_behavior_hint="")] = None
    """Graded at most this."""

    def where(self) -> Where:
        """The conditions that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}  # type: ignore[return-value]


@dataclass(frozen=True)
class Ls:
    """List the runs of a store and its traces, in the order they were written."""

    path: Folder
    """A store, or the folder of a run."""
    filters: tyro.conf.OmitArgPrefixes[Filters] = field(default_factory=Filters)
    limit: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Show so many traces."""


@dataclass(frozen=True)
class Show:
    """Print one trace: what was asked, the thought, the verdicts."""

    path: Folder
    """A store, or the folder of a run."""
    id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")]
    """The trace's id, or how it begins."""


@dataclass(frozen=True)
class Export:
    """Write traces into one file, whole or not at all."""

    path: Folder
    """A store, or the folder of a run."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The file to write."""
    filters: tyro.conf.OmitArgPrefixes[Filters] = field(default_factory=Filters)
    format: Format = "jsonl"
    """Of the file."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Write so many traces."""


@dataclass(frozen=True)
class TreePage:
    """Draw one search as a page: its steps, what they scored, who their siblings were."""

    path: Folder
    """A store, or the folder of a run."""
    id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")]
    """The tree's name, as `store show` says it; or the id of one of its traces, or how that begins."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("tree.html")
    """The file to write."""
    run: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: all)")] = None
    """Only traces of this run."""


@dataclass(frozen=True)
class LabelsOf:
    """Say who labelled how much, and how far they agree."""

    path: Folder
    """A store, or the folder of a run."""


USAGE = """usage: forethought store ls|show|tree|labels|export PATH ...

  ls PATH               the runs of a store and its traces
  show PATH ID          one trace: what was asked, the thought, the verdicts
  tree PATH ID          one search as a page, by its name or by a trace of it
  labels PATH           who labelled how many steps, and how far they agree
  export PATH OUT       traces as one JSON Lines or Parquet file

PATH is a store, or the folder of a run. `forethought store ls --help` has the filters.
"""


def store(words: list[str]) -> int:
    """Do what the first word says."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    name, rest = words[0], words[1:]
    prog = f"forethought store {name}"
    match name:
        case "ls":
            _ls(tyro.cli(Ls, prog=prog, args=rest))
        case "show":
            _show(tyro.cli(Show, prog=prog, args=rest))
        case "tree":
            _tree(tyro.cli(TreePage, prog=prog, args=rest))
        case "labels":
            _labels(tyro.cli(LabelsOf, prog=prog, args=rest))
        case "export":
            options = tyro.cli(Export, prog=prog, args=rest)
            count = find_store(options.path).export(
                options.out, options.format, limit=options.limit, **options.filters.where()
            )
            tell(counted(count, "trace"))
            say(str(options.out))
        case _:
            raise unknown("store command", name, ("ls", "show", "tree", "labels", "export"))
    return 0


def _ls(options: Ls) -> None:
    opened = find_store(options.path)
    summary = opened.summary()
    say(f"{opened.path}: {counted(summary.shards, 'shard')}, {summary.bytes / 1e6:,.1f} MB\n")
    runs = [
        (
            run.name,
            _minute(run.created),
            f"{run.traces:,}",
            f"{run.problems:,}",
            f"{run.tokens:,}",
            _reward(run.reward),
        )
        for run in summary.runs
    ]
    say(rows(("run", "since", "traces", "problems", "tokens", "mean reward"), runs, "<<>>>>"))
    if options.limit < 0:
        raise ValueError(f"limit is {options.limit}; it must be 0 or more")
    entries = list(islice(opened.entries(**options.filters.where()), options.limit + 1))
    if not options.limit or not entries:
        return
    lines = [
        (entry.id[:8], entry.run, entry.problem_id, entry.policy, _reward(entry.reward), f"{entry.tokens}", entry.stop)
        for entry in entries[: options.limit]
    ]
    say("\n" + rows(("id", "run", "problem", "policy", "reward", "tokens", "stop"), lines, "<<<<>>"))
    if len(entries) > options.limit:
        tell(f"… and more: --limit shows more than {options.limit}")


def _show(options: Show) -> None:
    trace = find_store(options.path).show(options.id)
    say(f"problem  {trace.problem_id}\npolicy   {trace.policy}\ntree     {trace.tree or '–'}\nstop     {trace.stop}")
    for message in trace.messages:
        say(f"\n[{message['role']}]\n{message['content']}")
    say(f"\n[thought, {sampled_tokens(trace):,} tokens]\n{trace.text}")
    for judge, verdict in trace.verdicts.items():
        answer = "no answer" if verdict.answer is None else f"answer {verdict.answer}"
        say(f"\n[{judge}] {_reward(verdict.score)}: {answer}{f' ({verdict.note})' if verdict.note else ''}")


def _tree(options: TreePage) -> None:
    kept = find_store(options.path).tree(options.id, run=options.run)
    tree, verdicts = tree_of(kept)
    say(str(write_tree(options.out, tree, title=f"Search of {kept[0].problem_id}", verdicts=verdicts)))


def _labels(options: LabelsOf) -> None:
    opened = find_store(options.path)
    told = agreement(opened.labels.standing())
    if not told["labellers"]:
        raise ValueError(
            f"nobody has labelled a thought of {opened.path}; `forethought serve --runs` has the page Label"
        )
    lines = [
        (one["name"], f"{one['labels']:,}", f"{one['thoughts']:,}", _minute(one["last"])) for one in told["labellers"]
    ]
    say(rows(("labeller", "labels", "thoughts", "last"), lines, "<>><"))
    if told["pairs"]:
        lines = [
            (f"{pair['one']}, {pair['other']}", f"{pair['moves']:,}", f"{pair['same']:,}", _reward(pair["kappa"]))
            for pair in told["pairs"]
        ]
        say("\n" + rows(("both labelled", "steps", "same", "kappa"), lines, "<>>>"))
        say(f"\nKrippendorff's alpha {_reward(told['alpha'])}, over {counted(told['moves'], 'step')}")


def _minute(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _reward(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
