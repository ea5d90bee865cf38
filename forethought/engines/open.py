"""From a `--model` string to the engine that draws from it."""

from __future__ import annotations

import json
import os
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forethought.engines.http import connect
from forethought.engines.http_body import Api
from forethought.engines.models import MODELS, Resolved, resolve
from forethought.types import Engine

KEY = "FORETHOUGHT_API_KEY"
"""The one environment variable that a server's key is read from."""

LOCAL = ("torch", "transformers", "tokenizers", "gguf", "safetensors")
"""What the extra `local` brings."""


@contextmanager
def needing_weights(what: str) -> Iterator[None]:
    """Around an import of whatever loads weights: says which extra is missing, in a `ValueError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in LOCAL:
            raise
        raise ValueError(
            f"{what} needs {missing}, which is not installed: pip install 'forethought[local]', "
            "or name a server (http://host:port/v1#model-name)"
        ) from error


def find(model: str) -> Resolved:
    """`resolve(model)`, where the folder of a run stands for its newest checkpoint.

    Raises:
        ValueError: an unknown model, a run that has no checkpoint yet, or a folder that holds neither run nor model.
    """
    found = resolve(model)
    run = Path(found.value)
    if found.kind != "path" or not run.is_dir():
        return found
    if not (run / "checkpoints").is_dir() and not _is_run(run):
        if not any((run / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise ValueError(f"{run} is neither a run nor a checkpoint: it has no config.json; give the folder of one")
        return found
    steps = [path for path in (run / "checkpoints").glob("step-*") if (path / "state.json").is_file()]
    if not steps:
        raise ValueError(f"the run {run} has no checkpoint yet; go on with it by --resume, or name another model")
    return Resolved("path", str(max(steps, key=lambda path: int(path.name.removeprefix("step-")))))


def _is_run(folder: Path) -> bool:
    """Is it a run's folder? Before its first checkpoint only what its config says tells it from a checkpoint's."""
    try:
        return bool("recipe" in json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return False


def is_trained_here(model: str) -> bool:
    """Is it `tiny`, or a checkpoint that a recipe wrote? Such a model needs no instruction to think in our form."""
    found = find(model)
    return found.kind == "tiny" or (found.kind == "path" and (Path(found.value) / "state.json").is_file())


def open_engine(
    model: str,
    *,
    dtype: str = "auto",
    api: Api | None = None,
    api_key: str | None = None,
    max_rows: int | None = None,
    cache_bytes: int | None = None,
) -> Engine:
    """The engine over whatever `model` means (`models.resolve`; the folder of a run is its newest checkpoint).

    Args:
        model: `smollm2-135m`, `tiny`, a checkpoint or a run, a hub's `org/name`, or `http://host:port/v1#model-name`.
        dtype: auto, bf16 or fp32, for weights that are computed with here.
        api: how a server is asked: chat (where None is given), completions or tokens.
        api_key: of a server; else that of the environment's `FORETHOUGHT_API_KEY`, and no other variable's.
        max_rows: samples that are decoded together, for weights that are computed with here; by default 256 for models
            below 10 million parameters, else 128, and 512 on a GPU.
        cache_bytes: most memory for keys and values, kept prefixes included, of the same; by default 2 GiB, on a GPU a
            quarter of what is free where that is more.

    Raises:
        ValueError: an unknown model, one that does not load, an `api` for one that is not behind a server, or torch or
            transformers not installed.
        FetchError: the embedded model could not be fetched.
    """
    found = find(model)
    if found.kind == "http":
        return connect(found.value, api=api or "chat", api_key=api_key or os.environ.get(KEY))
    if api is not None:
        raise ValueError(f"api is {api!r}, and {model} is not behind a server: leave it out, or name a URL")
    with needing_weights(model):
        from forethought.engines.local import open_local
    return open_local(found.value, dtype=dtype, max_rows=max_rows, cache_bytes=cache_bytes, label=label_of(found))


def public(model: str) -> str:
    """The model as it may be shown: without a user and password that its URL has."""
    parts = urllib.parse.urlsplit(model)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "://" in model else model


def described(model: str) -> str:
    """What the model honestly is, for a report."""
    kind, value = find(model)
    if kind in ("smollm2", "tiny"):
        return f"{value}: {MODELS[value].what}"
    if kind == "http":
        url, _, name = public(value).partition("#")
        return f"{name} behind {url}"
    return f"{value} (Hugging Face hub)" if kind == "hub" else f"the checkpoint {value}"


def label_of(found: Resolved) -> str:
    """What the engine is called: a run's checkpoint as `run@step`, anything else by its last word."""
    path = Path(found.value)
    if found.kind == "path" and path.parent.name == "checkpoints" and (path / "state.json").is_file():
        return f"{path.absolute().parent.parent.name}@{int(path.name.removeprefix('step-'))}"
    return path.name
