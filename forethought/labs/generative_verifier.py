"""Generative verifiers on last letters: who still tells right from wrong where there are more words than it learned on?

    python -m forethought.labs.generative_verifier

The paper (arXiv 2408.15240, section 4): verifiers that reason before they judge do better than discriminative ones, and
on algorithmic tasks they hold up at lengths beyond training: best-of-n solves 45.3 % where one answer solves 5 %. Arms,
from the same model and the same thoughts of 2 to 4 words, judging thoughts of 2 to 4, of 5 and of 6:

- `head`: a scalar head, binary cross-entropy (`verifier`);
- `word`: Yes or No (`generative`);
- `critique`: the lines read again, then the word (`chain_of_thought`), the mean of K such;
- `word+` and `critique+`: the same, imitating right thoughts besides (lambda 1/3).

What stands in for pretraining is a model that has learned to solve lists of 2 to 6 words; it is the generator too. No
arm is shown a judgement of more than 4 words. The pre-registered shape: at 2 to 4 words the arms are near each other;
at 6 best-of-32 by `critique` is above that by `head`, the paired difference clear of 0. Beside each number stand the
tokens it took, judging included, and a vote of as many.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import tyro

from forethought.labs.runs import finish
from forethought.problems import open_task
from forethought.recipes import generative, sft, verifier
from forethought.recipes.run import at_least, write_config
from forethought.recipes.student import Student
from forethought.scaling.measure import (
    Estimate,
    Pool,
    best_at,
    estimate,
    gain,
    gather,
    judged_tokens_at,
    maj_at,
    pass_at,
    tokens_at,
)
from forethought.scaling.verifiers import auc
from forethought.scaling.words import percent
from forethought.search.seeds import derive
from forethought.store import Store, open_store
from forethought.thought.tokens import Tokenizer, prompt_tokens
from forethought.types import Sampling, Trace, Verdict
from forethought.verify.generative import critique_prompt
from forethought.verify.open import open_verifier
from forethought.verify.verdict import Verify

ARMS = ("head", "word", "word+", "critique", "critique+")
KS = (1, 2, 4, 8, 16, 32)
"""Thoughts that the best is chosen from."""
RESAMPLES = 500
"""Draws of problems for the interval of an AUC."""


@dataclass(frozen=True)
class Config:
    """Seeds and size of the lab."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """A base, a bank of thoughts and all arms for each of them."""
    known: str = "2-4"
    """Words of the problems that judging is learned on."""
    unseen: tuple[str, ...] = ("5", "6")
    """Words of those that it is only tested on."""
    base_steps: int = 800
    """Optimizer steps of the base, 16 worked examples each, on all of these lengths."""
    temperature: float = 1.4
    """Of the thoughts that are judged, hot enough to err: so seed 0's base is right on 67, 36 and 12 % of training
    problems of 2 to 4, of 5 and of 6 words."""
    learned: int = 300
    """Problems whose thoughts, of 16 each, the verifiers learn from."""
    steps: int = 150
    """Optimizer steps of a verifier, 16 judgements each."""
    lr: float = 1e-3
    """Their peak learning rate."""
    problems: int = 20
    """Held-out problems of each test, for each seed."""
    vote: int = 128
    """Thoughts of each of them, all of which can vote; the first 32 are judged."""
    votes: tuple[int, ...] = (1, 4, 16)
    """Critiques of a thought whose p(Yes) are averaged; the largest number is drawn."""
    out: str = "runs/generative-verifier"
    """Where the runs go; those that are there already are gone on with."""

    def __post_init__(self) -> None:
        at_least(self, 1, "base_steps", "learned", "steps", "problems")
        at_least(self, max(KS), "vote")
        if not self.votes or min(self.votes) < 1:
            raise ValueError(f"votes is {self.votes}; give at least one number of critiques, each at least 1")


def main(config: Config) -> Path:
    """Run what is missing of all seeds and arms, and print the tables.

    Raises ValueError, before anything is run, where the folder holds a lab with other settings.
    """
    out = Path(config.out)
    write_config(out, "generative_verifier", replace(config, seeds=()), resume=(out / "config.json").exists())
    found: dict[str, dict[str, list[Trace]]] = {words: {} for words in (config.known, *config.unseen)}
    for seed in config.seeds:
        base = finish(base_of(config, seed))
        bank = open_store(out / f"bank-{seed}")
        _draw(config, seed, base, bank)
        for arm in ARMS:
            run = finish(arm_of(config, seed, arm, base))
            for words, arms in found.items():
                arms.setdefault(arm, []).extend(_judged(config, seed, arm, words, run, bank))
    voters = {
        words: [t for seed in config.seeds for t in open_store(out / f"bank-{seed}").traces(run=f"test-{words}")]
        for words in found
    }
    tokenizer = Student.load(str(base)).tokenizer
    print("\n\n".join(table(words, arms, voters[words], config.votes, tokenizer) for words, arms in found.items()))
    return out


def base_of(config: Config, seed: int) -> sft.Config:
    """The run that makes the generator, from which every verifier begins."""
    longest = max(int(words.rpartition("-")[2]) for words in (config.known, *config.unseen))
    return sft.Config(
        problems=f"letters:words={config.known.partition('-')[0]}-{longest}", examples=6000, batch=16,
        steps=config.base_steps, lr=4e-3, warmup=50, layers=3, width=64, seed=seed, eval_problems=0, save_every=100,
        out=f"{config.out}/base-{seed}",
    )  # fmt: skip


def arm_of(config: Config, seed: int, arm: str, base: Path) -> verifier.Config | generative.Config:
    """The run that makes a seed's verifier; all learn from the same thoughts."""
    if arm not in ARMS:
        raise ValueError(f"arm is {arm!r}; choose from {', '.join(ARMS)}")
    told: dict[str, Any] = {
        "model": str(base), "problems": f"letters:words={config.known}", "store": f"{config.out}/bank-{seed}",
        "run": "train", "seed": seed, "per_problem": 4, "batch": 16, "steps": config.steps, "lr": config.lr,
        "eval_problems": 0, "save_every": config.steps, "out": f"{config.out}/{arm}-{seed}",
    }  # fmt: skip
    if arm == "head":
        return verifier.Config(**told, kind="outcome")
    return generative.Config(
        **told,
        kind="chain_of_thought" if arm.startswith("critique") else "generative",
        solve=1 / 3 if arm.endswith("+") else 0.0,
        k=max(config.votes),
        critique_tokens=160,  # one of 6 words has 145; with the longest prompt and a forced question it still fits
    )


