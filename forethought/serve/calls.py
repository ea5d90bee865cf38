"""Function tools of the responses API, as the chat API of an upstream has them, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forethought.serve.errors import wrong
from forethought.serve.models import Served
from forethought.serve.upstream import OURS
from forethought.serve.wire import ResponsesRequest, text_of
from forethought.types import Message, Messages

CALLS = ("function_call", "function_call_output")
"""Items of `input` that are a call, and what it gave."""


def foreign(messages: Messages) -> bool:
    """Is there a call of a function, or what one gave, in this conversation? Only an upstream can read that."""
    return any(turn["role"] == "tool" or "tool_calls" in turn for turn in messages)


def add_call(turns: list[Message], item: Mapping[str, Any], at: str) -> None:
    """One item of `CALLS` as a turn; calls that were made together are one. Raises ApiError where it lacks anything."""
    call_id = item.get("call_id")
    if not isinstance(call_id, str) or not call_id:
        raise wrong(f"{at}.call_id", "It says which call this is, and is missing.", "missing_required_parameter")
    if item["type"] == "function_call_output":
        turn: Any = {"role": "tool", "tool_call_id": call_id, "content": text_of(item.get("output"), f"{at}.output")}
        turns.append(turn)
        return
    function = {name: item.get(name) for name in ("name", "arguments")}
    if not all(isinstance(value, str) for value in function.values()):
        raise wrong(at, "A function_call has a `name` and `arguments`, both text.", "missing_required_parameter")
    last: Any = turns.pop() if turns and turns[-1]["role"] == "assistant" else {"role": "assistant", "content": ""}
    made = [*last.get("tool_calls", ()), {"id": call_id, "type": "function", "function": function}]
    last = {**last, "tool_calls": made}
    turns.append(last)


def chat_body(body: ResponsesRequest, messages: Messages, model: Served) -> dict[str, Any]:
    """The request for the upstream's chat API. Raises ApiError for tools that are no functions."""
    extra, engine = body.model_extra or {}, model.upstream
    assert engine is not None
    limit = "max_completion_tokens" if "max_tokens" in engine.lacks else "max_tokens"
    effort = body.reasoning.effort if body.reasoning else None
    asked = {
        "messages": list(messages),
        limit: body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "reasoning_effort": None if effort in OURS else effort,
        "response_format": _format(body.text.format if body.text else None),
        "tools": _tools(extra.get("tools") or ()) or None,
        "tool_choice": _choice(extra.get("tool_choice")),
        "parallel_tool_calls": extra.get("parallel_tool_calls"),
    }
    if asked["tools"] is None:
        del asked["tool_choice"], asked["parallel_tool_calls"]
    return {name: value for name, value in asked.items() if value is not None}


def _tools(tools: Any) -> list[dict[str, Any]]:
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise wrong("tools", "Give a list of tools.")
    made = []
    for number, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind != "function":
            raise wrong(f"tools[{number}]", f"Only functions can be called here, not {kind!r}.", "unsupported_value")
        if not isinstance(tool.get("name"), str) or not tool["name"]:
            raise wrong(f"tools[{number}].name", "A function has a name.", "missing_required_parameter")
        known = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in known if tool.get(name) is not None}
        made.append({"type": "function", "function": function})
    return made


def _choice(choice: Any) -> Any:
    """`tool_choice`: a word is the same in both APIs, a function is not."""
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") != "function" or not isinstance(choice.get("name"), str):
        raise wrong("tool_choice", "Give auto, none, required, or a function by its name.", "unsupported_value")
    return {"type": "function", "function": {"name": choice["name"]}}


def _format(form: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`text.format` as `response_format`."""
    if form is None or form.get("type") in (None, "text"):
        return None
    if form["type"] != "json_schema":
        return {"type": form["type"]}
    inner = {name: form[name] for name in ("name", "description", "schema", "strict") if form.get(name) is not None}
    return {"type": "json_schema", "json_schema": {"name": "answer", **inner}}
