"""The stores below the folder of runs, for the operator's pages. Paths are never taken from a request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from fastapi import Query, Request

from forethought.serve.errors import ApiError
from forethought.serve.house import house_of
from forethought.store import Store, find_store

Name = Annotated[str, Query(max_length=1000)]
DEEP = 4
"""Levels below the folder of runs on which stores are looked for."""


def stores(request: Request) -> dict[str, Path]:
    """Stores by name, the path from the folder of runs, the newest first; an ApiError (404) where none are shown."""
    folder = house_of(request).config.runs
    if not folder:
        message = "This server shows no stores: start it with --runs FOLDER, of runs, a run or a store."
        raise ApiError(404, message, code="no_runs")
    root, found = Path(folder).expanduser(), dict[Path, float]()
    for level in range(DEEP + 1):
        for shards in root.glob("*/" * level + "shards"):
            if shards.is_dir():
                found[shards.parent] = shards.stat().st_mtime
    named = {}
    for path in sorted(found, key=lambda path: -found[path]):
        run = path.parent if path.name == "store" and path != root else path
        named[root.resolve().name if run == root else run.relative_to(root).as_posix()] = path
    return named


def opened(request: Request, name: str) -> Store:
    """The store of this name; an ApiError (404) where there is none."""
    path = stores(request).get(name)
    if path is None:
        raise ApiError(404, "There is no such store below the folder of runs.", code="no_store", param="store")
    return _store(path)


@lru_cache(maxsize=64)
def _store(path: Path) -> Store:
    """Opened once: what a writer adds later, it catalogues itself."""
    return find_store(path)


@contextmanager
def telling() -> Iterator[None]:
    """Around what reads a store: what is wrong with the store or with what was asked, in its own words."""
    try:
        yield
    except ValueError as error:
        raise ApiError(400, f"{error}.", code="invalid_value") from None
    except OSError as error:
        raise ApiError(503, f"{error}.", code="store_unreadable") from None
