"""/v1/responses: made at once, as a stream, or in the background."""

from __future__ import annotations

import json
import logging
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from forethought.serve.calls import foreign
from forethought.serve.errors import ApiError, wrong
from forethought.serve.handed import Handed
from forethought.serve.house import House, caller_of, house_of, new_id
from forethought.serve.items import conversation
from forethought.serve.jobs import ATTEMPTS, LIVE, Job
from forethought.serve.limits import Ticket
from forethought.serve.making import Making
from forethought.serve.stream import CLOSED, Emit, EventStream, event, while_wanted
from forethought.serve.think import Ask, check
from forethought.serve.wire import RESPONSES, ResponsesRequest, extras, schema_of

logger = logging.getLogger(__name__)
router = APIRouter()

SEALED = "reasoning.encrypted_content"
INCLUDED = (SEALED, "message.output_text.logprobs")
"""What `include` may name; the second has no effect."""

NAMES = {"reasoning_effort": "reasoning.effort", "response_format": "text.format", "messages": "input"}
"""What parameters of the chat API are called here."""


@router.post("/v1/responses")
async def create(body: ResponsesRequest, request: Request) -> Response:
    """Answer a conversation; see docs/serve.md for what each parameter does."""
    house, owner = house_of(request), caller_of(request).name
    making, ignored = await _making(house, owner, body, new_id("resp_"))
    headers = {"x-forethought-ignored": ", ".join(ignored)} if ignored else {}
    ticket = house.gate.ticket()
    if body.background:
        queued = making.response("queued")
        assert house.jobs is not None
        house.jobs.add(owner, body.model_dump(exclude_none=True), making.ask.messages, queued)
        house.background.start(making.id, _job(house, making, ticket))
        return JSONResponse(queued, headers=headers)
    if body.stream:

        async def stream(emit: Emit) -> None:
            def tell(told: dict[str, Any]) -> None:
                emit(event(told, told["type"]))

            async with ticket:
                _keep(house, owner, making, await making.make(tell))

        return EventStream(stream, beat=house.config.heartbeat, leave=ticket.leave, pulse=making.pulse, headers=headers)

    async def reply() -> dict[str, Any]:
        async with ticket:
            return await making.make()

    try:
        made = await while_wanted(request, reply())
    finally:
        ticket.leave()
    if made is None:
        return CLOSED
    if making.error is not None:
        raise making.error
    _keep(house, owner, making, made)
    return JSONResponse(made, headers=headers)


@router.get("/v1/responses/{id_}")
async def retrieve(id_: str, request: Request) -> dict[str, Any]:
    """A stored response as it stands."""
    return _stored(request, id_).response


@router.post("/v1/responses/{id_}/cancel")
async def cancel(id_: str, request: Request) -> dict[str, Any]:
    """End a background job; one that has ended stays as it is."""
    house, job = house_of(request), _stored(request, id_)
    if job.status not in LIVE:
        return job.response
    told = {**job.response, "status": "cancelled"}
    assert house.jobs is not None
    house.jobs.put(told)
    await house.background.cancel(id_)
    return told


@router.delete("/v1/responses/{id_}")
async def delete(id_: str, request: Request) -> dict[str, Any]:
    """Forget a stored response, and end it where it is under way."""
    house, _ = house_of(request), _stored(request, id_)
    await house.background.cancel(id_)
    assert house.jobs is not None
    house.jobs.delete(id_)
    return {"id": id_, "object": "response", "deleted": True}


def _stored(request: Request, id_: str) -> Job:
    house = house_of(request)
    job = house.jobs.get(id_, caller_of(request).name) if house.jobs else None
    if job is None:
        raise ApiError(404, f"Response with id '{id_}' not found.", param="id")
    return job


def _keep(house: House, owner: str, making: Making, made: dict[str, Any]) -> None:
    if house.jobs is not None and made["store"]:
        house.jobs.add(owner, making.body.model_dump(exclude_none=True), making.told(), made)


