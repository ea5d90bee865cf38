"""Weights and tokenizers into memory: the tiny model's alphabet, a folder, and what is no model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from forethought.engines.local import TinyConfig
from forethought.engines.local.load import load_model
from forethought.engines.local.tiny import build, build_tokenizer
from forethought.thought.marks import compose


def test_tiny_reads_and_writes_its_own_alphabet(tmp_path: Any) -> None:
    tokenizer = build_tokenizer()
    text = compose("7 + 12 = 19\n~!@", "19")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text) - len("<think>") - len("</think>") - len("\\boxed{") + 3
    assert tokenizer.decode(tokenizer.encode("é", add_special_tokens=False)) == "?"
    model, _ = build(TinyConfig(layers=1, width=32))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, reread = load_model(str(tmp_path))
    assert reread.encode(text, add_special_tokens=False) == ids
    assert reread.chat_template == tokenizer.chat_template
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_tiny_config_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="width is 100"):
        TinyConfig(width=100)
    with pytest.raises(ValueError, match="0 layers"):
        TinyConfig(layers=0)


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="does not load as a causal language model"):
        load_model(str(tmp_path))
    with pytest.raises(ValueError, match="is a server"):
        load_model("http://127.0.0.1:1/v1#model")
