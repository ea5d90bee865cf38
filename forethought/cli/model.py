"""What `solve`, `eval` and `sweep` share: the model behind `--model`, how it is asked, and who judges it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from forethought.cli.terminal import unknown
from forethought.engines.http import HttpEngine
from forethought.engines.http_body import Api
from forethought.engines.models import resolve
from forethought.engines.open import find, is_trained_here, open_engine
from forethought.search.size import GUIDED, PARALLEL
from forethought.types import Engine
from forethought.verify.open import open_verifier
from forethought.verify.verdict import Verify

THINK = {"low": 256, "medium": 1024, "high": 4096}
"""Words for a budget, in tokens."""

Instruct = Literal["auto", "yes", "no"]
UNTRAINED = "tiny knows nothing until it is trained: forethought demo --model tiny"


def thinking_tokens(think: str) -> int:
    """A budget in tokens: one of `THINK`, or a number."""
    if think in THINK:
        return THINK[think]
    try:
        return int(think)
    except ValueError:
        raise unknown("thinking budget", think, [*THINK, "any number of tokens"]) from None


@asynccontextmanager
async def opened(model: str, dtype: str, api: Api | None, cache_gib: float | None) -> AsyncIterator[Engine]:
    """The engine, its connections closed afterwards."""
    cache_bytes = None if cache_gib is None else int(cache_gib * 2**30)
    engine = open_engine(model, dtype=dtype, api=api, cache_bytes=cache_bytes)
    try:
        yield engine
    finally:
        if isinstance(engine, HttpEngine):
            await engine.close()


@asynccontextmanager
async def judging(spec: str, model: str, engine: Engine, dtype: str) -> AsyncIterator[Verify | None]:
    """The verifier behind `--verify`, its connections closed afterwards; `None` for `""`.

    One that asks a language model asks `engine`; a folder's head is put on it only where it is on the same weights.
    """
    if not spec:
        yield None
        return
    folder = Path(spec).expanduser()
    shared = not folder.is_dir() or Path(find(str(folder)).value).resolve() == Path(find(model).value).resolve()
    judge = open_verifier(spec, engine if shared else None, dtype=dtype)
    try:
        yield judge
    finally:
        await judge.close()


def check_judge(search: str, verify: str) -> None:
    """Refuse, before a model is opened, a search by scores where nobody gives any."""
    rule = PARALLEL.get(search)
    if not verify and (search in GUIDED or (rule is not None and rule.judged)):
        raise ValueError(f"{search} goes by a verifier's scores, and there is none: give --verify, or take majority")


def instructs(model: str, instruct: Instruct) -> bool:
    """Is the model to be asked for a thought in our form? "auto": unless it is `tiny` or a recipe trained it."""
    return instruct == "yes" or (instruct == "auto" and not is_trained_here(model))


def is_untrained(model: str) -> bool:
    """Is it `tiny` as it was made?"""
    return resolve(model).kind == "tiny"
