"""Checkpoints: all that a run needs to go on exactly where it stood.

    RUN/checkpoints/step-000012/
        model.safetensors, config.json, …   an ordinary Hugging Face checkpoint, adapters folded into its weights
        adapter/                            of a LoRA run: the adapters as they are trained, as peft keeps them
        trainer.pt                          optimizer, random states, data not yet trained on
        state.json                          the run's own state and which model this is; written last

A checkpoint is written under a temporary name, flushed to the disk and renamed: one that exists is whole.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from forethought.engines.local.quiet import quiet
from forethought.store.shards import flush
from forethought.train.adapters import is_adapted, plain
from forethought.train.learner import Learner
from forethought.types import Datum

SCHEMA = 1
ADAPTER = "adapter"
Random = random.Random | np.random.Generator | torch.Generator


@dataclass(frozen=True, slots=True)
class Saved:
    """What `load` gives back besides what it restores in place."""

    step: int
    state: dict[str, Any]
    data: list[Datum]


def save(
    run: Path | str,
    step: int,
    learner: Learner,
    *,
    state: Mapping[str, Any],
    data: Sequence[Datum] = (),
    rng: Mapping[str, Random] | None = None,
    tokenizer: Any = None,
    keep: int | None = 2,
) -> Path:
    """Write `RUN/checkpoints/step-…` and delete all but the newest `keep`.

    Args:
        run: the run's folder, made where it is missing.
        step: the run's step, which names the checkpoint; one of the same step is replaced.
        learner: its model, optimizer and counts are kept; of adapters both what they are and the model they make.
        state: the run's own place (problems taken, baselines, schedules); JSON values only.
        data: data drawn and not yet trained on (the rest of a rollout buffer).
        rng: generators of the run's own, by name. The global ones of python, numpy and torch are always kept.
        tokenizer: saved beside the weights, so that the folder loads as a model anywhere.
        keep: how many checkpoints stay, this one included; `None` keeps all.

    Raises:
        ValueError: `state` holds something that JSON cannot, or `keep` is below 1.
        OSError: the folder cannot be written or the disk is full; earlier checkpoints are as they were.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep is {keep}; at least the new checkpoint stays (None keeps all)")
    described = {"schema": SCHEMA, "step": step, "model": describe(learner.model), "state": dict(state)}
    try:
        text = json.dumps(described, indent=1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the run's state must be JSON values: {error}") from error
    folder = Path(run) / "checkpoints" / f"step-{step:06d}"
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    try:
        for left in (part, old):  # of a run that was killed here
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir(parents=True)
        model: Any = learner.model
        with quiet():
            plain(model).save_pretrained(part)  # type: ignore[operator]  # transformers' own method
            if is_adapted(model):
                # What it saves by itself would depend on what the hub says of the base.
                model.save_pretrained(part / ADAPTER, save_embedding_layers=False)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        with (part / "trainer.pt").open("wb") as file:
            torch.save(
                {"learner": learner.state_dict(), "random": _random_states(rng or {}), "data": _flat(data)}, file
            )
        (part / "state.json").write_text(text, encoding="utf-8")
        for path in [*part.rglob("*"), part]:
            flush(path)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        flush(folder.parent)
    except (OSError, SafetensorError, RuntimeError) as error:  # safetensors and torch have their own for a full disk
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        if isinstance(error, RuntimeError) and not _is_io(error):
            raise
        raise OSError(f"the checkpoint of step {step} could not be written to {folder.parent}: {error}") from error
    shutil.rmtree(old, ignore_errors=True)
    if keep is not None:
        for path in _all(run)[:-keep]:
            if path != folder:
                shutil.rmtree(path, ignore_errors=True)
    return folder


def load(folder: Path | str, learner: Learner, *, rng: Mapping[str, Random] | None = None) -> Saved:
    """Put model, optimizer and random states back as they were, in place; the rest is returned.

    Args:
        folder: a checkpoint, e.g. `latest(run)`.
        learner: built with the run's own settings over a model of the same shape.
        rng: the generators that `save` was given, under the same names.

    Raises:
        ValueError: no checkpoint there, one of another model (both are named), or a generator it does not have.
    """
    folder = Path(folder)
    try:
        described = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is no checkpoint of ours: it has no state.json") from None
    if described["schema"] != SCHEMA:
        raise ValueError(f"{folder} was written in schema {described['schema']}; this version reads {SCHEMA}")
    ours = describe(learner.model)
    if described["model"] != ours:
        raise ValueError(
            f"{folder} holds another model: {described['model']}; this run's is {ours}. "
            "Resume with the model the run was begun with, or begin a new run in another folder"
        )
    saved = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True)
    if unknown := set(rng or {}) - set(saved["random"]["own"]):
        raise ValueError(f"{folder} has no random state called {', '.join(sorted(unknown))}")
    _load_weights(folder, learner.model)
    learner.load_state_dict(saved["learner"])
    _restore_random(saved["random"], rng or {})
    return Saved(described["step"], described["state"], _unflat(saved["data"]))


