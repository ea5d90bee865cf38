"""Runs that can be gone on with: their folder, their config, and the command that leads back to them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from forethought.recipes.run import read_config

T = TypeVar("T")


@dataclass(frozen=True)
class Again:
    """A run goes on with its own settings: nothing else can be asked."""

    resume: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """The folder of a run that was stopped; its config.json has the settings."""


def resumed(words: Sequence[str], prog: str) -> Path | None:
    """The folder behind `--resume`; `None` where the words ask for a new run. With `--resume` nothing else may be set.

    Exits with a message, as a wrong option does, where something is.
    """
    if not any(word.partition("=")[0] == "--resume" for word in words):
        return None
    what = "Go on with a run that was stopped."
    return tyro.cli(Again, prog=prog, description=what, args=list(words)).resume


def again(prog: str, folder: Path) -> str:
    """The command line that goes on with the run in `folder`."""
    return f"{prog} {shlex.join(['--resume', str(folder)])}"


def config_of(folder: Path, name: str, kind: Callable[..., T]) -> T:
    """The config that the run `name` in `folder` was begun with.

    Raises:
        ValueError: the folder is not a run, a run of something else, or of a version with other settings.
    """
    found = read_config(folder)
    try:
        whose, settings, version = found["recipe"], dict(found["config"]), found["version"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{folder / 'config.json'} is not a run's config; give the folder of a run") from None
    if whose != name:
        raise ValueError(f"{folder} is a run of {whose!r}, not of {name!r}")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})
    except TypeError as error:
        raise ValueError(f"{folder} was begun by forethought {version}, which had other settings: {error}") from None


def typed(prog: str, config: Any) -> str:
    """The command line that gives this config again, what is left at its default left out."""
    words = [*prog.split()]
    for field in fields(config):
        value = asdict(config)[field.name]
        if field.default is MISSING or value != field.default:
            words += [f"--{field.name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join(words)