async def _making(house: House, owner: str, body: ResponsesRequest, id_: str) -> tuple[Making, list[str]]:
    """The request, checked and ready to be worked on, and the parameters that are ignored. Raises ApiError."""
    model, search = house.models.find(body.model)
    ignored, asked = extras(body, RESPONSES, upstream=model.upstream is not None)
    if (body.store or body.background or body.previous_response_id) and house.jobs is None:
        name = next(name for name in ("background", "previous_response_id", "store") if getattr(body, name))
        raise wrong(name, f"This server stores no responses, which `{name}` needs.", "unsupported_parameter")
    if body.background and (body.stream or body.store is False):
        raise wrong("background", "A background response is stored and polled for: not with stream, nor store=false.")
    include = body.include or []
    if strange := [name for name in include if name not in INCLUDED]:
        raise wrong("include", f"{strange[0]!r} cannot be included.", "unsupported_value")
    if SEALED in include and house.seal is None:
        raise wrong("include", "This server has no key to encrypt reasoning with.", "unsupported_value")
    earlier: Any = ()
    if body.previous_response_id:
        assert house.jobs is not None
        job = house.jobs.get(body.previous_response_id, owner)
        if job is None or job.status in LIVE:
            message = f"Previous response with id '{body.previous_response_id}' not found, or not at its end."
            raise ApiError(400, message, code="previous_response_not_found", param="previous_response_id")
        earlier = tuple(turn for turn in job.messages if turn["role"] != "system")

    def unseal(sealed: str) -> str:
        if house.seal is None:
            raise wrong("input", "This server has no key to read encrypted reasoning with.", "unsupported_value")
        return house.seal.open(sealed, caller=owner, model=model.config.name)

    messages, before = conversation(body.input, body.instructions, earlier, unseal)
    schema = schema_of(body.text.format if body.text else None, "text.format")
    ask = Ask(
        messages=messages,
        effort=(body.reasoning.effort if body.reasoning else None) or "",
        tokens=body.max_output_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        schema=None if schema is None else json.dumps(schema),
        before=before,
    )
    called = foreign(messages)
    if called and model.upstream is None:
        raise wrong("input", "Calls of functions need a model that is on a server of its own.", "unsupported_value")
    if body.store is None:
        body = body.model_copy(update={"store": house.jobs is not None})
    if model.upstream is not None and (asked or called or schema is not None):
        return Handed(house, model, search, body, ask, id_, None), ignored
    try:
        await check(ask, model, search)
    except ApiError as error:
        error.param = NAMES.get(error.param or "", error.param)
        raise
    sealer = None
    if SEALED in include and house.seal is not None:
        seal = house.seal

        def sealer(thought: str) -> str:
            return seal.close(thought, caller=owner, model=model.config.name)

    return Making(house, model, search, body, ask, id_, sealer), ignored


async def _job(house: House, making: Making, ticket: Ticket) -> None:
    """One background response from its place in the queue to its end, kept at each point."""
    jobs = house.jobs
    assert jobs is not None
    try:
        async with ticket:
            jobs.begin(making.id)
            jobs.put(making.response("in_progress"))
            made = await making.make(spend=lambda tokens: jobs.spend(making.id, tokens))
        jobs.put(made, making.told())
    except Exception:
        jobs.put(making.failed(ApiError(500, "The server had an error while making this response.")))
        logger.exception("the background response %s ended in an error", making.id)
        raise
    finally:
        ticket.leave()


async def resume(house: House) -> None:
    """Begin again what the last server left unfinished, or say why not and what was lost."""
    for job in house.jobs.unfinished() if house.jobs else ():
        assert house.jobs is not None
        note = {"attempts": job.attempts + 1, "lost_tokens": job.lost}
        if job.attempts >= ATTEMPTS:
            message = f"The server stopped {job.attempts} times while this was made; {job.lost} tokens were lost."
            error = {"code": "server_error", "message": message}
            house.jobs.put({**job.response, "status": "failed", "error": error, "forethought": note})
            continue
        body = ResponsesRequest.model_validate(job.request)
        try:
            making, _ = await _making(house, job.owner, body, job.id)
        except ApiError as error:  # it is not served any more as it was asked for
            told = {"code": error.code or "server_error", "message": error.message}
            house.jobs.put({**job.response, "status": "failed", "error": told, "forethought": note})
            continue
        making.note = note
        house.background.start(job.id, _job(house, making, house.gate.ticket(always=True)))
