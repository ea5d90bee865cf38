"""Conversation and steps to token ids: one function, for the engine that samples and the learner that trains."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from forethought.types import Messages, Step

LONG = 10_000
"""Characters from which on they are encoded in a thread: a million take a second."""
_LONG = ThreadPoolExecutor(1, thread_name_prefix="forethought-encode")
"""One at a time: a million characters take half a gigabyte while they are encoded."""


class Tokenizer(Protocol):
    """What we use of a Hugging Face tokenizer."""

    chat_template: Any
    eos_token_id: Any

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = ...) -> str: ...


def plain(messages: Messages) -> str:
    """The conversation as a model without a chat template reads it: its turns, a blank line between them."""
    return "\n\n".join(message["content"] for message in messages) + "\n"


def prompt_tokens(tokenizer: Tokenizer, messages: Messages) -> tuple[int, ...]:
    """The conversation up to where the assistant begins to speak.

    A model without a chat template gets their `plain` text. Of no turns nothing is left but what the tokenizer begins
    every text with: what follows is gone on with as it is.
    """
    if not messages:
        return tuple(tokenizer.encode("", add_special_tokens=True))
    if tokenizer.chat_template is None:
        return tuple(tokenizer.encode(plain(messages), add_special_tokens=True))
    text = tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=True)
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def step_tokens(tokenizer: Tokenizer, step: Step) -> tuple[int, ...]:
    """A step's tokens as sampled; a step that came without them (written by us, or by a server) is encoded here."""
    return step.tokens or tuple(tokenizer.encode(step.text, add_special_tokens=False))


def render(
    tokenizer: Tokenizer, messages: Messages, steps: Sequence[Step]
) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Token ids of the prompt and all steps, and for each step its (start, end) in them."""
    tokens = list(prompt_tokens(tokenizer, messages))
    spans: list[tuple[int, int]] = []
    for step in steps:
        start = len(tokens)
        tokens += step_tokens(tokenizer, step)
        spans.append((start, len(tokens)))
    return tuple(tokens), spans


async def rendered(
    tokenizer: Tokenizer, messages: Messages, steps: Sequence[Step] = ()
) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """As `render`; where there is much to encode, the event loop is left free."""
    texts = [*(message["content"] for message in messages), *(step.text for step in steps if not step.tokens)]
    if sum(map(len, texts)) < LONG:
        return render(tokenizer, messages, steps)
    return await asyncio.get_running_loop().run_in_executor(_LONG, render, tokenizer, messages, steps)


def worked_step(tokenizer: Tokenizer, text: str) -> Step:
    """A worked example's completion as a step, its end token included, as if it had been sampled."""
    if tokenizer.eos_token_id is None:
        raise ValueError("this tokenizer has no end token, so a thought could never end; set its eos_token")
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    return Step(text=text, tokens=(*ids, int(tokenizer.eos_token_id)), stop="end")
