"""Find the stop string that a row has run into, though tokens and characters end in different places."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Stops:
    """Looks behind each drawn token. `decode` gives the text of tokens, special ones left out."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._texts: dict[int, str] = {}
        """Of tokens seen so far, each twice in a row: some tokenizers drop the blank before a text's first token."""

    def text(self, tokens: Sequence[int], stops: tuple[str, ...]) -> str | None:
        """The text up to and with the stop string that its last token has completed, or `None`."""
        # Most tokens hold no stop string's last character. One with half a character or none may complete one still.
        last = tokens[-1]
        own = self._texts.get(last)
        if own is None:
            own = self._texts[last] = self._decode([last, last])
        if own and "\N{REPLACEMENT CHARACTER}" not in own and not any(stop[-1] in own for stop in stops):
            return None
        # A stop string of n bytes lies within the last n tokens; the one before keeps a tokenizer from trimming them.
        tail = self._decode(tokens[-max(len(stop.encode()) for stop in stops) - 1 :])
        if not any(stop in tail for stop in stops):
            return None
        text = self._decode(tokens)
        hits = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
        return text[: min(hits)] if hits else None
