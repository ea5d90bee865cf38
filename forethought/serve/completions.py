"""/v1/completions: a bare text gone on with, no chat template around it, no search before it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from forethought.engines.usage import counting
from forethought.search.seeds import derive
from forethought.search.tree import finished
from forethought.search.work import together
from forethought.serve.chat import usage_of
from forethought.serve.errors import TOO_LONG, ApiError, failed, wrong
from forethought.serve.house import House, house_of, new_id
from forethought.serve.limits import Ticket
from forethought.serve.models import Served
from forethought.serve.spoken import Spoken, Telling
from forethought.serve.stream import CLOSED, DONE, Emit, EventStream, event, while_wanted
from forethought.serve.think import Answer
from forethought.serve.upstream import passed
from forethought.serve.watch import Hear, Said, Watched, nobody
from forethought.serve.wire import COMPLETIONS, CompletionRequest, extras, stops_of
from forethought.thought.marks import CLOSE, OPEN
from forethought.types import Sampling, Step

router = APIRouter()

TOKENS = 16
"""Of an answer where the request does not say: as OpenAI's own."""


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Go on with a text; see docs/serve.md for what each parameter does."""
    house = house_of(request)
    model, _ = house.models.find(body.model)
    if model.upstream is not None:
        return await passed(house, model, request, body.model, "/completions", {})
    ignored, _ = extras(body, COMPLETIONS, upstream=False)
    headers = {"x-forethought-ignored": ", ".join(ignored)} if ignored else {}
    prompt, sampling = _asked(body)
    tokens = await model.prompt((), prompt)
    _fits(model, tokens)
    ticket = house.gate.ticket()
    work = _Completion(house, model, body, prompt, sampling, None if tokens is None else len(tokens), ticket)
    if body.stream:
        return EventStream(work.stream, beat=house.config.heartbeat, leave=ticket.leave, headers=headers)
    try:
        reply = await while_wanted(request, work.reply())
    finally:
        ticket.leave()
    return CLOSED if reply is None else JSONResponse(reply, headers=headers)


def _asked(body: CompletionRequest) -> tuple[str, Sampling]:
    """The text, and how it is gone on with. Raises ApiError for what cannot be done here."""
    prompt = body.prompt[0] if isinstance(body.prompt, list) and len(body.prompt) == 1 else body.prompt
    if not isinstance(prompt, str) or not prompt:
        raise wrong("prompt", "Give one text, not an empty one, several, or token ids.", "unsupported_value")
    if ":" in body.model:
        raise wrong("model", "A bare text is not searched: name the model without a search.", "unsupported_value")
    if (body.logprobs or 0) > 1:
        raise wrong("logprobs", "Only those of the tokens drawn are told: 0 or 1.", "unsupported_value")
    if body.echo and body.logprobs is not None:
        raise wrong(
            "echo", "The log-probabilities of the prompt are not told: no echo with logprobs.", "unsupported_value"
        )
    if (body.n or 1) > 1 and body.temperature == 0:
        raise wrong("n", "At temperature 0 all choices are the same; give n=1 or a temperature above 0.")
    return prompt, Sampling(
        body.max_tokens or TOKENS,
        1.0 if body.temperature is None else body.temperature,
        1.0 if body.top_p is None else body.top_p,
        stops_of(body.stop),
        body.seed,
    )


def _fits(model: Served, tokens: Sequence[int] | None) -> None:
    if tokens is not None and not tokens:
        raise wrong("prompt", "The model reads nothing in this prompt.")
    if tokens is not None and model.context is not None and len(tokens) >= model.context:
        message = f"This model's context holds {model.context} tokens, and the prompt takes {len(tokens)} of them."
        raise ApiError(400, message, code=TOO_LONG, param="prompt")


class _Completion:
    """One request at work."""

    def __init__(
        self,
        house: House,
        model: Served,
        body: CompletionRequest,
        prompt: str,
        sampling: Sampling,
        known: int | None,
        ticket: Ticket,
    ) -> None:
        self.house, self.model, self.body, self.ticket = house, model, body, ticket
        self.prompt, self.sampling, self.known = prompt, sampling, known
        self.head = {"id": new_id("cmpl-"), "object": "text_completion", "created": int(time.time()),
                     "model": body.model}  # fmt: skip

    async def reply(self) -> dict[str, Any]:
        """The whole answer."""
        async with self.ticket:
            answers = await together(self._answer(index) for index in range(self.body.n or 1))
        before = self.prompt if self.body.echo else ""
        choices = [
            self._choice(index, before + one.text, one.tokens, _reason(one)) for index, one in enumerate(answers)
        ]
        return {**self.head, "choices": choices, "usage": usage_of(answers)}

    async def stream(self, emit: Emit) -> None:
        """The answer, piece by piece, choices side by side."""
        include = self.body.stream_options is not None and self.body.stream_options.include_usage
        more: dict[str, Any] = {"usage": None} if include else {}

        async def choose(index: int) -> Answer:
            told = 0

            def chunk(text: str, tokens: Sequence[tuple[str, float]] = (), reason: str | None = None) -> None:
                emit(event({**self.head, "choices": [self._choice(index, text, tokens, reason, told)], **more}))

            def hear(heard: Any) -> None:
                nonlocal told
                if isinstance(heard, Said):
                    chunk(heard.text, heard.tokens)
                    told += len(heard.text)

            if self.body.echo:
                chunk(self.prompt)
            answer = await self._answer(index, hear)
            chunk("", (), _reason(answer))
            return answer

        try:
            async with self.ticket:
                answers = await together(choose(index) for index in range(self.body.n or 1))
        except ApiError as error:
            emit(event({"error": error.body}))
            return
        if include:
            emit(event({**self.head, "choices": [], "usage": usage_of(answers)}))
        emit(DONE)

    async def _answer(self, index: int, hear: Hear = nobody) -> Answer:
        return await self.house.booked(self.model, self._drawn(index, hear))

    async def _drawn(self, index: int, hear: Hear) -> Answer:
        """One continuation; a thought in it stays hidden, as everywhere."""
        inside = OPEN in self.prompt.rpartition(CLOSE)[2]
        shows, sampling = self.model.config.show_thoughts, self.sampling
        telling = Telling(Spoken(sampling.stop, hidden=inside and not shows, bare=True, open_=shows), hear)
        watched = Watched(self.model.engine, known=self.known)
        seed = derive(sampling.seed, "choice", index) if index else sampling.seed
        one = Sampling(sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.stop, seed)
        with counting() as usage:
            step = await watched.speak((), (Step(self.prompt, sampled=False),), one, telling.heard, None)
        if step.stop == "error":
            raise failed()
        telling.end()
        cut = not finished(step) and not telling.stopped
        tokens = tuple(telling.tokens) if step.logprobs else ()
        read = self.known or watched.read
        cached = max(0, read - watched.computed)
        return Answer(telling.text, cut, tokens, "", read, cached, watched.sampled, watched.sampled, usage)

    def _choice(
        self, index: int, text: str, tokens: Sequence[tuple[str, float]], reason: str | None, told: int = 0
    ) -> dict[str, Any]:
        logprobs = None
        if self.body.logprobs is not None and tokens:
            offsets, at = list[int](), len(self.prompt) + told
            for token, _ in tokens:
                offsets.append(at)
                at += len(token)
            logprobs = {
                "tokens": [token for token, _ in tokens],
                "token_logprobs": [logprob for _, logprob in tokens],
                "top_logprobs": None,
                "text_offset": offsets,
            }
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _reason(answer: Answer) -> str:
    return "length" if answer.cut else "stop"