def latest(run: Path | str) -> Path | None:
    """The newest whole checkpoint of a run, or `None`."""
    found = _all(run)
    return found[-1] if found else None


def describe(model: nn.Module) -> str:
    """The model in words and by a digest of its parameters' names and shapes: two that agree can share weights."""
    config: Any = getattr(model, "config", None)
    shapes = [f"{name} {tuple(p.shape)}" for name, p in model.named_parameters()]
    digest = hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:8]
    size = sum(p.numel() for p in model.parameters())
    kind, layers = getattr(config, "model_type", "unknown"), getattr(config, "num_hidden_layers", "?")
    width, vocabulary = getattr(config, "hidden_size", "?"), getattr(config, "vocab_size", "?")
    return f"{kind} of {layers} layers, width {width}, vocabulary {vocabulary}, {size:,} parameters ({digest})"


def _all(run: Path | str) -> list[Path]:
    folder = Path(run) / "checkpoints"
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted((p for p in found if (p / "state.json").is_file()), key=lambda p: int(p.name.removeprefix("step-")))


def _load_weights(folder: Path, model: nn.Module) -> None:
    if is_adapted(model):
        import peft
        from safetensors.torch import load_file

        peft.set_peft_model_state_dict(model, load_file(folder / ADAPTER / "adapter_model.safetensors"))
        return
    with quiet():  # by transformers, which knows how names on the disk differ from those in memory
        fresh = type(model).from_pretrained(folder, dtype=next(model.parameters()).dtype)  # type: ignore[attr-defined]
    model.load_state_dict(fresh.state_dict())


def _is_io(error: RuntimeError) -> bool:
    """Is this torch's way of saying that a file could not be written? Its zip writer fails on top of the cause."""
    return isinstance(error.__context__, OSError)


def _random_states(own: Mapping[str, Random]) -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "own": {name: _state_of(generator) for name, generator in own.items()},
    }


def _restore_random(states: Mapping[str, Any], own: Mapping[str, Random]) -> None:
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy(), *rest))
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():  # another number of devices starts their noise afresh
        torch.cuda.set_rng_state_all(states["cuda"])
    for name, generator in own.items():
        state = states["own"][name]
        if isinstance(generator, random.Random):
            generator.setstate(state)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = _arrays(state)
        else:
            generator.set_state(state)


def _state_of(generator: Random) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return _tensors(generator.bit_generator.state)
    return generator.get_state()


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(inner) for key, inner in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(inner) for key, inner in value.items()}
    return value.numpy() if isinstance(value, Tensor) else value


_ROWS = {"mask": torch.bool, "weights": torch.float64, "logprobs": torch.float64, "labels": torch.float64}


def _flat(data: Sequence[Datum]) -> dict[str, Any]:
    """Data as a few flat tensors: nothing to unpickle, no float rounded."""
    rows = {"tokens": torch.int64, **_ROWS}
    return {
        "pair": [datum.pair for datum in data],
        "lengths": {name: [len(getattr(datum, name)) for datum in data] for name in rows},
        "values": {
            name: torch.tensor([value for datum in data for value in getattr(datum, name)], dtype=dtype)
            for name, dtype in rows.items()
        },
    }


def _unflat(flat: Mapping[str, Any]) -> list[Datum]:
    columns = {
        name: [tuple(piece.tolist()) for piece in flat["values"][name].split(lengths)]
        for name, lengths in flat["lengths"].items()
    }
    return [
        Datum(pair=pair, **{name: column[index] for name, column in columns.items()})
        for index, pair in enumerate(flat["pair"])
    ]
