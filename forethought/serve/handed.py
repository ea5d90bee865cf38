"""A response that the server which the model is on makes by itself: what has functions or a schema in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from forethought.engines.usage import Usage
from forethought.serve.calls import chat_body
from forethought.serve.errors import failed
from forethought.serve.house import new_id
from forethought.serve.items import message_item, text_part, usage_of
from forethought.serve.making import Making
from forethought.serve.think import Answer
from forethought.serve.upstream import Hand
from forethought.types import Message, Messages


class _Function(BaseModel):
    name: str | None = None
    arguments: str | None = None


class _Call(BaseModel):
    index: int | None = None
    id: Any = None
    function: _Function | None = None


class _Piece(BaseModel):
    """What is read of a message, or of a piece of one."""

    content: str | None = None
    tool_calls: list[_Call] | None = None


class Handed(Making):
    """As `Making`, with items for the functions that the model calls; no search, no summary."""

    def __init__(self, *asked: Any) -> None:
        super().__init__(*asked)
        self._sent = chat_body(self.body, self.ask.messages, self.model)
        self._calls: list[dict[str, Any]] = []
        """The items of calls, in the order they were begun; the last may be open."""
        self._numbers: list[int] = []
        """The upstream's own numbers of them."""
        self._pieces: list[str] = []
        self._at = ""
        """What is open: text, a call, or nothing."""

    def response(self, status: str, **told: Any) -> dict[str, Any]:
        """The response as it stands."""
        extra = self.body.model_extra or {}
        tools = {
            "tools": extra.get("tools") or [],
            "tool_choice": extra.get("tool_choice") or "auto",
            "parallel_tool_calls": extra.get("parallel_tool_calls") is not False,
        }
        return super().response(status, **tools, **told)

    def told(self) -> Messages:
        """The conversation with the answer, the calls in it, as a later response goes on with it."""
        turn: Any = Message(role="assistant", content="".join(self._pieces))
        if self._calls:
            turn["tool_calls"] = [
                {
                    "id": call["call_id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in self._calls
            ]
        return (*self.ask.messages, turn)

    async def _made(self, spend: Callable[[int], None] | None) -> dict[str, Any]:
        answer = await self.house.booked(self.model, self._drawn())
        if not self._output:  # neither text nor a call
            self._say("", always=True)
            self._shut(answer.cut)
        status = "incomplete" if answer.cut else "completed"
        why = {"reason": "max_output_tokens"} if answer.cut else None
        made = self.response(status, incomplete_details=why, usage=usage_of(answer, 0))
        self._emit(f"response.{status}", response=made)
        return made

    async def _drawn(self) -> Answer:
        """The upstream's answer, told as it comes where somebody listens to it."""
        hand = Hand(self.model, "/chat/completions", self._sent, self.body.model)
        usage: Any = None
        reason = ""
        if self.body.stream:
            hand.body |= {"stream": True, "stream_options": {"include_usage": True}}
            async for chunk in hand.chunks():
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices") or ():
                    self._take(choice.get("delta"))
                    reason = choice.get("finish_reason") or reason
        else:
            whole = await hand.reply()
            usage = whole.get("usage")
            for choice in whole.get("choices") or ():
                self._take(choice.get("message"))
                reason = choice.get("finish_reason") or reason
        if not reason:
            raise failed()
        self._shut(reason == "length")
        prompt, sampled = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        cached = _count(usage, "prompt_tokens_details", "cached_tokens")
        hidden = _count(usage, "completion_tokens_details", "reasoning_tokens")
        return Answer(
            "".join(self._pieces), reason == "length", (), "", prompt, cached, sampled, sampled - hidden, Usage()
        )

    def _take(self, told: Any) -> None:
        """One piece of the message: text, calls, or both."""
        try:
            piece = _Piece.model_validate(told or {})
        except ValidationError:
            raise failed() from None
        if piece.content:
            self._say(piece.content)
        for place, call in enumerate(piece.tool_calls or ()):
            number, function = place if call.index is None else call.index, call.function or _Function()
            if number not in self._numbers:
                self._shut()
                self._call(number, call.id, function.name)
            elif number != self._numbers[-1] or self._at != "call":
                raise failed()  # it goes on with what it had ended
            if text := function.arguments:
                self._calls[-1]["arguments"] += text
                self._argue("response.function_call_arguments.delta", delta=text)

    def _say(self, text: str, *, always: bool = False) -> None:
        if self._at != "text":
            if self._pieces:
                raise failed()  # text, calls, and text again: one message is all there is
            self._shut()
            self._open(message_item(self._message, "in_progress"))
            self._text("response.content_part.added", part=text_part(""))
            self._at = "text"
        if text or always:
            self._pieces.append(text)
        if text:
            self._text("response.output_text.delta", delta=text, logprobs=[])

    def _call(self, number: int, call_id: Any, name: str | None) -> None:
        if not name:
            raise failed()
        call = {"id": new_id("fc_"), "type": "function_call", "status": "in_progress",
                "call_id": str(call_id or new_id("call_")), "name": name, "arguments": ""}  # fmt: skip
        self._numbers.append(number)
        self._calls.append(call)
        self._open(dict(call))
        self._at = "call"

    def _argue(self, kind: str, **told: Any) -> None:
        self._emit(kind, item_id=self._calls[-1]["id"], output_index=len(self._output), **told)

    def _shut(self, cut: bool = False) -> None:
        """End what is open."""
        status = "incomplete" if cut else "completed"
        if self._at == "text":
            text = "".join(self._pieces)
            self._text("response.output_text.done", text=text, logprobs=[])
            self._text("response.content_part.done", part=text_part(text))
            self._close(message_item(self._message, status, text))
        elif self._at == "call":
            self._calls[-1]["status"] = status
            told = {name: self._calls[-1][name] for name in ("name", "arguments")}
            self._argue("response.function_call_arguments.done", **told)
            self._close(dict(self._calls[-1]))
        self._at = ""


def _count(told: Any, *names: str) -> int:
    for name in names:
        told = told.get(name) if isinstance(told, dict) else None
    return told if isinstance(told, int) else 0
