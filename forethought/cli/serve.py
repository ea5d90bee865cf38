"""`forethought serve`: models behind an OpenAI-compatible server that thinks before it answers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from forethought.cli.demo_model import shown
from forethought.cli.terminal import tell
from forethought.engines.open import public

DESCRIPTION = """Serve models over OpenAI's chat and responses APIs. Each request is searched under its own budget (by
its reasoning effort), the thought stays hidden, and the answer comes as it is drawn.

A file (--config) says more: several models, how each is searched and judged, limits, keys, a store."""

EXTRA = ("fastapi", "uvicorn", "starlette", "pydantic", "prometheus_client", "cryptography")
"""What the extra `serve` brings."""


@dataclass(frozen=True)
class Options:
    """What `forethought serve` is asked."""

    model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = ()
    """Names, paths, runs, hub names or URLs, each served under its last word, or as said: NAME=MODEL."""
    demo: tyro.conf.FlagCreatePairsOff[bool] = False
    """Serve what the newest `forethought demo` below runs/ taught, thoughts shown, with questions to ask it."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """TOML with [server] and [models.NAME]; see docs/serve.md."""
    search: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: one thought)")] = ""
    """How the models of --model search: majority, beam, mcts, ..."""
    verify: Annotated[str, tyro.conf.arg(metavar="VERIFIER", help_behavior_hint="(default: none)")] = ""
    """Who judges their thoughts."""
    tools: Annotated[str, tyro.conf.arg(metavar="NAMES", help_behavior_hint="(default: none)")] = ""
    """What their thoughts may call: python, calculator, or both with a comma."""
    host: Annotated[str | None, tyro.conf.arg(metavar="HOST", help_behavior_hint="(default: 127.0.0.1)")] = None
    """Where to listen; anything but the loopback needs --keys."""
    port: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 8000)")] = None
    """On which port."""
    keys: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none is asked for)")] = None
    """Clients' keys, one a line: name key [requests a minute] [operator]."""
    store: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: nothing is kept)")] = None
    """SQLite file of stored responses and background jobs."""
    seal: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Keys that encrypt reasoning for clients to carry."""
    runs: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(default: none are shown)")] = None
    """Folder of runs, a run or a store, for the operator's pages to show."""


def serve(words: list[str]) -> int:
    """Serve until it is told to stop."""
    asked = tyro.cli(Options, prog="forethought serve", description=DESCRIPTION, args=words)
    try:
        import uvicorn
        from starlette.types import Message, Receive, Scope, Send

        from forethought.pages.app import create
        from forethought.serve.config import ModelConfig, ServerConfig, read
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise ValueError(
            f"the server needs {error.name}, which is not installed: pip install 'forethought[serve]'"
        ) from None
    config, models = read(asked.config) if asked.config else (ServerConfig(), [])
    own = {name: getattr(asked, name) for name in ("host", "port", "keys", "store", "seal", "runs")}
    config = replace(config, **{name: value for name, value in own.items() if value is not None})
    for model in asked.model:
        name, _, given = model.rpartition("=") if not model.startswith(("http://", "https://")) else ("", "", model)
        models.append(
            ModelConfig(name or _called(given), given, search=asked.search, verify=asked.verify, tools=asked.tools)
        )
    examples: tuple[str, ...] = ()
    if asked.demo:
        demo = shown()
        tell(f"demo: {demo.said}")
        examples, config = demo.examples, replace(config, runs=config.runs or demo.runs)
        one = ModelConfig(
            "demo", demo.model, search="majority", verify="confidence", thought_tokens=demo.tokens,
            show_thoughts=True, summary="none",
        )  # fmt: skip
        models.insert(0, one)
    if not models:
        raise ValueError("there is no model to serve; give --model NAME, --demo, or --config FILE with [models.NAME]")
    app = create(config, models, examples=examples)
    for one in models:
        tell(f"{one.name}: {public(one.model)}{f', {one.search}' if one.search else ''}")
    tell(f"pages: http://{f'[{config.host}]' if ':' in config.host else config.host}:{config.port}")
    refused: list[Exception] = []

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        async def tell_server(message: Message) -> None:
            fault = sys.exception()
            if message["type"] == "lifespan.startup.failed" and isinstance(fault, (ValueError, OSError, ImportError)):
                refused.append(fault)  # the caller says it in a line; uvicorn would print the traceback
                message = {"type": message["type"], "message": ""}
            await send(message)

        await app(scope, receive, tell_server)

    server = uvicorn.Server(uvicorn.Config(served, host=config.host, port=config.port, timeout_graceful_shutdown=10))
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that the start failed
        if not refused:
            raise
    if refused:
        raise refused[0]
    return 0 if server.started else 1


def _called(model: str) -> str:
    """The last word of a model's string: `org/name`, `a/path`, `http://host/v1#name`."""
    return model.rpartition("#")[2].rstrip("/").rpartition("/")[2].replace(":", "-")
