"""Best-of-8 with a judge and a 4 × 4 beam with a process reward model, against its-hub, optillm and llm-reasoners.

    python benchmarks/search_vs_peers.py --setup          # make the peers' environments first
    python benchmarks/search_vs_peers.py --latency 50     # each call waits 50 ms first, as on a hosted server

One server (`model_server.py`) answers all, with the same model and the same scorer; every contestant is a process in an
environment of its own (`peers/`). A round is the same fresh questions for each of them, by turns and from an empty
cache; all that is counted is counted by the server. README.md has who is asked how.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import torch
import tyro
from peers.driver import MAX_TOKENS, Round
from race import Race, header, machine, row, verdict

from forethought.engines.models import cache_folder
from forethought.problems import Task, open_task
from forethought.recipes import sft, verifier
from forethought.types import Problem, Step, Trace

HERE = Path(__file__).parent
TASK = "chain:steps=2,modulus=5"
HEAT = 1.7
"""The server draws at so many times the temperature that it is asked for: at 1 the model is right too often for a
search to matter, and optillm asks for 1 whatever it is told."""
LIMIT = 900.0
"""Seconds after which a contestant that has not answered a round is given up."""
WARM = 2
"""Questions of the round before the first, which is not kept."""

SEARCHES = {"best-of-n": ("its_hub", "optillm"), "beam": ("its_hub", "llm_reasoners")}
"""By search, the peers that have it: optillm has no beam over steps, llm-reasoners no best-of-n with a judge."""
GOALS = {"its_hub": 1.5, "optillm": 5.0, "llm_reasoners": 5.0}
"""Least ratio of wall clock, theirs over ours, where one question is asked at a time."""
GOAL_TOGETHER = 1.0
"""The same where all questions are asked at once: the server is the limit, and nobody should be faster than we."""
COLUMNS = ("requests", "judgements", "most", "mean", "prompt", "prefilled", "generated", "scored")
"""Of `model_server.Stats`: calls, those to the scorer, calls in flight at most and on average, tokens."""
PACKAGES: dict[str, tuple[str, ...]] = {
    "its_hub": ("its-hub[lm]==1.2.0 openai==3.52.0 aiohttp==3.14.5 numpy==2.4.6",),
    "optillm": (
        "--no-deps optillm==0.4.0",
        "aiohttp==3.14.5 cerebras_cloud_sdk==1.91.0 flask==3.1.3 math-verify==0.9.0 networkx==3.6.1 numpy==2.4.6 "
        "openai==3.52.0 pyyaml==6.0.3 tiktoken==0.14.0 z3-solver==4.15.4.0",
    ),
    "llm_reasoners": (
        "--no-deps llm-reasoners==1.0.2",
        "httpx==0.28.1 numpy==2.4.6 openai==3.52.0 tqdm==4.70.1",
    ),
}
"""By peer, what pip is told, call by call. Their own requirements bring torch, CUDA and more, for none of these
searches."""


@dataclass(frozen=True)
class Config:
    """Searches over one server: wall clock, calls and tokens against those of its-hub, optillm and llm-reasoners."""

    setup: bool = False
    """Make the peers' environments that are not there."""
    venvs: Path = Path("~/ve-peers")
    """Where they are."""
    latency: float = 0.0
    """Milliseconds that the server lets every call wait."""
    questions: int = 16
    """In a round."""
    rounds: int = 3
    """Rounds that are kept."""
    quick: bool = False
    """Four questions, one round: does it run?"""
    json: bool = False
    """Print one last line of JSON."""

    def __post_init__(self) -> None:
        for name in ("questions", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.latency >= 0:
            raise ValueError(f"latency is {self.latency}; it is in milliseconds, 0 or more")


@dataclass
class Child:
    """A process that is spoken to in lines of JSON."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    async def hear(self) -> Any:
        """Its next line; a RuntimeError with the end of what it wrote to standard error where none comes."""
        assert self.process.stdout is not None
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), LIMIT)
        except TimeoutError:
            line = b""
        if not line:
            raise RuntimeError(
                f"{self.name} gave no answer within {LIMIT:g} s or ended:\n{self.log.read_text()[-2000:]}"
            )
        return json.loads(line)

    async def ask(self, told: Round) -> list[str]:
        """Its answers' texts."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(vars(told)).encode() + b"\n")
        texts: list[str] = await self.hear()
        return texts


@dataclass
class Tally:
    """One contestant's rounds of one search."""

    seconds: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    """By question: 1 or 0."""
    stats: list[Mapping[str, float]] = field(default_factory=list)
    """By round: what the server counted."""

    def costs(self, count: int) -> dict[str, float]:
        """What one of a round's `count` questions took: the median round's seconds, the mean round's counts."""
        found = {name: statistics.fmean(stats[name] for stats in self.stats) for name in COLUMNS}
        by_question = {name: value if name in ("most", "mean") else value / count for name, value in found.items()}
        return {
            "seconds": statistics.median(self.seconds) / count,
            **by_question,
            "right": statistics.fmean(self.right),
        }


def main(config: Config) -> int:
    """Make what is missing, race, print; the exit status is 0 where every goal holds."""
    venvs = config.venvs.expanduser()
    if config.setup:
        set_up(venvs)
    pythons = {name: venvs / name / "bin" / "python" for name in PACKAGES}
    present = {name: python for name, python in pythons.items() if python.exists()}
    for name in pythons.keys() - present.keys():
        print(f"{name} is not installed in {venvs}: --setup does it", file=sys.stderr)
    if not present:
        raise ValueError(f"none of the peers is installed in {venvs}; make them with --setup")
    policy, scorer = trained(cache_folder() / "bench" / TASK.replace(":", "-"))
    about = machine(torch)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    races = asyncio.run(measured(config, present, policy, scorer))
    return verdict("search_vs_peers", races, {**about, "latency_ms": config.latency}, as_json=config.json)


def set_up(venvs: Path) -> None:
    """An environment for each peer that has none; one that fails leaves nothing behind and is told."""
    for name, calls in PACKAGES.items():
        if (folder := venvs / name).exists():
            continue
        part = venvs / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(part)], check=True)
        pip = [str(part / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for call in calls:
            subprocess.run([*pip, *call.split()], check=True)
        part.rename(folder)


def trained(folder: Path) -> tuple[Path, Path]:
    """The policy and its process reward model, in some minutes where they are not there."""
    policy, scorer = folder / "policy", folder / "scorer"
    if not policy.exists():
        part = fresh(policy)
        sft.main(
            sft.Config(
                model="tiny",
                problems=TASK,
                examples=4000,
                batch=32,
                steps=700,
                lr=3e-3,
                layers=2,
                width=64,
                eval_problems=0,
                out=str(part),
            )
        )
        part.rename(policy)
    if not scorer.exists():
        part = fresh(scorer)
        verifier.main(
            verifier.Config(
                model=str(policy),
                problems=TASK,
                kind="process",
                max_tokens=MAX_TOKENS,
                eval_temperature=HEAT,
                batch=32,
                steps=200,
                lr=1e-3,
                out=str(part),
            )
        )
        part.rename(scorer)
    return policy, scorer


def fresh(folder: Path) -> Path:
    """A folder beside `folder` for what is not finished yet, empty."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    return part


async def measured(config: Config, peers: Mapping[str, Path], policy: Path, scorer: Path) -> list[dict[str, Any]]:
    """The figures of every search, one question at a time and all of a round at once."""
    count, rounds = (4, 1) if config.quick else (config.questions, config.rounds)
    task = open_task(TASK)
    problems = task.load("test", count=WARM + rounds * count)
    figures = []
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        weights = (
            "--model",
            str(policy),
            "--scorer",
            str(scorer),
            "--heat",
            str(HEAT),
            "--latency",
            str(config.latency),
        )
        knobs = (*weights, "--heat", str(HEAT), "--latency", str(config.latency))
        server = await stack.enter_async_context(child("server", Path(sys.executable), "model_server", logs, *knobs))
        url = (await server.hear())["url"]
        pythons = {"forethought": Path(sys.executable), **peers}
        children = {
            name: await stack.enter_async_context(child(name, python, f"peers.with_{name}", logs))
            for name, python in pythons.items()
        }
        session = await stack.enter_async_context(aiohttp.ClientSession(url))
        for search, having in SEARCHES.items():
            running = {name: children[name] for name in ("forethought", *having) if name in children}
            for way, at_once in {"one": 1, "together": count}.items():
                tallies = {name: Tally() for name in running}
                for number in range(-1, rounds):
                    begin = 0 if number < 0 else WARM + number * count
                    asked = problems[begin : begin + (WARM if number < 0 else count)]
                    turns = list(running)
                    for name in turns[number % len(turns) :] + turns[: number % len(turns)]:
                        told = Round(url, search, at_once, [problem.messages[0]["content"] for problem in asked])
                        tally = Tally() if number < 0 else tallies[name]
                        await one_turn(session, running[name], told, asked, task, tally)
                figures += table(search, way, count, tallies)
    return figures


async def one_turn(
    session: aiohttp.ClientSession, who: Child, told: Round, asked: Sequence[Problem], task: Task, tally: Tally
) -> None:
    """One contestant's round, added to its tally."""
    async with session.post("/reset") as answer:
        answer.raise_for_status()
    began = time.perf_counter()
    texts = await who.ask(told)
    tally.seconds.append(time.perf_counter() - began)
    async with session.get("/stats") as answer:
        tally.stats.append(await answer.json())
    for problem, text in zip(asked, texts, strict=True):
        trace = Trace(problem.id, problem.messages, (Step(text),), who.name)
        tally.right.append(float(task.grade(problem, trace).score == 1))


def table(search: str, way: str, count: int, tallies: Mapping[str, Tally]) -> list[dict[str, Any]]:
    """Print what each contestant took for a question, then the races; the races' figures."""
    how = "one question at a time" if way == "one" else f"{count} questions at once"
    print(f"\n{search}, {how}: a question takes")
    print(f"{'':16}{'seconds':>9}{''.join(f'{name:>11}' for name in COLUMNS)}{'right':>8}")
    costs = {name: tally.costs(count) for name, tally in tallies.items()}
    for name, cost in costs.items():
        cells = "".join(f"{cost[column]:11.1f}" for column in COLUMNS)
        print(f"{name:16}{cost['seconds']:9.3f}{cells}{cost['right']:8.1%}")
    print(header("wall clock"))
    figures = []
    for peer in [name for name in tallies if name != "forethought"]:
        goal = GOALS[peer] if way == "one" else GOAL_TOGETHER
        race = Race(f"{search}/{way}/{peer}", "questions/s", count, goal)
        race.ours, race.theirs = tallies["forethought"].seconds, {peer: tallies[peer].seconds}
        figures.append({**race.figures(), "costs": {"forethought": costs["forethought"], peer: costs[peer]}})
        print(row(figures[-1]))
    return figures


@asynccontextmanager
async def child(name: str, python: Path, module: str, logs: Path, *arguments: str) -> AsyncIterator[Child]:
    """`module` run by `python`; it ends when it is left."""
    log = logs / f"{name}.log"
    # A peer's environment is its own: what the caller has put on the path for us is not for it.
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" or python == Path(sys.executable)}
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            python,
            "-m",
            module,
            *arguments,
            cwd=HERE,
            env=own,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=1 << 24,
        )
        try:
            yield Child(name, process, log)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
