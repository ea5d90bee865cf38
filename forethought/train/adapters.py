"""Low-rank adapters of a run: put on by a seed, and folded into plain weights for whatever only reads them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from forethought.train.learner import lora


def adapted(model: nn.Module, rank: int, seed: int) -> nn.Module:
    """`learner.lora` with adapters that depend on `seed` alone, so that a resumed run begins with the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return lora(model, rank)


def is_adapted(model: nn.Module) -> bool:
    """Are adapters on it?"""
    return hasattr(model, "get_base_model")


def plain(model: nn.Module) -> nn.Module:
    """The model without adapters that computes the same, up to rounding: a copy of its weights with theirs added.

    What is trained stays as it is, to the bit. A model without adapters is returned itself.
    """
    if not is_adapted(model):
        return model
    folded: Any = copy.deepcopy(model)
    merged: nn.Module = folded.merge_and_unload()
    return merged
