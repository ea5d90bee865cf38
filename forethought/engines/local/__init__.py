"""The embedded engine: torch on CPU or CUDA over any Hugging Face causal language model."""

from forethought.engines.local.engine import LocalEngine
from forethought.engines.local.load import load_model, open_local
from forethought.engines.local.threads import set_threads
from forethought.engines.local.tiny import TinyConfig

__all__ = ["LocalEngine", "TinyConfig", "load_model", "open_local", "set_threads"]
