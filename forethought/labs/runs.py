"""What labs do with their runs: refuse those of other settings, go on where they were, keep what was measured."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from forethought.recipes import sft
from forethought.recipes.run import Settings, write_config


def taught(out: str, seed: int, problems: str, steps: int) -> sft.Config:
    """The run that teaches a small policy its task from worked examples, to be `policy-SEED` in the lab's folder."""
    return sft.Config(
        problems=problems, examples=min(4000, 32 * steps), batch=32, steps=steps, lr=3e-3, layers=2, width=64,
        seed=seed, dtype="fp32", eval_problems=0, out=f"{out}/policy-{seed}",
    )  # fmt: skip


def check(runs: Iterable[Settings]) -> None:
    """Raise ValueError where the folder of one of the runs holds a run with other settings."""
    for run in runs:
        if (Path(run.out) / "config.json").exists():
            write_config(Path(run.out), type(run).__module__.rpartition(".")[2], run, resume=True)


def finish(run: Settings) -> Path:
    """The run's folder, once it is done: by its recipe, from nothing or from where it stands."""
    folder = Path(run.out)
    if not (folder / "done").exists():
        recipe = importlib.import_module(type(run).__module__)
        recipe.main(run, folder if (folder / "config.json").exists() else None)
        (folder / "done").touch()
    return folder


def kept(path: Path, settings: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """What `measure` says, as JSON holds it: read from `path` where it was measured before, else written there.

    Raises ValueError where it was measured with other settings.
    """
    asked = json.loads(json.dumps(settings))
    if not path.exists():
        found = json.dumps({"settings": asked, "found": measure()})
        path.write_text(found + "\n", encoding="utf-8")
    before = json.loads(path.read_text(encoding="utf-8"))
    if before["settings"] != asked:
        raise ValueError(f"{path} was measured with {before['settings']}, not with {asked}; choose another --out")
    return before["found"]
