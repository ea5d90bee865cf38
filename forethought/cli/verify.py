"""`forethought verify`: train a verifier, or have one judge the thoughts of a store."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from forethought.cli.terminal import say, tell, unknown
from forethought.cli.train import train
from forethought.engines.open import needing_weights, open_engine

CHUNK = 512
"""Thoughts that are judged at one time."""

USAGE = """usage: forethought verify train|score ...

  train     learn to tell right thoughts from wrong ones: outcome, process, bradley_terry or value head
  score     have a verifier judge the thoughts of a store, and keep its verdicts there

`forethought verify train` is `forethought train verifier`. `forethought verify score --help` has the options.
"""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Have a verifier judge the thoughts of a store; they are kept there again with its verdicts, as another run."""

    verifier: Annotated[str, tyro.conf.arg(metavar="VERIFIER")]
    """The folder of a trained one, or any that has a name: confidence, generative:MODEL, http://host/path, ..."""
    store: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """A store, or the folder of a run."""
    run: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the only one)")] = ""
    """The run whose thoughts are judged."""
    name: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the verifier's last word)")] = ""
    """What the verdicts, and the run that has them, are called."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = ""
    """Who is asked, for verifiers that ask a model; also whose tokenizer cuts thoughts into steps."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Judge the first so many."""
    dtype: Annotated[str, tyro.conf.arg(metavar="auto|bf16|fp32")] = "auto"
    """What to compute in."""


def verify(words: list[str]) -> int:
    """Do what the first word says."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    match words[0]:
        case "train":
            return train(["verifier", *words[1:]])
        case "score":
            return _score(tyro.cli(Score, prog="forethought verify score", args=words[1:]))
        case name:
            raise unknown("verify command", name, ("train", "score"))


def _score(options: Score) -> int:
    with needing_weights("forethought verify"):
        from forethought.recipes.label import cut
        from forethought.recipes.verifier import chosen, score
        from forethought.scaling.verifiers import judgement
        from forethought.verify.open import open_verifier
    store, run = chosen(options.store, options.run)
    name = options.name or Path(options.verifier.partition(":")[0]).name
    if name in {known.name for known in store.summary().runs}:
        raise ValueError(f"{store.path} has a run {name!r} already; give these verdicts another --name")
    folder = Path(options.verifier).is_dir()
    # A head's own weights judge, and one engine over them cuts thoughts into steps as well.
    named = options.model or (options.verifier if folder else "")
    engine = open_engine(named, dtype=options.dtype) if named else None
    judge = open_verifier(options.verifier, engine, dtype=options.dtype)
    decode = getattr(engine, "decode", None)
    traces = (cut(trace, decode) if decode else trace for trace in store.traces(run=run, limit=options.limit))
    done, cost, began = [], 0, time.monotonic()
    with store.writer(name) as writer, tqdm(unit="thought", desc=name) as bar:
        while chunk := list(islice(traces, CHUNK)):
            judged = score(chunk, judge, name, progress=bar.update)
            writer.extend(judged)
            writer.flush()
            cost += sum(trace.verdicts[name].cost for trace in judged)
            done += [replace(trace, messages=(), steps=()) for trace in judged]
    if not done:
        raise ValueError(f"the run {run!r} of {store.path} has no thoughts to judge")
    unable = sum(trace.verdicts[name].score is None for trace in done)
    seconds = time.monotonic() - began
    tell(f"{len(done):,} thoughts judged, {unable:,} could not be; {cost:,} tokens computed, {seconds:.0f} s")
    if any(trace.reward is not None for trace in done):
        say(", ".join(f"{key} {value:.3g}" for key, value in judgement(done, name).items()))
    say(f"{store.path} (run {name})")
    return 0