def _draw(config: Config, seed: int, base: Path, bank: Store) -> None:
    """Put a seed's thoughts into its bank, each set once: `train`, and `test-WORDS` for each length."""
    there = {run.name for run in bank.summary().runs}
    generator = Student.load(str(base))
    for words in ("train", config.known, *config.unseen):
        learned, name = words == "train", words if words == "train" else f"test-{words}"
        if name in there:
            continue
        task = open_task(f"letters:words={config.known if learned else words}")
        count, n = (config.learned, 16) if learned else (config.problems, config.vote)
        # Other problems than those that the base was taught on.
        problems = task.load("train" if learned else "test", count=count, seed=derive(seed, "bank", name) or 0)
        groups = generator.sample(problems, task, n, Sampling(96, config.temperature, seed=seed), name)
        with bank.writer(name) as writer:
            writer.extend(pairs(groups, seed) if learned else (trace for group in groups for trace in group))


def pairs(groups: Sequence[Sequence[Trace]], seed: int) -> list[Trace]:
    """What all arms learn from: at most 4 right and 4 wrong thoughts of a problem, none twice; as many right as wrong.

    Raises ValueError where all thoughts are right, or all wrong.
    """
    told = [trace for group in groups for trace in generative.distinct(group, 4, seed)]
    sides = [[trace for trace in told if trace.reward == side] for side in (1.0, 0.0)]
    if not all(sides):
        raise ValueError(
            f"{len(sides[0])} of {len(told)} thoughts are right; change --temperature, so that some are not"
        )
    return [trace for side in sides for trace in random.Random(seed).sample(side, min(map(len, sides)))]


def _judged(config: Config, seed: int, arm: str, words: str, run: Path, bank: Store) -> list[Trace]:
    """The first thoughts of each test problem with the arm's verdict under its name, judged once and kept in the bank.

    Thoughts of the same text are judged once, and each is billed for it.
    """
    name = f"{arm}-{words}"
    if name not in {run.name for run in bank.summary().runs}:
        groups: dict[str, list[Trace]] = {}
        for trace in bank.traces(run=f"test-{words}"):
            groups.setdefault(trace.problem_id, []).append(trace)
        traces = [trace for group in groups.values() for trace in group[: max(KS)]]
        alone = {(trace.problem_id, trace.text): trace for trace in traces}
        scored = verifier.score(list(alone.values()), _verify(config, seed, arm, run), arm)
        told = {key: trace.verdicts[arm] for key, trace in zip(alone, scored, strict=True)}
        with bank.writer(name) as writer:
            for trace in traces:
                verdict = told[trace.problem_id, trace.text]
                writer.append(replace(trace, verdicts={**trace.verdicts, arm: verdict}))
    return list(bank.traces(run=name))


