"""Weights into memory: the two embedded models, a folder, a GGUF file, or a name on the Hugging Face hub."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from forethought.engines.local.engine import LocalEngine
from forethought.engines.local.quiet import quiet
from forethought.engines.local.threads import set_threads
from forethought.engines.local.tiny import TinyConfig, build
from forethought.engines.models import cache_folder, resolve, smollm2_path


def best_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(name: str, *, tiny: TinyConfig | None = None, device: torch.device | None = None) -> tuple[Any, Any]:
    """The causal language model called `name`, in float32, and its tokenizer; torch's threads are set to its size.

    Args:
        name: `smollm2-135m`, `tiny` (fresh, of the shape `tiny`), a folder, a `.gguf` file or a hub name.
        device: where to put it; the first GPU, else the CPU.

    Raises:
        ValueError: an unknown name, a URL (its weights are not here), or a folder that holds no causal model.
    """
    found = resolve(name)
    device = device or best_device()
    if found.kind == "http":
        raise ValueError(f"{name} is a server: it samples, but its weights cannot be loaded here; give a checkpoint")
    if found.kind == "tiny":
        model, tokenizer = build(tiny)
    else:
        source: str | Path = _smollm2_checkpoint() if found.kind == "smollm2" else found.value
        try:
            model, tokenizer = _read(source)
        except (OSError, ValueError) as fault:
            raise ValueError(f"{name} does not load as a causal language model: {fault}") from fault
    set_threads(sum(parameter.numel() for parameter in model.parameters()))
    return model.to(device), tokenizer


def open_local(
    name: str,
    *,
    tiny: TinyConfig | None = None,
    dtype: str = "auto",
    max_rows: int | None = None,
    cache_bytes: int | None = None,
    label: str | None = None,
) -> LocalEngine:
    """An engine over the model called `name`, as `load_model` knows it."""
    model, tokenizer = load_model(name, tiny=tiny)
    label = label or Path(name).name
    return LocalEngine(model, tokenizer, name=label, dtype=dtype, max_rows=max_rows, cache_bytes=cache_bytes)


def _read(source: str | Path) -> tuple[Any, Any]:
    path = Path(source)
    options: dict[str, str] = {}
    if path.suffix == ".gguf":
        source, options = path.parent, {"gguf_file": path.name}
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(str(source), **options)
        model = AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.float32, **options)
    return model.eval(), tokenizer


def _smollm2_checkpoint() -> Path:
    """The embedded model as an ordinary checkpoint, made from its GGUF file once: reading that takes 15 times as long.

    The 4-bit weights are dequantised to float32 and nothing else is done to them.
    """
    target = cache_folder() / "smollm2-135m-float32"
    if (target / "config.json").exists():
        return target
    model, tokenizer = _read(smollm2_path())
    # What we save is a plain checkpoint: transformers must not look for the GGUF file again.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix="smollm2-135m.", dir=target.parent))
    try:
        with quiet():
            model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        os.replace(part, target)
    except BaseException as fault:
        shutil.rmtree(part, ignore_errors=True)
        if not isinstance(fault, OSError) or not (target / "config.json").exists():  # else another was quicker
            raise
    return target
