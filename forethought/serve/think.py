"""One answer: a search for a thought under its share of the budget, then the answer behind it, told as it is drawn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from forethought.engines.usage import Usage, counting
from forethought.search.allocate import auto
from forethought.search.best_of_n import best_of_n
from forethought.search.mix import Search
from forethought.search.seeds import derive
from forethought.search.size import PARALLEL, sized
from forethought.search.tree import finished
from forethought.serve.config import AUTO
from forethought.serve.errors import TOO_LONG, ApiError, failed, wrong
from forethought.serve.models import Served
from forethought.serve.spoken import Spoken, Telling, spoken
from forethought.serve.watch import Hear, Said, Watched, nobody
from forethought.thought.marks import CLOSE, OPEN, after_thought, thought_of
from forethought.thought.steps import split
from forethought.types import Budget, Messages, Sampling, Step, Tree

EMPTY = Step(f"{OPEN}\n{CLOSE}\n", sampled=False)
"""A thought of nothing, for a model that would think although it should not."""
CLOSED = f"\n{CLOSE}\n"
"""Ends a thought that has not ended by itself."""
MARGIN = 16
"""Tokens kept free for what is written between a thought and its answer."""

Pause = Callable[[str], Awaitable[None]]
"""Awaited with the whole thought before its answer is told: what must be said of the one comes before the other."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be answered."""

    messages: Messages
    effort: str = ""
    """One of the model's efforts or `auto`; `""` is the model's own."""
    tokens: int | None = None
    """Most tokens to draw, thoughts, verdicts and answer together."""
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Of the answer; a thought goes on over them."""
    schema: str | None = None
    """A JSON schema that the answer is held to."""
    before: str = ""
    """An unfinished thought to go on with."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it. `thought` is hidden text."""

    text: str
    cut: bool
    """Did it run into a limit?"""
    tokens: tuple[tuple[str, float], ...]
    """The answer's, with their log-probabilities (nats); empty where the engine does not tell."""
    thought: str
    prompt: int
    """Tokens of the conversation."""
    cached: int
    """Of these, those that were in the engine's memory already."""
    sampled: int
    """Tokens drawn: every thought that was tried, and the answer."""
    spoken: int
    """Of these, the answer's."""
    usage: Usage
    """All that engines computed, prompts read again and judges included."""

    @property
    def reasoning(self) -> int:
        """Tokens drawn for thoughts."""
        return self.sampled - self.spoken


async def at_once(thought: str) -> None:
    """No pause."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a request may draw."""

    thinking: int
    """Tokens for the search."""
    total: int
    """Tokens in all."""
    path: int | None
    """Tokens behind the conversation, one thought and the answer together, that the context holds; `None`: unknown."""
    answer: int
    """Of a path, kept free for the answer."""


