"""/v1/chat/completions."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from forethought.search.work import together
from forethought.serve.errors import ApiError, wrong
from forethought.serve.house import House, house_of, new_id, nth
from forethought.serve.limits import Ticket
from forethought.serve.models import Served
from forethought.serve.stream import CLOSED, DONE, Emit, EventStream, event, while_wanted
from forethought.serve.think import Answer, Ask, check
from forethought.serve.upstream import passed
from forethought.serve.watch import Event, Grown, Said
from forethought.serve.wire import CHAT, ChatMessage, ChatRequest, asks, extras, schema_of, stops_of, text_of
from forethought.types import Message, Messages

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation; see docs/serve.md for what each parameter does."""
    house = house_of(request)
    model, search = house.models.find(body.model)
    ignored, handed = extras(body, CHAT, upstream=model.upstream is not None)
    headers = {"x-forethought-ignored": ", ".join(ignored)} if ignored else {}
    if model.upstream is not None and (handed or _upstreams(body)):
        return await passed(house, model, request, body.model, "/chat/completions", headers)
    ask = ask_of(body)
    await check(ask, model, search)
    ticket = house.gate.ticket()
    work = _Chat(house, model, search, body, ask, ticket)
    if body.stream:
        return EventStream(
            work.stream, beat=house.config.heartbeat, leave=ticket.leave, pulse=work.pulse, headers=headers
        )
    try:
        reply = await while_wanted(request, work.reply())
    finally:
        ticket.leave()
    return CLOSED if reply is None else JSONResponse(reply, headers=headers)


def _upstreams(body: ChatRequest) -> bool:
    """Is there something in it that only the server the model is on can see to, or see to better?"""
    formed = (body.response_format or {}).get("type", "text") != "text"
    return formed or body.reasoning_effort == "none" or any(map(_foreign, body.messages))


def _foreign(message: ChatMessage) -> bool:
    parts = message.content if isinstance(message.content, list) else []
    texts = all(isinstance(part.get("text", part.get("refusal")), str) for part in parts)
    tools = message.role in ("tool", "function") or any(asks(name, (message.model_extra or {}).get(name)) for name in
                                                        ("tool_calls", "function_call", "audio"))  # fmt: skip
    return tools or not texts


def messages_of(messages: Sequence[ChatMessage]) -> Messages:
    """The conversation as engines have it. Raises ApiError for turns that are not text."""
    turns = []
    for number, message in enumerate(messages):
        if _foreign(message) and not isinstance(message.content, list):
            at = f"messages[{number}]"
            raise wrong(at, "Tool calls need a model that is on a server of its own.", "unsupported_value")
        role = "system" if message.role == "developer" else message.role
        turns.append(Message(role=role, content=text_of(message.content, f"messages[{number}].content")))
    return tuple(turns)


def ask_of(body: ChatRequest) -> Ask:
    """What is asked, checked. Raises ApiError."""
    if (body.n or 1) > 1 and body.temperature == 0:
        raise wrong("n", "At temperature 0 all choices are the same; give n=1 or a temperature above 0.")
    schema = schema_of(body.response_format, "response_format")
    return Ask(
        messages=messages_of(body.messages),
        effort=body.reasoning_effort or "",
        tokens=body.max_completion_tokens or body.max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=stops_of(body.stop),
        schema=None if schema is None else json.dumps(schema),
    )


class _Chat:
    """One request at work."""

    def __init__(self, house: House, model: Served, search: str, body: ChatRequest, ask: Ask, ticket: Ticket) -> None:
        self.house, self.model, self.search, self.body, self.ask, self.ticket = house, model, search, body, ask, ticket
        self.head = {"id": new_id("chatcmpl-"), "created": int(time.time()), "model": body.model}
        self.grown: dict[int, Grown] = {}
        """Of each choice, its tree's last growth."""

    def pulse(self) -> str:
        """How far the search has come, for a heartbeat."""
        steps, tokens = (sum(getattr(g, name) for g in self.grown.values()) for name in ("node", "tokens"))
        return f"thinking: {steps} steps, {tokens} tokens" if steps else "waiting"

    async def reply(self) -> dict[str, Any]:
        """The whole answer."""
        async with self.ticket:
            answers = await together(
                self.house.answer(nth(self.ask, index), self.model, self.search) for index in range(self.body.n or 1)
            )
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": usage_of(answers)}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        if self.model.config.show_thoughts and answer.thought:
            message["reasoning_content"] = answer.thought
        logprobs = {"content": _told(answer.tokens), "refusal": None} if self.body.logprobs and answer.tokens else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": _reason(answer)}

    async def stream(self, emit: Emit) -> None:
        """The answer, piece by piece, choices side by side."""
        include = self.body.stream_options is not None and self.body.stream_options.include_usage

        def chunk(index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> None:
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
            usage: dict[str, Any] = {"usage": None} if include else {}
            emit(event({**self.head, "object": "chat.completion.chunk", "choices": [choice], **usage}))

        async def choose(index: int) -> Answer:
            def hear(heard: Event) -> None:
                if isinstance(heard, Grown):
                    self.grown[index] = heard
                if not isinstance(heard, Said):
                    return
                logprobs = {"content": _told(heard.tokens), "refusal": None} if self.body.logprobs else None
                chunk(index, {"content": heard.text}, logprobs=logprobs)

            async def pause(thought: str) -> None:
                if self.model.config.show_thoughts and thought:
                    chunk(index, {"reasoning_content": thought})

            chunk(index, {"role": "assistant", "content": ""})
            answer = await self.house.answer(nth(self.ask, index), self.model, self.search, hear, pause)
            chunk(index, {}, _reason(answer))
            return answer

        try:
            async with self.ticket:
                answers = await together(choose(index) for index in range(self.body.n or 1))
        except ApiError as error:
            emit(event({"error": error.body}))
            return
        if include:
            emit(event({**self.head, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(answers)}))
        emit(DONE)


def _reason(answer: Answer) -> str:
    return "length" if answer.cut else "stop"


def _told(tokens: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [
        {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
        for text, logprob in tokens
    ]


def usage_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """`usage` of the chat API; the prompt, which all choices share, is counted once."""
    prompt = max(answer.prompt for answer in answers)
    sampled = sum(answer.sampled for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": min(answer.cached for answer in answers)},
        "completion_tokens_details": {
            "reasoning_tokens": sum(answer.reasoning for answer in answers),
            "judge_tokens": sum(answer.usage.judged for answer in answers),
        },
    }
