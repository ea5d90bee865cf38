"""`forethought solve`: answer one question under a thinking budget."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import Annotated

import tyro

from forethought.cli.model import UNTRAINED, Instruct, instructed, instructs, is_untrained, opened
from forethought.cli.terminal import say, tell, unknown
from forethought.engines.http_body import Api
from forethought.problems import final_answer
from forethought.scaling.words import counted
from forethought.search.best_of_n import best_of_n
from forethought.search.tree import finished
from forethought.thought.marks import after_thought, thought_of
from forethought.types import Budget, Sampling, Tree, user
from forethought.verify.vote import answer_of, vote

THINK = {"low": 256, "medium": 1024, "high": 4096}
"""Words for a budget, in tokens."""


@dataclass(frozen=True)
class Options:
    """What `forethought solve` is asked."""

    question: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="QUESTION")]
    """What to answer; - reads it from standard input."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "smollm2-135m"
    """A name, path, run, hub name or URL: see `forethought models`."""
    think: Annotated[str, tyro.conf.arg(metavar="low|medium|high|TOKENS")] = "medium"
    """Tokens to spend in all: 256, 1024, 4096, or a number of your own."""
    k: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: TOKENS / max-tokens)")] = None
    """Thoughts to draw and to vote over."""
    show_thought: bool = False
    """Print the thought before its answer."""
    max_tokens: Annotated[int, tyro.conf.arg(metavar="N")] = 256
    """Longest thought, its answer included."""
    temperature: Annotated[float, tyro.conf.arg(metavar="T")] = 1.0
    """0 is greedy, and draws one thought."""
    top_p: Annotated[float, tyro.conf.arg(metavar="P")] = 1.0
    """Draw from the smallest set of tokens that reaches this probability."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: a fresh one)")] = None
    """The same seed gives the same thoughts."""
    instruct: Instruct = "auto"
    """Ask for a thought between think marks and a boxed answer; auto: unless the model is tiny or was trained here."""
    dtype: Annotated[str, tyro.conf.arg(metavar="auto|bf16|fp32")] = "auto"
    """What to compute in."""
    cache_gib: Annotated[float, tyro.conf.arg(metavar="GIB")] = 2.0
    """Most memory for keys and values, of a model that is computed with here."""
    api: Annotated[
        Api | None, tyro.conf.arg(metavar="chat|completions|tokens", help_behavior_hint="(default: chat)")
    ] = None
    """How a server is asked: by its chat template, by plain text, or by token ids."""


def solve(words: list[str]) -> int:
    """Print the answer; what it took goes to standard error. 1 where no thought came to an end."""
    what = "Answer one question: draw several thoughts under one budget and answer with the majority."
    options = tyro.cli(
        Options, prog="forethought solve", description=what, args=words, config=(tyro.conf.FlagCreatePairsOff,)
    )
    budget = Budget(tokens=_tokens(options.think))
    sampling = Sampling(options.max_tokens, options.temperature, options.top_p, seed=options.seed)
    question = sys.stdin.read() if options.question == "-" else options.question
    if not question.strip():
        raise ValueError("the question is empty; give it in quotes, or - and text on standard input")
    if options.k is not None and options.k < 1:
        raise ValueError(f"k is {options.k}; draw at least 1 thought")
    if options.temperature == 0 and (options.k or 1) > 1:
        raise ValueError(f"temperature 0 draws the same thought {options.k} times; take k=1 or a temperature above 0")
    n = options.k or (1 if options.temperature == 0 else max(1, (budget.tokens or 1) // options.max_tokens))
    messages = user(question)
    if instructs(options.model, options.instruct):
        messages = instructed(messages)
    if is_untrained(options.model):
        tell(UNTRAINED)

    async def search() -> tuple[Tree, float]:
        async with opened(options.model, options.dtype, options.api, options.cache_gib) as engine:
            tell(
                f"up to {n} thoughts of {options.max_tokens} tokens, {budget.tokens:,} in all" if n > 1 else "1 thought"
            )
            began = time.perf_counter()
            tree = await best_of_n(messages, engine, budget=budget, sampling=sampling, n=n)
            return tree, time.perf_counter() - began

    return _show(*asyncio.run(search()), options.show_thought)


def _tokens(think: str) -> int:
    if think in THINK:
        return THINK[think]
    try:
        return int(think)
    except ValueError:
        raise unknown("thinking budget", think, [*THINK, "any number of tokens"]) from None


def _show(tree: Tree, seconds: float, show_thought: bool) -> int:
    """The best thought and its bill; where none ended, why."""
    drawn = [step for leaf in tree.leaves() for step in tree.steps(leaf)]
    bill = f"{tree.budget.used:,} tokens, {counted(len(drawn), 'thought')}, {seconds:.1f} s"
    if tree.best is None:
        if show_thought and drawn:
            say(drawn[0].text)
        if tree.note and all(step.stop == "error" for step in drawn):
            raise ConnectionError(tree.note)
        tell(f"no thought came to an end ({bill}): give them more room with --max-tokens or --think")
        return 1
    (best,) = tree.steps(tree.best)
    text = best.text
    answer, _ = final_answer(text)
    shown = (after_thought(text) or "").strip()
    thought = thought_of(text) or (shown if answer is not None else "")
    if show_thought and thought:
        say(f"{thought}\n")
    say(answer if answer is not None else shown)
    answers = [answer_of(step.text) for step in drawn if finished(step)]
    votes = [each for each in answers if each is not None]
    if len(drawn) > 1:
        share = vote(answers).shares.get(answer_of(text) or "", 0.0)
        count = f"{round(share * len(votes))} of {len(votes)} votes"
        bill += f"; {count}" if votes else "; nobody boxed an answer: this is the first thought that ended"
    tell(f"{bill}{f' ({tree.note})' if tree.note else ''}")
    return 0
