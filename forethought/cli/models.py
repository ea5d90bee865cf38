"""`forethought models`: which models there are, and how to name any other."""

from __future__ import annotations

import tyro

from forethought.cli.terminal import say
from forethought.engines.models import MODELS, Model, cache_folder

OTHERS = """What else --model takes:
  runs/grpo-1                    a run of ours: its newest checkpoint
  path/to/checkpoint             a Hugging Face folder, or a .gguf file
  org/name                       a causal language model of the Hugging Face hub
  http://host:port/v1#name       a model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted);
                                 its key, if it wants one, in FORETHOUGHT_API_KEY"""


def models(words: list[str]) -> int:
    """Print the table."""
    tyro.cli(_nothing, prog="forethought models", description="Which models there are.", args=words)
    width = max(map(len, MODELS))
    for model in MODELS.values():
        say(f"{model.name:<{width}}  {model.what}")
        say(f"{'':<{width}}  {model.size}; licence {model.licence}; {_cached(model)}")
    say(f"\n{OTHERS}\n\nModels are cached in {cache_folder()} (set FORETHOUGHT_CACHE for another folder).")
    return 0


def _nothing() -> None:
    """No option."""


def _cached(model: Model) -> str:
    if model.path is None:
        return "made on the spot"
    return "cached" if model.path.is_file() else "not cached yet"
