"""What a reader sees of a text while it is drawn: nothing of a thought, nothing from a stop string on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from forethought.serve.watch import Said
from forethought.thought.marks import CLOSE, OPEN


class Spoken:
    """Takes a text in pieces of any size and gives back what may be shown, as early as it is certain.

    Thoughts between their marks are left out, and so are blanks at both ends. The first of `stops` ends it: it is not
    shown, nor is what follows. Pieces do not change what is shown in all. `hidden`: the text begins inside a thought.
    `bare`: blanks at the ends are shown too; `open_`: so are thoughts.
    """

    def __init__(
        self, stops: Sequence[str] = (), *, hidden: bool = False, bare: bool = False, open_: bool = False
    ) -> None:
        self._stops, self._bare = tuple(stops), bare
        self._marks = self._stops if open_ else (OPEN, CLOSE, *self._stops)
        self._held, self._hidden, self._begun = "", hidden, False
        self._blank = ""
        self.stopped = False
        """Has a stop string been met?"""

    def feed(self, text: str) -> str:
        """What can be shown now that `text` has come."""
        self._held += text
        shown = ""
        while not self.stopped:
            if self._hidden:
                before, closed, after = self._held.partition(CLOSE)
                self._held = after if closed else before[-len(CLOSE) + 1 :]
                if not closed:
                    break
                self._hidden = False
                continue
            found = min(((at, mark) for mark in self._marks if (at := self._held.find(mark)) >= 0), default=None)
            if found is None:
                cut = len(self._held) - self._open()
                shown, self._held = shown + self._held[:cut], self._held[cut:]
                break
            at, mark = found
            shown, self._held = shown + self._held[:at], self._held[at + len(mark) :]
            self._hidden, self.stopped = mark == OPEN, mark in self._stops
        return self._stripped(shown)

    def end(self) -> str:
        """What was held back and can be shown now that nothing more comes."""
        rest = "" if self._hidden or self.stopped else self._held
        self._held, self._hidden = "", False
        return self._stripped(rest)

    def _open(self) -> int:
        """How many characters at the end may be the beginning of a mark."""
        longest = min(len(self._held), max(map(len, self._marks), default=1) - 1)
        for size in range(longest, 0, -1):
            if any(mark.startswith(self._held[-size:]) for mark in self._marks):
                return size
        return 0

    def _stripped(self, shown: str) -> str:
        """Without blanks at the beginning; those at the end wait for what follows them."""
        if self._bare:
            return shown
        shown = self._blank + shown if self._begun else shown.lstrip()
        kept = shown.rstrip()
        self._blank = shown[len(kept) :]
        self._begun = self._begun or bool(kept)
        return kept


class Telling:
    """An answer that is told while it is drawn: `heard` takes its tokens, `tell` gets what may be shown of them."""

    def __init__(self, shown: Spoken, tell: Callable[[Said], None]) -> None:
        self._shown, self._tell = shown, tell
        self._pieces: list[str] = []
        self._waiting: list[tuple[str, float]] = []
        self.tokens: list[tuple[str, float]] = []
        """Those that were told, with their log-probabilities."""

    @property
    def text(self) -> str:
        """All that was told."""
        return "".join(self._pieces)

    @property
    def stopped(self) -> bool:
        """Has a stop string been met?"""
        return self._shown.stopped

    def heard(self, text: str, logprob: float) -> None:
        """One more token, or a piece whose log-probability is not a number."""
        if text and not math.isnan(logprob):
            self._waiting.append((text, logprob))
        self._say(self._shown.feed(text))

    def end(self) -> None:
        """Nothing more comes."""
        self._say(self._shown.end())

    def _say(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            self.tokens.extend(self._waiting)
            self._tell(Said(piece, tuple(self._waiting)))
            self._waiting.clear()


def spoken(text: str, stops: Sequence[str] = ()) -> tuple[str, bool]:
    """All of `text` that may be shown, and whether a stop string was met."""
    whole = Spoken(stops)
    shown = whole.feed(text)
    return shown + whole.end(), whole.stopped
