"""What may be said of a hidden thought: a sentence for each stretch of it in other words, checked against it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from forethought.engines.usage import Usage, counting
from forethought.serve.spoken import spoken
from forethought.thought.marks import CLOSE, OPEN
from forethought.types import Engine, Sampling, user

PARTS = {"concise": 1, "auto": 3, "detailed": 6}
"""`reasoning.summary` to the most sentences that are made."""
EVERY = 600
"""Characters of thought for which a sentence is worth its tokens."""
SENTENCE = Sampling(max_tokens=48, temperature=0, stop=("\n",))
PROMPT = (
    "Below are private notes. In one short sentence, say in general terms what kind of work they do. Use your own "
    "words; quote nothing, name no names, give no numbers and no result.\n\nNotes:\n"
)
READ = 2000
"""Most characters of a stretch that are summarised."""
NEUTRAL = (
    "Working through the question.",
    "Considering how to go on.",
    "Looking at the steps so far.",
    "Checking what has been found.",
    "Weighing what remains.",
    "Coming to an answer.",
)
"""Said where nothing else may be."""

WORDS, LETTERS = 4, 20
"""The longest run of a thought's words, and of its letters and digits with all else left out, that may be repeated."""
TELLING = 4
"""Letters and digits of a name or a number from which it is looked for even where it was spelled apart."""
_WORD = re.compile(r"\w+")


def squeezed(text: str) -> str:
    """Letters and digits alone, in one case."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def leaks(said: str, hidden: str, known: str) -> bool:
    """Does `said` give away `hidden`, beyond what the reader knows already?

    It does where it repeats more than `WORDS` words in a row, or more than `LETTERS` letters and digits whatever stands
    between them; and where it has any number, code or name of it (a word with a digit, an underscore or a capital
    inside or all in capitals; a capitalised one that begins no sentence). What also stands in `known` is no secret. A
    text that was enciphered or translated is not found out.
    """
    private, public = _WORD.findall(hidden.casefold()), _WORD.findall(known.casefold())
    theirs, ours = f" {' '.join(private)} ", f" {' '.join(public)} "
    words = _WORD.findall(said.casefold())
    for at in range(len(words) - WORDS):
        run = f" {' '.join(words[at : at + WORDS + 1])} "
        if run in theirs and run not in ours:
            return True
    letters, inside, outside = squeezed(said), squeezed(hidden), squeezed(known)
    for at in range(len(letters) - LETTERS):
        run = letters[at : at + LETTERS + 1]
        if run in inside and run not in outside:
            return True
    secret = set(private) - set(public)
    told = {word.casefold() for word in _telling(said)} | set(filter(_has_digit, words))
    if told & secret:
        return True
    codes = {squeezed(word) for word in _telling(hidden)} - {squeezed(word) for word in public}
    return any(len(code) >= TELLING and code in letters and code not in outside for code in codes)


def _has_digit(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def _telling(text: str) -> list[str]:
    """Words that are a number, a code or a name by their looks."""
    found = []
    for match in _WORD.finditer(text):
        word, before = match[0], text[: match.start()].rstrip(" \t\"'(*-")
        begins = not before or before[-1] in ".!?:\n>"
        coded = _has_digit(word) or "_" in word or any(letter.isupper() for letter in word[1:])
        if coded or (word[0].isupper() and not begins and len(word) > 1):
            found.append(word)
    return found


@dataclass(slots=True)
class Narrator:
    """Sums up one request's thoughts as they grow; `tell` gets each sentence when it is certain that it may be said."""

    engine: Engine | None
    """Who is asked; `None`: only neutral words are said."""
    known: str
    """All that the reader can see: the conversation."""
    parts: int
    tell: Callable[[str], None]
    usage: Usage = field(default_factory=Usage)
    """What its own calls have cost."""
    _hidden: list[str] = field(default_factory=list)
    _pending: str = ""
    _said: int = 0
    _task: asyncio.Task[None] | None = None

    def drawn(self, text: str) -> None:
        """More of a thought: hidden text."""
        self._hidden.append(text)
        self._pending += text
        idle = self._task is None or self._task.done()
        if idle and len(self._pending) >= EVERY and self._said < self.parts - 1:
            stretch, self._pending = self._pending, ""
            self._task = asyncio.create_task(self._sentence(stretch))

    async def finish(self, thought: str) -> None:
        """The thought is whole: say what there is to say of its rest, and of all of it where nothing was said."""
        if self._task is not None:
            await self._task
        rest = thought if not self._said else self._pending if len(self._pending) >= EVERY else ""
        self._hidden.append(thought)
        room = self.parts - self._said
        if not rest.strip() or room < 1:
            return
        count = min(room, -(-len(rest) // EVERY))
        size = -(-len(rest) // count)
        for at in range(0, len(rest), size):
            await self._sentence(rest[at : at + size])

    async def stop(self) -> None:
        """Ask nobody any more."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _sentence(self, stretch: str) -> None:
        said = await self._asked(stretch) if self.engine is not None else ""
        number, self._said = self._said, self._said + 1
        # In a thread: a long conversation is read letter by letter.
        if not said or await asyncio.to_thread(leaks, said, "\n".join(self._hidden), self.known):
            said = NEUTRAL[number % len(NEUTRAL)]
        self.tell(said)

    async def _asked(self, stretch: str) -> str:
        """What the engine makes of it; `""` where it has no answer."""
        assert self.engine is not None
        notes = stretch[-READ:].replace(OPEN, "").replace(CLOSE, "").strip()
        with counting() as usage:
            try:
                step = await self.engine.sample(user(PROMPT + notes), (), SENTENCE)
            except ValueError:  # longer than its context
                return ""
        self.usage.add(usage)
        return "" if step.stop == "error" else spoken(step.text)[0]
