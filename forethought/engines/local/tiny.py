"""`tiny`: a character-level decoder of 0.5 to 5 million parameters, an ordinary Hugging Face Llama checkpoint.

The model of tests, labs and of the demo on a small machine. Untrained it knows nothing; a cold start on worked
examples takes a minute.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from forethought.thought.marks import BOXED, CLOSE, OPEN

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|assistant|>' if message['role'] == 'assistant' else '<|user|>' }}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CHARACTERS = "\n" + string.printable[:95]
"""The newline and printable ASCII; anything else becomes `?`."""


@dataclass(frozen=True)
class TinyConfig:
    """Shape of the tiny model."""

    layers: int = 4
    width: int = 192
    """Of the residual stream; heads are 32 wide."""
    context: int = 512
    """Longest prompt and thought together, in characters."""
    seed: int = 0
    """Of the initial weights."""

    def __post_init__(self) -> None:
        if self.width % 32 or self.width < 32:
            raise ValueError(f"the tiny model's width is {self.width}; it must be a multiple of 32, its head width")
        if self.layers < 1:
            raise ValueError(f"the tiny model has {self.layers} layers; it needs at least 1")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and one for each mark of a thought and of a conversation."""
    marks = [PAD, END, USER, ASSISTANT, OPEN, CLOSE, BOXED]
    vocabulary = {token: index for index, token in enumerate([*marks, *CHARACTERS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([PAD, END, USER, ASSISTANT])
    inner.add_tokens([OPEN, CLOSE, BOXED])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=END,
        unk_token="?",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build(config: TinyConfig | None = None) -> tuple[Any, PreTrainedTokenizerFast]:
    """A fresh model in float32 and its tokenizer."""
    config = config or TinyConfig()
    tokenizer = build_tokenizer()
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        intermediate_size=round(config.width * 8 / 3 / 32) * 32,
        num_hidden_layers=config.layers,
        num_attention_heads=config.width // 32,
        num_key_value_heads=config.width // 32,
        max_position_embeddings=config.context,
        rms_norm_eps=1e-5,
        initializer_range=config.width**-0.5,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    state = torch.get_rng_state()
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(shape)
    torch.set_rng_state(state)
    return model, tokenizer