def room_of(ask: Ask, model: Served, search: str, tokens: tuple[int, ...] | None) -> Room:
    """What a request may draw, its prompt being `tokens`. The context bounds each path; only where thoughts are drawn
    side by side, none behind another, may they be more in all than it holds.

    Of a limit that the request or the context sets, up to `answer_tokens`, but no more than half, is kept free for the
    answer.

    Raises ApiError for an effort that the model does not have, and where the prompt leaves no room.
    """
    config = model.config
    effort = ask.effort or config.effort
    if effort == AUTO and model.plan is not None:
        thinking = model.plan.budgets[-1]
    elif effort in config.efforts:
        thinking = config.efforts[effort]
    else:
        known = [*config.efforts, *([AUTO] if model.plan else [])]
        raise wrong(
            "reasoning_effort", f"Effort is {effort!r}; this model has {', '.join(known)}.", "unsupported_value"
        )
    total = thinking + config.answer_tokens if ask.tokens is None else ask.tokens
    path = None
    if tokens is not None and model.context is not None:
        prompt = len(tokens) + _length(model, ask.before)
        path = model.context - prompt - MARGIN
        if path < 1:
            message = (
                f"This model's context holds {model.context} tokens, and the conversation takes {prompt} of them: "
                "there is no room for an answer."
            )
            raise ApiError(400, message, code=TOO_LONG, param="messages")
        if search not in PARALLEL or effort == AUTO:
            total = min(total, path)

    def kept(limit: int) -> int:
        return min(config.answer_tokens, -(-limit // 2))

    thinking = max(0, min(thinking, total - kept(total)))
    return Room(thinking, total, path, kept(total if path is None else min(total, path)))


async def answer(
    ask: Ask,
    model: Served,
    search: str,
    hear: Hear = nobody,
    pause: Pause = at_once,
    drawn: Callable[[str], None] | None = None,
) -> Answer:
    """Think, then answer; all tokens drawn are within `ask.tokens`, and an answer is always come to.

    `hear` is told of each step and of each piece of the answer, `drawn` the text of each step of a thought.

    Raises ApiError: the request cannot be met, or the engine failed.
    """
    messages = model.asked(ask.messages)
    prompt = await model.prompt(messages)
    before = (Step(ask.before, sampled=False),) if ask.before else ()
    opens = model.opens(prompt) or bool(ask.before)
    room = room_of(ask, model, search, prompt)
    if not room.thinking:
        messages, prompt = ask.messages, await model.prompt(ask.messages)
    known = None if prompt is None else len(prompt)
    watched = Watched(model.engine, before, hear, drawn, known=known)
    request = _Request(ask, model, watched, opens, pause)
    with counting() as usage:
        if room.thinking:
            said = await request.think(messages, search, room)
        else:
            said = await request.speak(messages, _no_thought(model, opens), _least(room.total, room.path))
    text, cut, tokens, thought, count = said
    read = known or watched.read
    cached = max(0, read - watched.computed)
    return Answer(text, cut, tokens, ask.before + thought, read, cached, watched.sampled, count, usage)


def _no_thought(model: Served, opens: bool) -> tuple[Step, ...]:
    """What is written so that no thought begins, or the one that the template opened ends."""
    if opens:
        return (Step(EMPTY.text.removeprefix(OPEN), sampled=False),)
    return (EMPTY,) if model.trained else ()


async def check(ask: Ask, model: Served, search: str) -> None:
    """Refuse, before anything is computed, what cannot be answered. Raises ApiError."""
    room = room_of(ask, model, search, await model.prompt(model.asked(ask.messages)))
    name = AUTO if (ask.effort or model.config.effort) == AUTO else search
    if room.thinking and ask.temperature == 0 and (name == AUTO or name in PARALLEL):
        message = f"At temperature 0, {name} draws the same thought again and again; give a temperature above 0."
        raise wrong("temperature", message)
    if ask.schema is not None:
        held = getattr(model.engine, "held", None)
        if held is None:
            message = "This model's engine cannot hold an answer to a schema."
            raise wrong("response_format", message, "unsupported_value")
        try:
            await held(ask.schema)
        except ValueError as error:
            raise wrong("response_format", f"{error}.", "invalid_json_schema") from None


def _least(limit: int, other: int | None) -> int:
    return limit if other is None else min(limit, other)


def _length(model: Served, text: str) -> int:
    tokenizer: Any = getattr(model.engine, "tokenizer", None)
    return len(tokenizer.encode(text, add_special_tokens=False)) if text and tokenizer else 0


_Said = tuple[str, bool, tuple[tuple[str, float], ...], str, int]
"""The answer, whether it was cut, its tokens, the thought, and how many tokens the answer was drawn as."""


@dataclass(slots=True)
class _Request:
    ask: Ask
    model: Served
    watched: Watched
    opens: bool
    """Does the text begin inside a thought?"""
    pause: Pause

    async def think(self, messages: Messages, name: str, room: Room) -> _Said:
        """Search, and answer with the best thought's answer or behind it."""
        ask, config, judge = self.ask, self.model.config, self.model.judge
        if (ask.effort or config.effort) == AUTO:
            name = AUTO
        search, sampling = self._search(name, room)
        if not name:
            judge, self.watched.aloud = None, True
        elif judge is not None and config.verify_tokens:
            search = partial(search, verify_tokens=config.verify_tokens)
        if self.model.tools is not None:
            search = partial(search, tools=self.model.tools)
        budget = Budget(room.thinking, config.seconds)
        heeded = None if judge is None else self.watched.heeded(judge)
        tree = await search(messages, self.watched, budget=budget, verify=heeded, sampling=sampling)
        steps = _best(tree)
        self.watched.choose(steps)
        text = "".join(step.text for step in steps)
        shown = after_thought(OPEN + text if self.opens else text)
        done = tree.best is not None and finished(steps[-1]) and not text.endswith(CLOSE)
        if done and shown is not None and shown.strip() and ask.schema is None:
            return await self._told(steps, text, shown)
        if not steps and self.watched.faults:
            raise failed()
        left = None if room.path is None else room.path - sum(self.watched.cost(step) for step in steps)
        steps, _ = self._parted(steps) if CLOSE in text else (steps, ())
        left = _least(room.total - tree.budget.used, left)
        return await self.speak(messages, (*steps, _bridge(steps, self.opens)), left)

    def _search(self, name: str, room: Room) -> tuple[Search, Sampling]:
        """The search and how its thoughts are drawn."""
        ask, thinking = self.ask, room.thinking
        longest = _least(self.model.config.thought_tokens, None if room.path is None else room.path - room.answer)
        longest = max(1, longest)
        if not name:
            one = Sampling(thinking, ask.temperature, ask.top_p, (CLOSE,), ask.seed)
            return partial(best_of_n, n=1), one
        sampling = Sampling(min(longest, thinking), ask.temperature, ask.top_p, seed=ask.seed)
        if name == AUTO and self.model.plan is not None:
            return partial(auto, allocation=self.model.plan), sampling
        found = sized(name, thinking, longest)
        # Not every answer is a box: what closes a forced thought here says nothing of what follows.
        return partial(found, final=CLOSED) if name == "force" else found, sampling

    async def _told(self, steps: tuple[Step, ...], text: str, shown: str) -> _Said:
        """The answer that the best thought came with."""
        _, answers = self._parted(steps) if CLOSE in text else ((), steps)
        thought = thought_of(OPEN + text if self.opens and OPEN not in text else text)
        await self.pause(thought)
        visible, _ = spoken(shown, self.ask.stop)
        decode = getattr(self.model.engine, "decode", None)
        pairs = [pair for step in answers for pair in zip(step.tokens, step.logprobs, strict=False) if decode]
        tokens = tuple((str(decode([token])), logprob) for token, logprob in pairs) if decode else ()
        self.watched.hear(Said(visible, tokens))
        count = sum(len(step.tokens) for step in answers)
        if not count:  # an engine that tells no tokens: by the share of characters of what it counted
            drawn = sum(self.watched.cost(step) for step in steps)
            count = round(drawn * len(shown) / max(1, len(text)))
        return visible, False, tokens, thought, count

    async def speak(self, messages: Messages, prefix: tuple[Step, ...], room: int) -> _Said:
        """Draw the answer behind `prefix`, a thought that is closed or none, and tell it as it comes."""
        ask, watched = self.ask, self.watched
        written = "".join(step.text for step in prefix)
        thought = thought_of(OPEN + written if self.opens and OPEN not in written else written)
        await self.pause(thought)
        telling, drawn = Telling(Spoken(ask.stop), watched.hear), watched.sampled
        watched.answering = True
        sampling = Sampling(max(1, room), ask.temperature, ask.top_p, ask.stop, derive(ask.seed, "answer"))
        step = await watched.speak(messages, prefix, sampling, telling.heard, ask.schema)
        if step.stop == "error":
            raise failed()
        telling.end()
        cut = not finished(step) and not telling.stopped
        tokens = tuple(telling.tokens) if step.logprobs and hasattr(self.model.engine, "stream") else ()
        return telling.text, cut, tokens, thought, watched.sampled - drawn

    def _parted(self, steps: tuple[Step, ...]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        """The steps up to the end of the thought, and those of the answer."""
        decode = getattr(self.model.engine, "decode", None)
        at = max(index for index, step in enumerate(steps) if CLOSE in step.text)
        step = steps[at] if decode is not None else replace(steps[at], tokens=(), logprobs=())
        pieces = split(step, decode or str, CLOSE)
        last = max((index for index, piece in enumerate(pieces) if CLOSE in piece.text), default=len(pieces) - 1)
        return (*steps[:at], *pieces[: last + 1]), (*pieces[last + 1 :], *steps[at + 1 :])


def _best(tree: Tree) -> tuple[Step, ...]:
    """The search's thought; where none finished, the one valued highest, between equals the longest."""
    if tree.best is not None:
        return tree.steps(tree.best)
    leaves = [leaf for leaf in tree.leaves() if (step := tree.nodes[leaf].step) and step.stop != "error"]
    if not leaves:
        return ()

    def promise(leaf: int) -> tuple[float, int]:
        value = tree.nodes[leaf].value
        return -1.0 if value is None else value, sum(len(step.text) for step in tree.steps(leaf))

    return tree.steps(max(leaves, key=promise))


def _bridge(steps: tuple[Step, ...], opens: bool) -> Step:
    """What is written between a thought and its answer: the thought's end where it has none, and a new line."""
    text = "".join(step.text for step in steps)
    if not text and not opens:
        return EMPTY
    return Step("\n" if text.endswith(CLOSE) else CLOSED, sampled=False)
