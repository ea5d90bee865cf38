"""`forethought solve`: answer one question under a thinking budget."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from forethought.cli.model import (
    UNTRAINED,
    Instruct,
    check_judge,
    instructs,
    is_untrained,
    judging,
    opened,
    thinking_tokens,
)
from forethought.cli.terminal import say, tell
from forethought.engines.http_body import Api
from forethought.engines.usage import Usage, counting
from forethought.problems import final_answer
from forethought.problems.tools import open_tools
from forethought.scaling.words import counted
from forethought.search.allocate import Allocation, auto, load
from forethought.search.mix import Search
from forethought.search.size import named, sized
from forethought.search.tree import finished
from forethought.thought.marks import after_thought, thought_of
from forethought.thought.tools import instructed
from forethought.types import Budget, Sampling, Step, Tree, user
from forethought.verify.vote import answer_of, vote


@dataclass(frozen=True)
class Options:
    """What `forethought solve` is asked."""

    question: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="QUESTION")]
    """What to answer; - reads it from standard input."""
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = "smollm2-135m"
    """A name, path, run, hub name or URL: see `forethought models`."""
    think: Annotated[str, tyro.conf.arg(metavar="low|medium|high|TOKENS|auto")] = "medium"
    """Tokens to spend in all: 256, 1024, 4096, a number of your own; auto: as an allocation says."""
    search: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: best-of-n)")] = ""
    """How to search: majority, weighted, beam, mcts, ..."""
    verify: Annotated[str, tyro.conf.arg(metavar="VERIFIER", help_behavior_hint="(default: none, a vote)")] = ""
    """Who judges thoughts: a trained one's folder, confidence, generative:MODEL, a URL, ..."""
    verify_tokens: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """The most that one verdict computes: kept free for it, so that the budget holds."""
    tools: Annotated[str, tyro.conf.arg(metavar="NAMES", help_behavior_hint="(default: none)")] = ""
    """What a thought may call: python, calculator, or both with a comma."""
    allocation: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """For auto: what `forethought allocate` wrote, which has its own budget, searches and verifier."""
    k: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: TOKENS / max-tokens)")] = None
    """Thoughts to draw and to vote over."""
    show_thought: bool = False
    """Print the thought before its answer."""
    max_tokens: Annotated[int, tyro.conf.arg(metavar="N")] = 256
    """Longest thought, its answer included; where a search goes by steps, the longest step."""
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
    cache_gib: Annotated[
        float | None, tyro.conf.arg(metavar="GIB", help_behavior_hint="(default: 2, on a GPU more)")
    ] = None
    """Most memory for keys and values, of a model that is computed with here."""
    api: Annotated[
        Api | None, tyro.conf.arg(metavar="chat|completions|tokens", help_behavior_hint="(default: chat)")
    ] = None
    """How a server is asked: by its chat template, by plain text, or by token ids."""


