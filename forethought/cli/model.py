"""What `solve` and `eval` share: the model behind `--model`, and how it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from forethought.engines.http import HttpEngine
from forethought.engines.http_body import Api
from forethought.engines.models import resolve
from forethought.engines.open import is_trained_here, open_engine
from forethought.thought.marks import INSTRUCTION
from forethought.types import Engine, Message, Messages

Instruct = Literal["auto", "yes", "no"]
UNTRAINED = "tiny knows nothing until it is trained: forethought demo --model tiny"


@asynccontextmanager
async def opened(model: str, dtype: str, api: Api | None, cache_gib: float) -> AsyncIterator[Engine]:
    """The engine, its connections closed afterwards."""
    engine = open_engine(model, dtype=dtype, api=api, cache_bytes=int(cache_gib * 2**30))
    try:
        yield engine
    finally:
        if isinstance(engine, HttpEngine):
            await engine.close()


def instructs(model: str, instruct: Instruct) -> bool:
    """Is the model to be asked for a thought in our form? "auto": unless it is `tiny` or a recipe trained it."""
    return instruct == "yes" or (instruct == "auto" and not is_trained_here(model))


def instructed(messages: Messages) -> Messages:
    """The conversation with the instruction after its last turn: not every chat template takes a system turn."""
    last = messages[-1]
    return (*messages[:-1], Message(role=last["role"], content=f"{last['content']}\n\n{INSTRUCTION}"))


def is_untrained(model: str) -> bool:
    """Is it `tiny` as it was made?"""
    return resolve(model).kind == "tiny"
