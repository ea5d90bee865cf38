"""A streamed answer: told piece by piece, and put together as if it had come whole."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

from forethought.engines.http_body import Api, numbers
from forethought.thought.marks import CLOSE, OPEN

Heard = Callable[[str, float], None]


class Broken(Exception):  # noqa: N818 -- what the server said, not a bug
    """A piece that is an error, or none that can be read."""


class Reader:
    """Reads one answer, a stream of server-sent events or, from a server that streams none, a whole one.

    `heard` gets each piece's text, token by token with log-probabilities where the server tells both and `tells` says
    that they are to be trusted, else whole with not-a-number. A thought that comes in a field of its own is told
    between its marks, as it stands in the step (`http_body.step_of`); `prefix` is what the step goes on from.
    """

    def __init__(self, api: Api, prefix: str, heard: Heard, *, tells: bool) -> None:
        self._at, self._heard, self._tells = ("content" if api == "chat" else "text"), heard, tells
        self._opening = "" if OPEN in prefix and CLOSE not in prefix.rpartition(OPEN)[2] else OPEN
        self.begun = False
        """Has a piece come? What was told cannot be taken back: the request is not repeated."""
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._logprobs: list[Any] = []
        self._ids: list[Any] = []
        self._choice: dict[str, Any] = {"index": 0, "finish_reason": None}
        self._usage: Any = None

    async def read(self, pieces: AsyncIterator[bytes]) -> bytes:
        """Take in the answer's body; what is no stream is returned, for others to read. Raises `Broken`."""
        held = b""
        async for piece in pieces:
            held += piece
            if not self.begun and held.lstrip().startswith(b"{"):
                continue
            *lines, held = held.split(b"\n")
            for line in lines:
                self._line(line)
        if not self.begun and held.lstrip().startswith(b"{"):
            return held
        self._line(held)
        return b""

    def data(self) -> dict[str, Any]:
        """The answer as it would have come whole."""
        choice = self._choice
        thought = {"reasoning_content": "".join(self._thoughts)} if self._thoughts else {}
        text = "".join(self._texts)
        if self._at == "content":
            choice["message"] = {"role": "assistant", "content": text, **thought}
            choice["logprobs"] = {"content": self._logprobs} if self._logprobs else None
        else:
            choice["text"] = text
            choice["logprobs"] = {"token_logprobs": self._logprobs} if self._logprobs else None
        if self._ids:
            choice["token_ids"] = self._ids
        return {"choices": [choice], "usage": self._usage}

    def _line(self, line: bytes) -> None:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            return
        try:
            chunk = json.loads(data)
        except ValueError:
            raise Broken(f"a piece that is not JSON: {data[:80]!r}") from None
        if not isinstance(chunk, dict) or chunk.get("error"):
            raise Broken(f"an error in the middle: {str(chunk)[:200]}")
        self.begun = True
        self._usage = chunk.get("usage") or self._usage
        choices = chunk.get("choices") or []
        for choice in choices if isinstance(choices, list) else [choices]:
            if not isinstance(choice, dict) or not isinstance(choice.get("delta") or {}, dict):
                raise Broken(f"a choice that is none: {str(choice)[:80]!r}")
            self._take(choice)

    def _take(self, choice: dict[str, Any]) -> None:
        place = (choice.get("delta") or {}) if self._at == "content" else choice
        thought, text = place.get("reasoning_content") or place.get("reasoning"), place.get(self._at)
        if isinstance(thought, str) and thought:
            self._heard(thought if self._thoughts else self._opening + thought, math.nan)
            self._thoughts.append(thought)
        rows = self._told(choice.get("logprobs"))
        self._logprobs += [row if self._at == "content" else row["logprob"] for row in rows]
        self._ids += numbers(choice.get("token_ids"), int)
        if isinstance(text, str) and text:
            if self._thoughts and not self._texts:
                self._heard(CLOSE, math.nan)
            self._texts.append(text)
            known = [row for row in rows if self._tells and isinstance(row.get("logprob"), int | float)]
            if known and text == "".join(str(row.get("token")) for row in known):
                for row in known:
                    self._heard(str(row["token"]), float(row["logprob"]))
            else:
                self._heard(text, math.nan)
        for name in ("finish_reason", "stop_reason", "matched_stop"):
            if choice.get(name) is not None or (name != "finish_reason" and name in choice):
                self._choice[name] = choice[name]

    def _told(self, logprobs: Any) -> list[dict[str, Any]]:
        """Tokens and their log-probabilities, as chat or as completions have them."""
        if not isinstance(logprobs, dict):
            return []
        known = {name: rows for name, rows in logprobs.items() if isinstance(rows, list)}
        if self._at == "content":
            return [row for row in known.get("content", ()) if isinstance(row, dict)]
        pairs = zip(known.get("tokens", ()), known.get("token_logprobs", ()), strict=False)
        return [{"token": token, "logprob": logprob} for token, logprob in pairs]
