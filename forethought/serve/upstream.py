"""A request handed on as it is to the server that a model is on, its thoughts taken out of what comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from forethought.serve.config import AUTO
from forethought.serve.errors import ApiError, failed
from forethought.serve.house import House
from forethought.serve.models import Served
from forethought.serve.spoken import Spoken
from forethought.serve.stream import CLOSED, DONE, Emit, EventStream, event, while_wanted

THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "token_ids")
"""Fields in which servers put thoughts, or the tokens of the whole text."""
OURS = ("none", AUTO)
"""Efforts that mean something here alone."""
TIMEOUT = httpx.Timeout(600.0, connect=30.0)


async def passed(
    house: House, model: Served, request: Request, name: str, path: str, headers: Mapping[str, str]
) -> Response:
    """The upstream's answer to the body of `request`, under the name that the client knows. Raises ApiError."""
    body = json.loads(await request.body())
    if body.get("reasoning_effort") in OURS:
        del body["reasoning_effort"]
    hand = Hand(model, path, body, name)
    ticket = house.gate.ticket()
    if body.get("stream"):

        async def stream(emit: Emit) -> None:
            try:
                async with ticket:
                    async for chunk in hand.chunks():
                        emit(event(chunk))
                    emit(DONE)
            except ApiError as error:
                emit(event({"error": error.body}))

        return EventStream(stream, beat=house.config.heartbeat, leave=ticket.leave, headers=headers)

    async def reply() -> dict[str, Any]:
        async with ticket:
            return await hand.reply()

    try:
        told = await while_wanted(request, reply())
    finally:
        ticket.leave()
    return CLOSED if told is None else JSONResponse(told, headers=dict(headers))


class Hand:
    """One request on its way to the upstream and back; `name` is what the client calls the model."""

    def __init__(self, model: Served, path: str, body: Mapping[str, Any], name: str) -> None:
        engine = model.upstream
        assert engine is not None
        self.url, self.body, self.name = engine.url + path, {**body, "model": engine.name}, name
        self.headers = {"authorization": f"Bearer {model.key}"} if model.key else {}
        self.shows, self.opens = model.config.show_thoughts, model.config.opens_thought
        self.spoken: dict[int, Spoken] = {}
        """Of each choice, what may be shown of it."""

    async def reply(self) -> dict[str, Any]:
        """The whole answer. Raises ApiError."""
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT) as client:
                answer = await client.post(self.url, json=self.body, headers=self.headers)
        except httpx.RequestError:
            raise failed() from None
        _check(answer.status_code, answer.content)
        return self.cleaned(_object(answer.content), last=True)

    async def chunks(self) -> AsyncGenerator[dict[str, Any]]:
        """The answer in the upstream's own pieces. Raises ApiError."""
        try:
            async with (
                httpx.AsyncClient(timeout=TIMEOUT) as client,
                client.stream("POST", self.url, json=self.body, headers=self.headers) as answer,
            ):
                if answer.status_code >= 300:
                    _check(answer.status_code, await answer.aread())
                async for line in answer.aiter_lines():
                    data = line.removeprefix("data:").strip()
                    if line.startswith("data:") and data != "[DONE]":
                        yield self.cleaned(_object(data.encode()))
        except httpx.RequestError:
            raise failed() from None

    def cleaned(self, data: dict[str, Any], *, last: bool = False) -> dict[str, Any]:
        """An answer, or a chunk of one, without thoughts; `last`: nothing comes after it. Raises ApiError."""
        if data.get("error"):
            raise failed()
        if "model" in data:
            data["model"] = self.name
        choices = _choices(data)
        if self.shows:
            return data
        for choice, place in choices:
            for field in THOUGHTS:
                place.pop(field, None)
                choice.pop(field, None)
            index, at = choice.get("index", 0), "text" if "text" in place else "content"
            # A bare text begins with what the last one lacks: often a blank.
            spoken = self.spoken.setdefault(index, Spoken(hidden=self.opens, bare=at == "text"))
            given = place.get(at)
            shown = spoken.feed(given) if isinstance(given, str) else ""
            if choice.get("finish_reason") or last:
                shown += spoken.end()
            if shown != (given or ""):
                choice.pop("logprobs", None)  # they spell the whole text
            if isinstance(given, str) or shown:
                place[at] = shown
        return data


def _object(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
        # Python reads more as JSON than can be written: NaN, half of a surrogate pair.
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise failed() from None
    if not isinstance(data, dict):
        raise failed()
    return data


def _choices(data: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each choice, and what its text stands in. Raises ApiError for what is none."""
    choices = data.get("choices") or []
    found = []
    for choice in choices if isinstance(choices, list) else [choices]:
        place = (choice.get("delta") or choice.get("message") or choice) if isinstance(choice, dict) else None
        if not isinstance(place, dict) or not isinstance(choice.get("index", 0), int):
            raise failed()
        found.append((choice, place))
    return found


def _check(status: int, content: bytes) -> None:
    """Tell the client what the upstream says of its request; of our key and of its own troubles it learns nothing."""
    if status < 300:
        return
    if status not in (400, 404, 413, 422, 429):
        raise failed()
    error = _object(content).get("error")
    said = error if isinstance(error, dict) else {}
    raise ApiError(
        status,
        str(said.get("message") or "The model's server refuses the request."),
        code=said.get("code") if isinstance(said.get("code"), str) else None,
        param=said.get("param") if isinstance(said.get("param"), str) else None,
    )