def solve(words: list[str]) -> int:
    """Print the answer; what it took goes to standard error. 1 where no thought came to an end."""
    what = "Answer one question: search among thoughts under one budget, by vote or by a verifier, and answer."
    options = tyro.cli(
        Options, prog="forethought solve", description=what, args=words, config=(tyro.conf.FlagCreatePairsOff,)
    )
    plan = _allocation(options)
    tokens = plan.budgets[-1] if plan else thinking_tokens(options.think)
    budget = Budget(tokens=tokens)
    name, verify = named(options.search or "best-of-n"), options.verify
    if plan:
        verify = verify or plan.verify
    elif options.search:
        check_judge(name, verify)
    sampling = Sampling(options.max_tokens, options.temperature, options.top_p, seed=options.seed)
    question = sys.stdin.read() if options.question == "-" else options.question
    if not question.strip():
        raise ValueError("the question is empty; give it in quotes, or - and text on standard input")
    if options.k is not None and options.k < 1:
        raise ValueError(f"k is {options.k}; draw at least 1 thought")
    if options.temperature == 0 and (options.k or 1) > 1:
        raise ValueError(f"temperature 0 draws the same thought {options.k} times; take k=1 or a temperature above 0")
    n = options.k or (1 if options.temperature == 0 else max(1, tokens // options.max_tokens))
    if plan:
        search: Search = partial(auto, allocation=plan)
    else:
        search = sized(name, n * options.max_tokens, options.max_tokens)
    if options.verify_tokens:
        search = partial(search, verify_tokens=options.verify_tokens)
    if tools := open_tools(options.tools):
        search = partial(search, tools=tools)
    messages = user(question)
    if instructs(options.model, options.instruct):
        messages = instructed(messages, tools)
    if is_untrained(options.model):
        tell(UNTRAINED)

    async def thought() -> tuple[Tree, Usage]:
        async with (
            opened(options.model, options.dtype, options.api, options.cache_gib) as engine,
            judging(verify, options.model, engine, options.dtype) as judge,
        ):
            if plan or options.search:
                tell(f"{'auto' if plan else name}, {tokens:,} tokens in all")
            else:
                tell(f"up to {n} thoughts of {options.max_tokens} tokens, {tokens:,} in all" if n > 1 else "1 thought")
            with counting() as usage:
                tree = await search(messages, engine, budget=budget, verify=judge, sampling=sampling)
            return tree, usage

    return _show(*asyncio.run(thought()), options.show_thought)


def _allocation(options: Options) -> Allocation | None:
    """What `--think auto` goes by; `None` for any other budget."""
    if options.think != "auto":
        if options.allocation is not None:
            raise ValueError(
                f"think is {options.think!r}, and an allocation is given; say --think auto, or leave it out"
            )
        return None
    if options.allocation is None:
        raise ValueError("think is 'auto', and there is no allocation; give --allocation FILE (`forethought allocate`)")
    if options.search or options.k:
        raise ValueError("an allocation has its own searches and sizes; leave out --search and --k")
    plan = load(options.allocation)
    if plan.needs_judge and not (options.verify or plan.verify):
        raise ValueError(f"{options.allocation} goes by a verifier's scores and names none; give --verify")
    return plan


def _show(tree: Tree, usage: Usage, show_thought: bool) -> int:
    """The best thought and its bill; where none ended, why."""
    thoughts = [steps for leaf in tree.leaves() if (steps := tree.steps(leaf))]
    ended = [steps for steps in thoughts if finished(steps[-1])]
    bill = f"{tree.budget.used:,} tokens, {counted(len(thoughts), 'thought')}, {usage.seconds:.1f} s"
    if usage.tool_calls:
        bill += f" ({counted(usage.tool_calls, 'call')} of tools, {usage.tool_seconds:.1f} s)"
    if tree.best is None:
        if show_thought and thoughts:
            say(_text(thoughts[0]))
        if thoughts and all(steps[-1].stop == "error" for steps in thoughts):
            raise ConnectionError(tree.note)
        tell(f"no thought came to an end ({bill}): give them more room with --max-tokens or --think")
        return 1
    text = _text(tree.steps(tree.best))
    answer, _ = final_answer(text)
    shown = (after_thought(text) or "").strip()
    thought = thought_of(text) or (shown if answer is not None else "")
    if show_thought and thought:
        say(f"{thought}\n")
    say(answer if answer is not None else shown)
    answers = [answer_of(_text(steps)) for steps in ended]
    votes = [each for each in answers if each is not None]
    if len(thoughts) > 1:
        share = vote(answers).shares.get(answer_of(text) or "", 0.0)
        count = f"{round(share * len(votes))} of {len(votes)} votes"
        bill += f"; {count}" if votes else "; nobody boxed an answer: this is the first thought that ended"
    if (score := tree.nodes[tree.best].value) is not None:
        bill += f"; score {score:.3f}"
    tell(f"{bill}{f' ({tree.note})' if tree.note else ''}")
    return 0


def _text(steps: Sequence[Step]) -> str:
    return "".join(step.text for step in steps)
