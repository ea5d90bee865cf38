"""What an engine has computed: one record for every engine, read by budgets, servers and reports."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self


@dataclass(slots=True)
class Usage:
    """Tokens an engine has computed since it was made. A copy of it and a later subtraction are the cost of a stretch.

    Engines that know more subclass it with further counts.
    """

    prefilled: int = 0
    """Tokens of prompts and prefixes that were run through the model to sample after them."""
    reused: int = 0
    """Tokens of prompts and prefixes that were found in a prefix cache, or computed already by another branch."""
    sampled: int = 0
    """Tokens drawn, end tokens included."""
    scored: int = 0
    """Tokens run through the model for their log-probabilities or a scalar head alone."""

    def copy(self) -> Self:
        """The counts as they stand now."""
        return replace(self)

    def __sub__(self, earlier: Self) -> Self:
        """What was computed since `earlier` was copied."""
        names = (field.name for field in fields(self))
        return type(self)(**{name: getattr(self, name) - getattr(earlier, name) for name in names})
