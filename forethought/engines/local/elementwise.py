"""What a layer does besides products and attention. On a GPU each becomes one kernel (compiled at first use): launched
one by one, their parts take a small model as long as its products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F


@dataclass(frozen=True, slots=True)
class Elementwise:
    """The three functions, for one device."""

    norm: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """(x, ε) to x / √(mean x² + ε) over the last dimension, in float32."""
    rotate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """(rows of heads (N, H, W), what is rotated together side by side; complex rotations (N, 1, W / 2))."""
    gate: Callable[[torch.Tensor], torch.Tensor]
    """Gates and what they let through (N, 2 E) to (N, E), by SiLU."""


def elementwise(device: torch.device) -> Elementwise:
    """Compiled for a GPU, where Triton is there to compile it."""
    if device.type != "cuda" or find_spec("triton") is None:
        return Elementwise(_norm, _rotate, _gate)
    norm, rotate, gate = (torch.compile(call, dynamic=True) for call in (_norm_whole, _rotate_pairs, _gate_whole))
    return Elementwise(norm, lambda x_NHW, turn_N1C: rotate(x_NHW, torch.view_as_real(turn_N1C)), gate)


def _norm(x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    # torch's own takes half as long again
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    rate = torch.addcmul(eps, size, size, value=1 / x.shape[-1]).rsqrt_()
    return torch.mul(x, rate, out=torch.empty_like(x))


def _norm_whole(x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def _rotate(x_NHW: torch.Tensor, turn_N1C: torch.Tensor) -> torch.Tensor:
    pairs_NHC = torch.view_as_complex(x_NHW.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs_NHC * turn_N1C).flatten(-2).to(x_NHW.dtype)


def _rotate_pairs(x_NHW: torch.Tensor, turn_N1C2: torch.Tensor) -> torch.Tensor:
    a, b = x_NHW.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turn_N1C2.unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x_NHW.dtype)


def _gate(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _gate_whole(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return (F.silu(gate.float()) * up.float()).to(gate_up.dtype)
