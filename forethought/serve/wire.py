"""What clients send: the fields that are read, and for every other one whether it is ignored or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forethought.serve.errors import ApiError, wrong

Fate = Literal["supported", "ignored", "upstream", "refused"]
"""`upstream`: handed on to the server that the model is on, refused for a model that is here."""

CHAT: dict[str, Fate] = {
    "messages": "supported",
    "model": "supported",
    "audio": "refused",
    "frequency_penalty": "upstream",
    "function_call": "upstream",
    "functions": "upstream",
    "logit_bias": "upstream",
    "logprobs": "supported",
    "max_completion_tokens": "supported",
    "max_tokens": "supported",
    "metadata": "ignored",
    "modalities": "refused",
    "n": "supported",
    "parallel_tool_calls": "upstream",
    "prediction": "ignored",
    "presence_penalty": "upstream",
    "prompt_cache_key": "ignored",
    "prompt_cache_retention": "ignored",
    "reasoning_effort": "supported",
    "response_format": "supported",
    "safety_identifier": "ignored",
    "seed": "supported",
    "service_tier": "ignored",
    "stop": "supported",
    "store": "refused",
    "stream": "supported",
    "stream_options": "supported",
    "temperature": "supported",
    "tool_choice": "upstream",
    "tools": "upstream",
    "top_logprobs": "upstream",
    "top_p": "supported",
    "user": "ignored",
    "verbosity": "ignored",
    "web_search_options": "refused",
}
"""Every parameter of /v1/chat/completions."""

COMPLETIONS: dict[str, Fate] = {
    "prompt": "supported",
    "model": "supported",
    "best_of": "upstream",
    "echo": "supported",
    "frequency_penalty": "upstream",
    "logit_bias": "upstream",
    "logprobs": "supported",
    "max_tokens": "supported",
    "n": "supported",
    "presence_penalty": "upstream",
    "seed": "supported",
    "stop": "supported",
    "stream": "supported",
    "stream_options": "supported",
    "suffix": "upstream",
    "temperature": "supported",
    "top_p": "supported",
    "user": "ignored",
}
"""Every parameter of /v1/completions."""

RESPONSES: dict[str, Fate] = {
    "input": "supported",
    "model": "supported",
    "background": "supported",
    "conversation": "refused",
    "include": "supported",
    "instructions": "supported",
    "max_output_tokens": "supported",
    "max_tool_calls": "ignored",
    "metadata": "supported",
    "parallel_tool_calls": "upstream",
    "previous_response_id": "supported",
    "prompt": "refused",
    "prompt_cache_key": "ignored",
    "prompt_cache_retention": "ignored",
    "reasoning": "supported",
    "safety_identifier": "ignored",
    "service_tier": "ignored",
    "store": "supported",
    "stream": "supported",
    "stream_options": "ignored",
    "temperature": "supported",
    "text": "supported",
    "tool_choice": "upstream",
    "tools": "upstream",
    "top_logprobs": "refused",
    "top_p": "supported",
    "truncation": "refused",
    "user": "ignored",
}
"""Every parameter of /v1/responses."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "modalities": (["text"],),
    "tool_choice": ("none", "auto"),
    "truncation": ("disabled",),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True,),
}
"""Values that ask for nothing, beside null, false, 0 and what is empty."""


class Request(BaseModel):
    """What both APIs have."""

    model_config = ConfigDict(extra="allow")

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, given: Any) -> Any:
        """Python reads more as JSON than can be written: NaN, and `\\ud800`, half a character."""
        try:
            json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise ValueError("holds NaN, Infinity, half of a surrogate pair, or too deep a nest") from None
        return given


class Options(BaseModel):
    """`stream_options`."""

    include_usage: bool = False


class ChatMessage(BaseModel):
    """One turn; what is not text is an upstream's to read."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(Request):
    """The body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    logprobs: bool | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1, le=128)
    reasoning_effort: str | None = None
    response_format: dict[str, Any] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream_options: Options | None = None


class CompletionRequest(Request):
    """The body of /v1/completions."""

    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=5)
    max_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1, le=128)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream_options: Options | None = None


class Reasoning(BaseModel):
    """`reasoning`."""

    model_config = ConfigDict(extra="forbid")

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class Text(BaseModel):
    """`text`."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponsesRequest(Request):
    """The body of /v1/responses."""

    input: str | list[dict[str, Any]]
    background: bool | None = None
    include: list[str] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    metadata: dict[str, str] | None = None
    previous_response_id: str | None = None
    reasoning: Reasoning | None = None
    store: bool | None = None
    text: Text | None = None


def asks(name: str, value: Any) -> bool:
    """Does this value ask for anything?"""
    return bool(value) and value not in NEUTRAL.get(name, ())


def extras(request: Request, fates: Mapping[str, Fate], *, upstream: bool) -> tuple[list[str], list[str]]:
    """Of the fields that are not read: those that are ignored, and those that only an upstream can see to.

    Raises ApiError for a field that is unknown, is refused, or needs an upstream where there is none.
    """
    ignored, handed = [], []
    for name, value in (request.model_extra or {}).items():
        fate = fates.get(name)
        if fate is None:
            raise ApiError(
                400, f"Unrecognized request argument supplied: {name}.", code="unknown_parameter", param=name
            )
        if not asks(name, value):
            continue
        if fate == "ignored":
            ignored.append(name)
        elif fate == "upstream" and upstream:
            handed.append(name)
        else:
            raise wrong(name, f"`{name}` is not supported by this model.", "unsupported_parameter")
    return ignored, handed


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    """The strings that end an answer. Raises ApiError."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > 4 or not all(stops):
        raise wrong("stop", "Give up to 4 strings, none of them empty.")
    return stops


def text_of(content: Any, param: str) -> str:
    """The text of a turn. Raises ApiError where there is anything else in it."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for number, part in enumerate(content):
        text = part.get("text", part.get("refusal")) if isinstance(part, dict) else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise wrong(f"{param}[{number}]", f"Only text can be read here, not {kind!r}.", "unsupported_value")
        texts.append(text)
    return "".join(texts)


def schema_of(form: Mapping[str, Any] | None, param: str) -> dict[str, Any] | None:
    """The JSON schema that `response_format` or `text.format` asks for; `None` for plain text."""
    kind = (form or {}).get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema" and form is not None:
        # The chat API has the schema in an object of its own, the responses API has it here.
        inner = form.get("json_schema", form)
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if not isinstance(schema, dict):
            raise wrong(param, "A `json_schema` needs its `schema`, an object.")
        return schema
    raise wrong(param, f"The format {kind!r} is not known; there is text, json_object and json_schema.")
