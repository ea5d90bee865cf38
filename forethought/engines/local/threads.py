"""The one thread that computes for all embedded engines, and how torch's own threads share the cores."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

SMALL = 10_000_000
"""Models below this many parameters run faster on one thread than on two."""

COMPUTE = ThreadPoolExecutor(1, thread_name_prefix="forethought-local")
"""Every engine's rounds run here, by turns: side by side they would only take the cores from one another."""


def set_threads(parameters: int) -> None:
    """One torch thread for models so small that two cost more, else as many as the machine has cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = 1 if parameters < SMALL else cores
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def hand_over() -> None:
    """End the OpenMP team of the calling thread; its next product makes a new one.

    Each thread that computes keeps a team, and where all teams together are more threads than cores GNU's OpenMP stops
    letting any of them wait awake: with a second, idle team every product here took 1.3 to 1.4 times as long. So the
    caller's thread hands over before the engine computes, and the engine's when it is done.
    """
    _release()()


@functools.cache
def _release() -> Callable[[], None]:
    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]
    if not found:
        return lambda: None  # another OpenMP, which has no such limit
    release = ctypes.CDLL(str(found[0])).omp_pause_resource_all
    soft = 1  # omp_pause_soft: the settings stay
    return lambda: release(soft) and None
