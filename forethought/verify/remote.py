"""Verifiers behind HTTP: a judge endpoint of plain JSON, and vLLM's `/classify`, `/score` and `/pooling`.

Each keeps up to 128 requests in flight and repeats what is worth repeating; `options` are those of
`engines.http_wire.Wire`: max_concurrent, timeout and deadline (seconds), retries, backoff (seconds). A server that
stays away, and an answer that is not what was asked for, is a verdict without a score; a refusal (a wrong key, an
unknown model) is a `ValueError`.

Equal thoughts that are to be judged at one time, as a beam's siblings often are, are one request: each gets its
verdict, and the first of them pays.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from forethought.engines.http_wire import Refused, Wire
from forethought.engines.open import public
from forethought.engines.usage import Bill, Usage
from forethought.thought.tokens import plain
from forethought.types import Messages, Step, Verdict
from forethought.verify.heads import Aggregate
from forethought.verify.verdict import Opened, aggregated, finite, judged, sigmoid
from forethought.verify.vote import answer_of

Answer = Callable[[str], str | None]
Send = Literal["messages", "text"]
"""How a thought reaches vLLM: as the assistant's turn, for the model's chat template, or as one plain text."""

OPTIONS: Mapping[str, Any] = {"max_concurrent": 128, "timeout": 600.0, "deadline": None, "retries": 4, "backoff": 0.5}


def endpoint(url: str, *, api_key: str | None = None, answer: Answer = answer_of, **options: Any) -> Opened:
    """A judge at `url`, whatever it is made of.

    It is sent `{"messages": [{"role", "content"}, …], "steps": ["text", …]}` and answers `{"score": 0.7}`, or null
    where it cannot judge. It may add `steps` (a score or null for each), `answer`, `note`, `parts` (numbers by name)
    and `cost` (the tokens it computed); what it adds is only believed when it is of that form.
    """
    post, close = _poster(url, api_key, options)

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        payload = {"messages": [dict(message) for message in messages], "steps": [step.text for step in steps]}
        data, cost = await post("", payload, "score")
        score, scores, parts = data["score"], data.get("steps") or [], data.get("parts") or {}
        if score is not None and not _is_score(score):
            return Verdict(None, note=f"the judge gave the score {score!r:.80}, which is not from 0 to 1", cost=cost)
        if not isinstance(scores, list) or (scores and len(scores) != len(steps)):
            return Verdict(None, note=f"the judge gave {scores!r:.80} as the scores of {len(steps)} steps", cost=cost)
        numbers = parts.items() if isinstance(parts, dict) else ()
        return Verdict(
            score,
            tuple(one if _is_score(one) else None for one in scores),
            answer=data["answer"] if isinstance(data.get("answer"), str) else None,
            note=data["note"] if isinstance(data.get("note"), str) else "",
            parts={name: float(number) for name, number in numbers if _is_number(number)},
            cost=cost,
        )

    return Opened(judged(judge, answer=answer), (close,))


def classify(
    url: str,
    model: str,
    *,
    label: int = -1,
    send: Send = "messages",
    api_key: str | None = None,
    answer: Answer = answer_of,
    **options: Any,
) -> Opened:
    """vLLM's `/classify`: `score` is the probability of class `label` (the last; a reward model's only one)."""
    post, close = _poster(url, api_key, options)

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        text = "".join(step.text for step in steps)
        data, cost = await post("/classify", {"model": model, **_sent(messages, text, send)}, "data")
        chances = _first(data).get("probs")
        if not isinstance(chances, list) or not -len(chances) <= label < len(chances):
            return Verdict(None, note=f"the server gave the probabilities {chances!r:.80}; none of {label}", cost=cost)
        return _scored(chances[label], cost)

    return Opened(judged(judge, answer=answer), (close,))


def score(url: str, model: str, *, api_key: str | None = None, answer: Answer = answer_of, **options: Any) -> Opened:
    """vLLM's `/score`, a cross-encoder's: `score` is that of the thought (`text_2`) to the conversation (`text_1`)."""
    post, close = _poster(url, api_key, options)

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        text = "".join(step.text for step in steps)
        payload = {"model": model, "text_1": plain(messages).strip(), "text_2": text}
        data, cost = await post("/score", payload, "data")
        return _scored(_first(data).get("score"), cost)

    return Opened(judged(judge, answer=answer), (close,))


def pooling(
    url: str,
    model: str,
    *,
    mark: str = "",
    aggregate: Aggregate = "product",
    reference: float = 0.0,
    send: Send = "messages",
    extra: Mapping[str, Any] | None = None,
    api_key: str | None = None,
    answer: Answer = answer_of,
    **options: Any,
) -> Opened:
    """vLLM's `/pooling`: a process reward model where `mark` ends each step, else a reward model.

    With `mark` (`<extra_0>` for Qwen2.5-Math-PRM, which vLLM serves with STEP pooling) the server answers a row for
    each, the last number of which is the probability that the step is right: `steps`, and `score` by `aggregate`;
    steps that nobody sampled get no mark and no score. Without, the last row's one number is a reward r:
    `parts["reward"]`, and `score` is sigmoid(r - reference). `extra` goes into every request (`{"task":
    "token_classify"}`).
    """
    post, close = _poster(url, api_key, options)
    fixed = {"model": model, "use_activation": bool(mark), **(extra or {})}

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        ends = [bool(mark) and step.sampled and bool(step.text.strip()) for step in steps]
        text = "".join(step.text.rstrip() + mark if end else step.text for step, end in zip(steps, ends, strict=True))
        data, cost = await post("/pooling", {**fixed, **_sent(messages, text, send)}, "data")
        rows = _rows(_first(data).get("data"))
        if not rows:
            return Verdict(None, note=f"the server gave no rows of numbers but {data!r:.200}", cost=cost)
        if not mark:
            if len(rows[-1]) > 1:
                return Verdict(None, note=f"the server gave {rows[-1]!r:.80}; a reward is one number", cost=cost)
            reward = rows[-1][0]
            return Verdict(sigmoid(reward - reference), parts={"reward": reward}, cost=cost)
        told = [row[-1] for row in rows]
        if len(told) != sum(ends):
            return Verdict(None, note=f"the server gave {len(told)} scores of {sum(ends)} steps", cost=cost)
        if bad := [one for one in told if not _is_score(one)]:
            return Verdict(None, note=f"the server gave a step {bad[0]}, which is not from 0 to 1", cost=cost)
        scores = iter(told)
        by_step = tuple(next(scores) if end else None for end in ends)
        return Verdict(aggregated(told, aggregate), by_step, cost=cost)

    return Opened(judged(judge, answer=answer), (close,))


@dataclass(slots=True)
class _Flight:
    """A request, and how many wait for its answer."""

    task: asyncio.Future[dict[str, Any]]
    waiting: int = 0
    paid: bool = False


def _poster(
    url: str, api_key: str | None, options: Mapping[str, Any]
) -> tuple[Callable[..., Awaitable[tuple[dict[str, Any], int]]], Callable[[], Awaitable[None]]]:
    """What posts to a path below `url` and gives the answer and the tokens it cost, booked; and what closes it."""
    if urlsplit(url).query:
        raise ValueError(f"{public(url)} has a query; give a judge's address without one, and a key as api_key")
    wire, usage = Wire(url, api_key=api_key, **{**OPTIONS, **options}), Usage()
    flights: dict[tuple[asyncio.AbstractEventLoop, str], _Flight] = {}

    async def post(path: str, payload: Mapping[str, Any], holds: str) -> tuple[dict[str, Any], int]:
        bill = Bill.open(usage)
        key = asyncio.get_running_loop(), path + json.dumps(payload, sort_keys=True)
        if key not in flights:
            flights[key] = _Flight(asyncio.ensure_future(wire.post(wire.root + path, payload, holds=holds)))
        flight = flights[key]
        flight.waiting += 1
        try:
            data = await asyncio.shield(flight.task)
        except Refused as refused:
            advice = "; give the api_key of this server" if refused.status in (401, 403) else ""
            raise ValueError(
                f"{public(wire.root)}{path} refuses the request ({refused.status}): {refused.message}{advice}"
            ) from None
        finally:
            flight.waiting -= 1
            if not flight.waiting:  # nobody is left, or is to join what is being given up
                flights.pop(key, None)
                flight.task.cancel()
        if flight.paid:
            return data, 0
        flight.paid = True
        told = data.get("usage")
        counts = [data.get("cost"), told.get("total_tokens") if isinstance(told, dict) else None]
        cost = next((count for count in counts if isinstance(count, int) and count >= 0), 0)
        bill.book(Usage(scored=cost, requests=1))
        return data, cost

    return post, wire.close


def _sent(messages: Messages, text: str, send: Send) -> dict[str, Any]:
    if send == "text":
        return {"input": plain(messages) + text}
    return {"messages": [*(dict(message) for message in messages), {"role": "assistant", "content": text}]}


def _first(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first of the server's rows, where there is one of the form that vLLM gives."""
    rows = data["data"]
    return rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}


def _rows(given: Any) -> list[list[float]]:
    """Rows of numbers, a single row where the server gave its numbers bare; none where it gave anything else."""
    rows = given if isinstance(given, list) and given and isinstance(given[0], list) else [given]
    fine = all(isinstance(row, list) and row and all(map(_is_number, row)) for row in rows)
    return [[float(number) for number in row] for row in rows] if fine else []


def _scored(given: Any, cost: int) -> Verdict:
    if not _is_score(given):
        return Verdict(None, note=f"the server gave the score {given!r:.80}, which is not from 0 to 1", cost=cost)
    return Verdict(float(given), cost=cost)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and finite(value) is not None


def _is_score(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1
