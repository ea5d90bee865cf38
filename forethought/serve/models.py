"""The models a server has open, and the one that a request's name means."""

from __future__ import annotations

import difflib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forethought.engines.http import HttpEngine
from forethought.engines.open import KEY, find, is_trained_here, open_engine
from forethought.problems.tools import open_tools
from forethought.search.allocate import Allocation, load
from forethought.search.size import NAMES
from forethought.serve.config import ModelConfig
from forethought.serve.errors import NO_MODEL, ApiError
from forethought.thought.marks import OPEN
from forethought.thought.tokens import Tokenizer, rendered
from forethought.thought.tools import Tools, instructed
from forethought.types import Engine, Messages, Step
from forethought.verify.open import open_verifier
from forethought.verify.verdict import Verify

CREATED = 1_700_000_000
"""When a model was made, which nobody knows: clients want a number."""


@dataclass(frozen=True, eq=False)
class Served:
    """A model that is open, with its judge and its allocation."""

    config: ModelConfig
    engine: Engine
    judge: Verify | None = None
    plan: Allocation | None = None
    tools: Tools | None = None
    """What its thoughts may call."""
    trained: bool = False
    """Does it think by itself, without being asked to?"""
    key: str | None = field(default=None, repr=False)
    """Of the upstream."""

    @property
    def upstream(self) -> HttpEngine | None:
        """The server that this model is on, where it is on one."""
        return self.engine if isinstance(self.engine, HttpEngine) else None

    @property
    def context(self) -> int | None:
        """Longest prompt and text together, in tokens; `None` where it is not known."""
        return getattr(self.engine, "context", None)

    async def prompt(self, messages: Messages, text: str = "") -> tuple[int, ...] | None:
        """The tokens of the conversation, and of `text` behind it; `None` where the engine does not tell."""
        tokenizer: Tokenizer | None = getattr(self.engine, "tokenizer", None)
        steps = (Step(text, sampled=False),) if text else ()
        return None if tokenizer is None else (await rendered(tokenizer, messages, steps))[0]

    def opens(self, prompt: Sequence[int] | None) -> bool:
        """Does the model's text begin inside a thought that the chat template has opened?"""
        if prompt is None:
            return self.config.opens_thought
        tokenizer: Any = getattr(self.engine, "tokenizer", None)
        return bool(tokenizer.decode(list(prompt[-8:]), skip_special_tokens=False).rstrip().endswith(OPEN))

    def asked(self, messages: Messages) -> Messages:
        """The conversation with the request to think, for a model that would not by itself."""
        if self.config.instruct == "no" or (self.config.instruct == "auto" and self.trained):
            return messages
        return instructed(messages, self.tools)


class Models:
    """The models by name."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.served: Mapping[str, Served] = {one.config.name: one for one in served}

    def find(self, name: str) -> tuple[Served, str]:
        """The model and the search that `NAME` or `NAME:SEARCH` means; an `ApiError` (404) where there is none."""
        base, _, asked = name.partition(":")
        model, search = self.served.get(base), asked.replace("_", "-")
        if model is None or (search and search not in NAMES):
            near = difflib.get_close_matches(name, self.names(), n=1, cutoff=0.4)
            meant = f" Did you mean `{near[0]}`?" if near else ""
            raise ApiError(404, f"The model `{name}` does not exist.{meant}", code=NO_MODEL, param="model")
        if search and not model.config.runs(search):
            message = f"{search} goes by a verifier's scores, and `{base}` has no verifier here."
            raise ApiError(400, message, code="unsupported_value", param="model")
        return model, search or model.config.search

    def names(self) -> list[str]:
        """Every name that can be asked for."""
        return [
            name
            for base, model in self.served.items()
            for name in (base, *(f"{base}:{search}" for search in NAMES if model.config.runs(search)))
        ]

    def card(self, name: str) -> dict[str, Any]:
        """The entry of /v1/models."""
        return {"id": name, "object": "model", "created": CREATED, "owned_by": "forethought"}


@asynccontextmanager
async def opened(configs: Sequence[ModelConfig]) -> AsyncIterator[Models]:
    """All models opened, those of one string once; connections are closed afterwards.

    Raises:
        ValueError: there are none, two have one name, or one cannot be opened.
    """
    if not configs:
        raise ValueError("there is no model to serve; give --model NAME, or a file with [models.NAME]")
    names = [config.name for config in configs]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two models are called {sorted(doubled)[0]!r}; a name is one model's")
    for config in configs:
        if config.summary not in ("", "none", *names):
            raise ValueError(f"{config.name}: summary is {config.summary!r}, which is not served; there is {names}")
    async with AsyncExitStack() as stack:
        engines: dict[tuple[Any, ...], Engine] = {}
        served = []
        for config in configs:
            key = os.environ.get(config.key_env or KEY) if find(config.model).kind == "http" else None
            same = (config.model, config.dtype, config.api, config.key_env)
            if same not in engines:
                engines[same] = _engine(config, key)
                if isinstance(opened := engines[same], HttpEngine):
                    stack.push_async_callback(opened.close)
            served.append(await _served(config, engines[same], key, stack))
        yield Models(served)


def _engine(config: ModelConfig, key: str | None) -> Engine:
    api: Any = config.api or None
    cache_bytes = None if config.cache_gib is None else int(config.cache_gib * 2**30)
    return open_engine(config.model, dtype=config.dtype, api=api, api_key=key, cache_bytes=cache_bytes)


async def _served(config: ModelConfig, engine: Engine, key: str | None, stack: AsyncExitStack) -> Served:
    plan = load(config.allocation) if config.allocation else None
    spec, judge = config.verify or (plan.verify if plan else ""), None
    if plan and plan.needs_judge and not spec:
        raise ValueError(f"{config.name}: {config.allocation} goes by a verifier's scores; give verify")
    if spec:
        # A head is put on the engine itself only where it is on the same weights.
        folder = Path(spec).expanduser()
        same = not folder.is_dir() or Path(find(str(folder)).value) == Path(find(config.model).value)
        judge = open_verifier(spec, engine if same else None, dtype=config.dtype)
        stack.push_async_callback(judge.close)
    return Served(config, engine, judge, plan, open_tools(config.tools), is_trained_here(config.model), key)
