"""The server with its pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI

from forethought.pages import ask, label, runs, traces
from forethought.pages.shell import OPEN_PATHS, shell
from forethought.serve import app
from forethought.serve.config import ModelConfig, ServerConfig
from forethought.serve.models import Models


def create(config: ServerConfig, models: Sequence[ModelConfig] | Models, *, examples: Sequence[str] = ()) -> FastAPI:
    """`serve.app.create`, with the pages; `examples` are questions that Ask offers.

    Raises ValueError as that does, and for a folder of runs that is not there.
    """
    if config.runs and not Path(config.runs).expanduser().is_dir():
        raise ValueError(f"runs is {config.runs}, and there is no such folder; give the one that holds them")
    routers = [shell(), ask.data(tuple(examples)), traces.data(), runs.data(), label.data()]
    return app.create(config, models, routers=routers, open_paths=OPEN_PATHS)
