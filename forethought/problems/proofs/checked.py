"""What a proof checker says, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["proved", "refuted", "error", "timeout"]
"""`refuted`: the checker looked at the proof and holds it wrong. `error`: it could not look (it died, it said what
cannot be read); no judgement."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of one check."""

    status: Status
    messages: tuple[str, ...] = ()
    """In the checker's words, for whoever revises the proof."""
    axioms: tuple[str, ...] = ()
    """What the proof rests on, as far as the checker tells."""
    checker: str = ""
    version: str = ""


Check = Callable[[str, str], Coroutine[Any, Any, Checked]]
"""`await check(statement, proof)`: the statement is ours, and the proof alone is the model's."""
