"""`forethought train` and `forethought demo`: run a recipe, or go on with one."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from forethought.cli.runs import again, config_of, resumed
from forethought.cli.terminal import say, unknown
from forethought.engines.open import find, needing_weights
from forethought.recipes import RECIPES
from forethought.recipes.run import folder_of

USAGE = f"""usage: forethought train RECIPE [options]

{chr(10).join(f"  {name:<10} {what}" for name, what in RECIPES.items())}

  forethought train RECIPE --help          the recipe's settings
  forethought train RECIPE --config RUN    the settings of another run, and what you set besides
  forethought train RECIPE --resume RUN    go on with a run that was stopped, with its own settings
"""
BESIDES = "Besides the options below: --config RUN takes those of another run, --resume RUN goes on with a run."


def train(words: list[str]) -> int:
    """Run the recipe that the first word names."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if words[0] not in RECIPES:
        raise unknown("recipe", words[0], RECIPES)
    return _run(words[0], f"forethought train {words[0]}", words[1:])


def demo(words: list[str]) -> int:
    """Walk the whole road."""
    return _run("demo", "forethought demo", words)


def _run(name: str, prog: str, words: list[str]) -> int:
    with needing_weights(prog):
        recipe: Any = importlib.import_module(f"forethought.recipes.{name}")
    folder = resumed(words, prog)
    if folder is not None:
        config = config_of(folder, name, recipe.Config)
    else:
        source, words = _taken(words, "--config")
        default = None
        if source is not None:
            path = Path(source)
            default = replace(config_of(path.parent if path.is_file() else path, name, recipe.Config), out="")
        config = tyro.cli(
            recipe.Config,
            prog=prog,
            description=f"{recipe.__doc__.strip()}\n\n{BESIDES}",
            args=words,
            default=tyro.MISSING_NONPROP if default is None else default,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        # Settled here: a run that is stopped can be named, and goes on from the same checkpoint of another one.
        model = find(config.model).value if (Path(config.model) / "checkpoints").is_dir() else config.model
        config = replace(config, out=str(folder_of(name, config.out, None)), model=model)
    run = folder or Path(config.out)
    try:
        recipe.main(config, folder)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(again(prog, run) if (run / "config.json").is_file() else "") from None
    if not (run / "report.html").is_file():  # whose path the recipe has printed
        say(str(run))
    return 0


def _taken(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """The value of an option of ours and the words without it."""
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option:
            rest = words[place + 1 :]
            if not equals and not rest:
                raise ValueError(f"{option} needs a value: the folder of a run, or its config.json")
            return (value, [*words[:place], *rest]) if equals else (rest[0], [*words[:place], *rest[1:]])
    return None, words
