"""A trained head comes back from the disk as it was written, and what is wrong there is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from forethought.verify.heads import DESCRIPTION, WEIGHTS, Head, load, save

HEAD = Head("process", (0.1, -2.5, 3e-8), 0.7, "min")


def test_a_head_comes_back_as_it_was(tmp_path: Path) -> None:
    save(tmp_path / "new", HEAD)
    head = load(tmp_path / "new")
    assert (head.kind, head.aggregate, head.bias) == ("process", "min", 0.7)
    assert head.weight == tuple(np.float32(value) for value in HEAD.weight)
    save(tmp_path / "new", Head("value", (1.0,)))
    assert load(tmp_path / "new") == Head("value", (1.0,), 0.0, "last")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"kind": "judge"}, "kind is 'judge'; a head can be outcome, process, bradley_terry, value"),
        ({"aggregate": "max"}, "aggregate is 'max'; it can be last, min, product, mean"),
        ({"weight": ()}, "one for each unit"),
        ({"weight": [1.0]}, "a tuple of floats"),
        ({"weight": (1.0, float("nan"))}, "holds nan"),
        ({"bias": float("-inf")}, "holds -inf"),
    ],
)
def test_a_head_that_can_say_nothing_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Head(**{"kind": "outcome", "weight": (1.0,), **fields})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be an object with kind, aggregate and bias"),
        ('{"kind": "outcome", "bias": 0}', "must be an object with kind, aggregate and bias"),
        ('{"kind": "outcome", "aggregate": "last", "bias": "0"}', "bias is '0'; it must be a number"),
        ('{"kind": "orm", "aggregate": "last", "bias": 0}', "kind is 'orm'"),
    ],
)
def test_a_broken_description_is_named(tmp_path: Path, text: str, named: str) -> None:
    save(tmp_path, HEAD)
    (tmp_path / DESCRIPTION).write_text(text)
    with pytest.raises(ValueError, match=named) as refused:
        load(tmp_path)
    assert DESCRIPTION in str(refused.value)


def test_broken_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no trained verifier"):
        load(tmp_path)
    save(tmp_path, HEAD)
    (tmp_path / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path)
    save_file({"weight": np.zeros((2, 3), np.float32)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"\(2, 3\).*one weight of the shape \(D,\)"):
        load(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path)


def test_the_file_is_what_the_page_says(tmp_path: Path) -> None:
    save(tmp_path, HEAD)
    assert json.loads((tmp_path / DESCRIPTION).read_text()) == {"kind": "process", "aggregate": "min", "bias": 0.7}
