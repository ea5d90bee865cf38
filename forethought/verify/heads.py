"""Scalar heads on disk: how a trained scorer is kept, and how any verifier is opened by its name.

    FOLDER/
        config.json, model.safetensors, tokenizer.json, …   an ordinary Hugging Face checkpoint: the trunk
        head.safetensors    {"weight": (D,)}, float32, over the last hidden states (behind the final norm)
        head.json           {"kind": …, "aggregate": …, "bias": …}; written last

A head says `weight · hidden + bias` at a token. For `outcome`, `process` and `value` that is the logit of a
probability, for `bradley_terry` it is a reward.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from forethought.engines.open import needing_weights

Kind = Literal["outcome", "process", "bradley_terry", "value"]
Aggregate = Literal["last", "min", "product", "mean"]
Labels = Literal["correctness", "value"]
"""What step labels say: that the step is right (people, programs, judges), or what is to be hoped for from there
(Monte-Carlo continuations, hard or soft, and returns)."""

AGGREGATES: dict[Labels, Aggregate] = {"correctness": "product", "value": "last"}
"""How the scores of steps become one, by what their labels say.

A thought is right when all of its steps are: the product (PRM800K, arXiv 2305.20050: 78.2 against 77.6 for the minimum
at best-of-1860), and the minimum where thoughts differ much in length. A value already looks to the end: the last
(arXiv 2408.03314, section 5.1).
"""

DESCRIPTION = "head.json"
WEIGHTS = "head.safetensors"


@dataclass(frozen=True, slots=True)
class Head:
    """A scalar head over a model's last hidden states."""

    kind: Kind
    weight: tuple[float, ...]
    """D floats, as many as the model is wide (`tuple(weight_D.tolist())`)."""
    bias: float = 0.0
    aggregate: Aggregate = "last"
    """How scores at the ends of steps become one; `AGGREGATES` has it by label. Only `process` and `value` have
    several."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}; a head can be {', '.join(get_args(Kind))}")
        if self.aggregate not in get_args(Aggregate):
            raise ValueError(f"aggregate is {self.aggregate!r}; it can be {', '.join(get_args(Aggregate))}")
        if not isinstance(self.weight, tuple) or not self.weight:
            raise ValueError("a head's weight is a tuple of floats, one for each unit of the model's width")
        if bad := [value for value in (*self.weight, self.bias) if not math.isfinite(value)]:
            raise ValueError(f"the head holds {bad[0]}, so all it says would be; its training has diverged")


def save(folder: Path | str, head: Head) -> None:
    """Write `head` into `folder`, beside the checkpoint it was trained on; one that is there is replaced."""
    with needing_weights("a trained head"):
        import numpy as np
        from safetensors.numpy import save_file
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    save_file({"weight": np.array(head.weight, dtype=np.float32)}, folder / WEIGHTS)
    described = {"kind": head.kind, "aggregate": head.aggregate, "bias": head.bias}
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def load(folder: Path | str) -> Head:
    """The head in `folder`.

    Raises:
        ValueError: no head is there, or one that cannot be read; the message names the file and what is wrong in it.
    """
    with needing_weights("a trained head"):
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    folder = Path(folder)
    path = folder / DESCRIPTION
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no trained verifier: it has no {DESCRIPTION}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(described, dict) or not {"kind", "aggregate", "bias"} <= set(described):
        raise ValueError(f"{path} has {described!r:.120}; it must be an object with kind, aggregate and bias")
    bias = described["bias"]
    if isinstance(bias, bool) or not isinstance(bias, int | float):
        raise ValueError(f"{path}: bias is {bias!r}; it must be a number")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if set(shapes) != {"weight"} or len(shapes["weight"]) != 1:
        raise ValueError(f"{folder / WEIGHTS} holds {shapes}; it must hold one weight of the shape (D,)")
    try:
        return Head(described["kind"], tuple(tensors["weight"].tolist()), float(bias), described["aggregate"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
