"""forethought: an open o1. Teach a causal language model to think before it answers, and let it think longer."""

__version__ = "0.1.0"
