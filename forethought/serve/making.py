"""One response of /v1/responses as it comes about, and the events that tell of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from forethought.serve.errors import ApiError
from forethought.serve.house import House, new_id
from forethought.serve.items import message_item, reasoning_item, response_of, text_part, usage_of
from forethought.serve.models import Served
from forethought.serve.summary import PARTS, Narrator
from forethought.serve.think import Answer, Ask
from forethought.serve.watch import Chosen, Event, Grown, Scored
from forethought.serve.wire import ResponsesRequest
from forethought.types import Message, Messages

Tell = Callable[[dict[str, Any]], None]
"""Takes one event."""
GROWN, SCORED, CHOSEN = (f"forethought.search.{word}" for word in ("grown", "scored", "chosen"))
"""The types of the events that OpenAI's API does not have."""


def _nobody(told: dict[str, Any]) -> None:
    """Takes it and does nothing."""


class Making:
    """A request of the responses API at work. After `make`, `error` says why there is no answer, if there is none."""

    def __init__(
        self,
        house: House,
        model: Served,
        search: str,
        body: ResponsesRequest,
        ask: Ask,
        id_: str,
        sealer: Callable[[str], str] | None,
    ) -> None:
        self.house, self.model, self.search, self.body, self.ask, self.id = house, model, search, body, ask, id_
        self.error: ApiError | None = None
        self.note: dict[str, Any] = {}
        """What is told beside, of a job that was begun again."""
        self._sealer, self._created = sealer, int(time.time())
        self._tell: Tell = _nobody
        self._number = 0
        self._grown: Grown | None = None
        self._summary: list[str] = []
        self._output: list[dict[str, Any]] = []
        self._reasoning = new_id("rs_")
        self._message = new_id("msg_")
        self._answer = ""

    def response(self, status: str, **told: Any) -> dict[str, Any]:
        """The response as it stands."""
        beside = {"forethought": self.note} if self.note else {}
        made = response_of(self.id, self.body, status, output=list(self._output), **beside, **told)
        return {**made, "created_at": self._created}

    def failed(self, error: ApiError) -> dict[str, Any]:
        """The response that could not be made."""
        return self.response("failed", error={"code": error.code or "server_error", "message": error.message})

    def told(self) -> Messages:
        """The conversation with the answer, as a later response goes on with it."""
        return (*self.ask.messages, Message(role="assistant", content=self._answer))

    def pulse(self) -> str:
        """How far the search has come, for a heartbeat."""
        return f"thinking: {self._grown.node} steps, {self._grown.tokens} tokens" if self._grown else "waiting"

    async def make(self, tell: Tell = _nobody, spend: Callable[[int], None] | None = None) -> dict[str, Any]:
        """The response at its end. `tell` hears every event, `spend` after each step the tokens drawn so far."""
        self._tell = tell
        self._emit("response.created", response=self.response("in_progress"))
        self._emit("response.in_progress", response=self.response("in_progress"))
        try:
            return await self._made(spend)
        except ApiError as error:
            self.error = error
            made = self.failed(error)
            self._emit("response.failed", response=made)
            return made

    async def _made(self, spend: Callable[[int], None] | None) -> dict[str, Any]:
        narrator = self._narrator()

        def hear(heard: Event) -> None:
            if isinstance(heard, Grown):
                self._grown = heard
                told = asdict(heard)
                if not self.model.config.show_thoughts:
                    del told["text"]
                self._emit(GROWN, **told)
                if spend is not None:
                    spend(heard.tokens)
            elif isinstance(heard, Scored):
                self._emit(SCORED, **asdict(heard))
            elif isinstance(heard, Chosen):
                self._emit(CHOSEN, **asdict(heard))
            else:
                self._text("response.output_text.delta", delta=heard.text, logprobs=[])

        async def pause(thought: str) -> None:
            if narrator is not None:
                await narrator.finish(thought)
            self._thought_ends(thought)
            self._open(message_item(self._message, "in_progress"))
            self._text("response.content_part.added", part=text_part(""))

        if self._thinks:
            self._open(reasoning_item(self._reasoning, "in_progress"))
        try:
            drawn = narrator.drawn if narrator else None
            answer = await self.house.answer(self.ask, self.model, self.search, hear, pause, drawn)
        finally:
            if narrator is not None:
                await narrator.stop()
        return self._ends(answer, narrator.usage.sampled if narrator else 0)

    @property
    def _thinks(self) -> bool:
        config = self.model.config
        return config.efforts.get(self.ask.effort or config.effort, 1) > 0

    def _narrator(self) -> Narrator | None:
        reasoning = self.body.reasoning
        wanted = (reasoning.summary or reasoning.generate_summary) if reasoning else None
        if wanted is None or not self._thinks:
            return None
        name = self.model.config.summary
        engine = None if name == "none" else self.house.models.served[name or self.model.config.name].engine
        known = "\n".join(turn["content"] for turn in self.ask.messages)
        return Narrator(engine, known, PARTS[wanted], self._sentence)

    def _emit(self, kind: str, **told: Any) -> None:
        self._tell({"type": kind, "sequence_number": self._number, **told})
        self._number += 1

    def _open(self, item: dict[str, Any]) -> None:
        self._emit("response.output_item.added", output_index=len(self._output), item=item)

    def _close(self, item: dict[str, Any]) -> None:
        self._emit("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)

    def _text(self, kind: str, **told: Any) -> None:
        self._emit(kind, item_id=self._message, output_index=len(self._output), content_index=0, **told)

    def _sentence(self, text: str) -> None:
        """One sentence of the summary, as a part of its own."""
        at = {"item_id": self._reasoning, "output_index": 0, "summary_index": len(self._summary)}
        self._summary.append(text)
        part = {"type": "summary_text", "text": text}
        self._emit("response.reasoning_summary_part.added", **at, part={"type": "summary_text", "text": ""})
        self._emit("response.reasoning_summary_text.delta", **at, delta=text)
        self._emit("response.reasoning_summary_text.done", **at, text=text)
        self._emit("response.reasoning_summary_part.done", **at, part=part)

    def _thought_ends(self, thought: str) -> None:
        if not self._thinks:
            return
        more: dict[str, Any] = {}
        if self._sealer is not None:
            more["encrypted_content"] = self._sealer(thought)
        if self.model.config.show_thoughts:
            more["content"] = [{"type": "reasoning_text", "text": thought}]
        self._close(reasoning_item(self._reasoning, "completed", self._summary, **more))

    def _ends(self, answer: Answer, summary: int) -> dict[str, Any]:
        """The answer is whole, or was cut."""
        status = "incomplete" if answer.cut else "completed"
        self._answer = answer.text
        self._text("response.output_text.done", text=answer.text, logprobs=[])
        self._text("response.content_part.done", part=text_part(answer.text))
        self._close(message_item(self._message, status, answer.text))
        why = {"reason": "max_output_tokens"} if answer.cut else None
        made = self.response(status, incomplete_details=why, usage=usage_of(answer, summary))
        self._emit(f"response.{status}", response=made)
        return made
