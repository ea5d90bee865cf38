"""Text behind tokens as they are drawn, though the two end in different places: stop strings, and what is complete."""

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


class Spelling:
    """The text that each token completes, one after the other; `decode` as for `Stops`.

    Of the tokens told before, those of the last piece are decoded again: what one decodes to depends on them.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._start = self._told = 0

    def text(self, token: int) -> str:
        """What `token` adds; `""` while a character is not complete."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._start : self._told])
        text = self._decode(self._tokens[self._start :])
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._start, self._told = self._told, len(self._tokens)
        return text[len(before) :]
