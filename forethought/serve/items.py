"""The responses API's items: what comes in as a conversation, and what goes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from forethought.serve.calls import CALLS, add_call
from forethought.serve.errors import wrong
from forethought.serve.think import Answer
from forethought.serve.wire import ResponsesRequest, text_of
from forethought.thought.marks import CLOSE, OPEN
from forethought.types import Message, Messages

ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def conversation(
    given: str | Sequence[Mapping[str, Any]], instructions: str | None, earlier: Messages, unseal: Callable[[str], str]
) -> tuple[Messages, str]:
    """The conversation that `input` asks to go on with, and the unfinished thought that it ends in (or `""`).

    A sealed thought goes back into the turn of the assistant that follows it; calls of functions and what they gave are
    turns as the chat API has them (`calls.foreign`). Raises ApiError for what is neither.
    """
    turns = list(earlier)
    if instructions:
        turns = [Message(role="system", content=instructions), *turns]
    thought = ""
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    for number, item in enumerate(items):
        at, kind = f"input[{number}]", item.get("type", "message")
        if kind == "reasoning":
            sealed = item.get("encrypted_content")
            thought = unseal(sealed) if isinstance(sealed, str) else ""
            continue
        if kind in CALLS:
            thought = ""
            add_call(turns, item, at)
            continue
        role = ROLES.get(str(item.get("role")))
        if kind != "message" or role is None:
            what = kind if kind != "message" else f"role {item.get('role')!r}"
            raise wrong(at, f"An item of this kind cannot be read here: {what}.", "unsupported_value")
        text = text_of(item.get("content"), f"{at}.content")
        if thought and role == "assistant":
            text, thought = f"{OPEN}\n{thought}\n{CLOSE}\n{text}", ""
        turns.append(Message(role=role, content=text))
    if not any(turn["role"] != "system" for turn in turns):
        raise wrong("input", "There is nothing to answer: give at least one turn.")
    return tuple(turns), f"{OPEN}\n{thought}" if thought else ""


def response_of(id_: str, body: ResponsesRequest, status: str, **told: Any) -> dict[str, Any]:
    """A response as it stands, without output unless that is `told`."""
    reasoning = body.reasoning
    return {
        "id": id_,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": body.previous_response_id,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": (body.text.format if body.text else None) or {"type": "text"}},
        "tool_choice": "none",
        "tools": [],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        **told,
    }


def reasoning_item(id_: str, status: str, summary: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """The item that stands for a thought."""
    parts = [{"type": "summary_text", "text": text} for text in summary]
    return {"id": id_, "type": "reasoning", "status": status, "summary": parts, **more}


def message_item(id_: str, status: str, text: str | None = None) -> dict[str, Any]:
    """The item that is the answer; without a `text`, before there is any."""
    content = [] if text is None else [text_part(text)]
    return {"id": id_, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str) -> dict[str, Any]:
    """A message's one part."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def usage_of(answer: Answer, summary: int) -> dict[str, Any]:
    """`usage` of the responses API; `summary` tokens were drawn for summaries, beside the answer's own."""
    return {
        "input_tokens": answer.prompt,
        "input_tokens_details": {"cached_tokens": answer.cached},
        "output_tokens": answer.sampled,
        "output_tokens_details": {
            "reasoning_tokens": answer.reasoning,
            "judge_tokens": answer.usage.judged,
            "summary_tokens": summary,
        },
        "total_tokens": answer.prompt + answer.sampled,
    }