def _verify(config: Config, seed: int, arm: str, run: Path) -> Verify:
    asked = arm_of(config, seed, arm, run)
    if isinstance(asked, verifier.Config):
        return open_verifier(str(run))
    return generative.judge_of(asked, Student.load(str(run)).engine)


def averaged(trace: Trace, arm: str, k: int, most: int, tokenizer: Tokenizer) -> Trace:
    """The trace as its first k of `most` critiques judge it, the prompt paid in full."""
    verdict = trace.verdicts[arm]
    prompt = len(prompt_tokens(tokenizer, critique_prompt(trace.messages, trace.steps)))
    told = [score for number in range(1, k + 1) if (score := verdict.parts.get(f"critique {number}")) is not None]
    cost = prompt + math.ceil(max(0, verdict.cost - prompt) * k / most)
    fewer = Verdict(fmean(told) if told else None, answer=verdict.answer, cost=cost)
    return replace(trace, verdicts={**trace.verdicts, arm: fewer})


def table(
    words: str, arms: dict[str, list[Trace]], voters: Sequence[Trace], votes: Sequence[int], tokenizer: Tokenizer
) -> str:
    """A length's numbers: by arm AUC, and for each n best-of-n, its tokens, and a vote of as many tokens."""
    everyone = gather(voters)
    plain = estimate(tokens_at(everyone, 1)).value
    head = [f"{words} words: pass@1 {percent(estimate(pass_at(everyone, 1)))}"]
    head += [f"{'n':>24}" + "".join(f"{k:>8}" for k in KS)]
    head += [f"{'pass@n':>24}" + "".join(f"{100 * _mean(everyone, partial(pass_at, k=k)):>8.0f}" for k in KS)]
    lines, pools = [], {}
    for arm, traces in arms.items():
        for k in votes if arm.startswith("critique") else (0,):
            name = f"{arm}, K={k}" if k else arm
            seen = [averaged(t, arm, k, max(votes), tokenizer) for t in traces] if k else traces
            pools[name] = gather(seen, judge=arm)
            spent = [_mean(pools[name], partial(judged_tokens_at, k=n)) for n in KS]
            fair = [max(1, min(len(everyone[0].samples), round(tokens / plain))) for tokens in spent]
            best = [estimate(best_at(pools[name], n)) for n in KS]
            lines += [f"{name}: AUC {_told(auc_of(pools[name]))}, best of {KS[-1]} {percent(best[-1])}"]
            lines += [f"{'best of n':>24}" + "".join(f"{100 * each.value:>8.0f}" for each in best)]
            lines += [f"{'tokens':>24}" + "".join(f"{tokens:>8,.0f}" for tokens in spent)]
            lines += [
                f"{'a vote of as many':>24}"
                + "".join(f"{100 * _mean(everyone, partial(maj_at, k=n)):>8.0f}" for n in fair)
            ]
    first = next(iter(pools))
    for name, own in list(pools.items())[1:]:
        more = gain(pools[first], own, partial(best_at, k=KS[-1]))
        lines += [f"{name} over {first}, best of {KS[-1]}: {percent(more)}{'' if more.clear else ' (not clear of 0)'}"]
    return "\n".join([*head, *lines])


def auc_of(pools: Sequence[Pool]) -> Estimate:
    """AUC over all judged thoughts, its interval from draws of whole problems."""
    scored = [
        [(s.judged, ok) for s, ok in zip(pool.judged, pool.right, strict=True) if s.judged is not None]
        for pool in pools
    ]

    def over(places: Sequence[int]) -> float:
        pairs = [pair for place in places for pair in scored[place]]
        return auc([score for score, _ in pairs], [right for _, right in pairs])

    rng = np.random.default_rng(0)
    drawn = [over(rng.integers(len(pools), size=len(pools)).tolist()) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(over(range(len(pools))), float(low), float(high), len(pools))


def _told(each: Estimate) -> str:
    return f"{each.value:.3f} [{each.low:.3f}, {each.high:.3f}]"


def _mean(pools: Sequence[Pool], metric: partial[np.ndarray]) -> float:
    return estimate(metric(pools)).value


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
