"""What is written to an OpenAI-compatible server and how its answers are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from forethought.thought.marks import CLOSE, OPEN
from forethought.thought.tokens import plain
from forethought.types import Messages, Sampling, Step, Stop

Api = Literal["chat", "completions", "tokens"]
PATHS: dict[Api, str] = {"chat": "/chat/completions", "completions": "/completions", "tokens": "/completions"}

CONTINUE = (
    "Your last message was cut off. Continue it from exactly where it stops: repeat nothing of it and add no preface."
)
"""Asks for the rest of a thought where a server cannot go on with an unfinished assistant message."""

EXTENSIONS = ("continue_final_message", "include_stop_str_in_output", "return_token_ids")
"""Fields that vLLM and others know and OpenAI's own API does not."""

ENDS = {"stop", "stop_sequence", "end_turn", "eos", "eos_token", "tool_calls", "function_call"}
LENGTHS = {"length", "max_tokens"}


def body(
    api: Api,
    model: str,
    messages: Messages,
    prefix: str,
    sampling: Sampling,
    n: int,
    lacks: frozenset[str],
    logprobs: bool,
    extra: Mapping[str, Any],
    ids: Sequence[int] = (),
) -> dict[str, Any]:
    """The request for `n` continuations of `prefix`, without the fields that the server `lacks`.

    A chat goes on with an unfinished assistant message (`continue_final_message`); where the server cannot, it is
    asked to in words (`CONTINUE`). Completions get the `plain` text of the turns; "tokens" the `ids` of turns and
    prefix.
    """
    payload: dict[str, Any] = {"model": model}
    if api == "completions":
        payload["prompt"] = plain(messages) + prefix
    elif api == "tokens":
        payload["prompt"] = list(ids)
    else:
        turns: list[dict[str, Any]] = [dict(message) for message in messages]
        if prefix:
            turns.append({"role": "assistant", "content": prefix})
            if "continue_final_message" in lacks:
                turns.append({"role": "user", "content": CONTINUE})
            else:
                payload |= {"continue_final_message": True, "add_generation_prompt": False}
        payload["messages"] = turns
    # `max_completion_tokens` comes second: a server that does not know it would write without an end.
    payload["max_completion_tokens" if "max_tokens" in lacks else "max_tokens"] = sampling.max_tokens
    payload |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "return_token_ids": True}
    if sampling.stop:
        payload |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
    if sampling.seed is not None:
        payload["seed"] = sampling.seed
    if n > 1:
        payload["n"] = n
    if logprobs:
        payload["logprobs"] = True if api == "chat" else 1
    payload |= extra
    return {name: value for name, value in payload.items() if name not in lacks}


def dispensable(payload: Mapping[str, Any], message: str, extra: Mapping[str, Any]) -> frozenset[str]:
    """Which fields to leave out after a refusal with these words; none where nothing is left to leave out.

    What the message names goes first; where it names nothing of ours, `n`, then what only some servers know. A prompt
    that is too long is no matter of fields.
    """
    if re.search(r"context (length|window|size)", message, re.IGNORECASE):
        return frozenset()
    known = ("n", "stream_options", "stream", *EXTENSIONS, "logprobs", "seed")
    fields = [name for name in known if name in payload and name not in extra]
    named = {name for name in fields if re.search(rf"(?<![\w'\\]){name}(?!\w)|'{name}'", message)}
    if "max_tokens" in payload and "max_completion_tokens" in message:
        named.add("max_tokens")
    if "add_generation_prompt" in message and "continue_final_message" in fields:
        named.add("continue_final_message")
    if named:
        return frozenset(named)
    for group in ({"n"}, {"stream_options"}, set(EXTENSIONS), {"logprobs"}):
        if present := group & set(fields):
            return frozenset(present)
    return frozenset()


def step_of(choice: Any, api: Api, prefix: str, sampling: Sampling, shows_stop: bool) -> Step:
    """One choice of an answer as a step.

    `shows_stop`: this server has been seen to leave stop strings in the text, so that their absence means an end.
    Text that was withheld, or that ended for a reason we do not know, is an error and says so.
    """
    if not isinstance(choice, dict):
        return _fault(f"a choice that is no object: {str(choice)[:80]!r}")
    message = choice.get("message") if api == "chat" else choice
    content = message.get("content" if api == "chat" else "text") if isinstance(message, dict) else None
    thought = (message.get("reasoning_content") or message.get("reasoning")) if isinstance(message, dict) else None
    reason = choice.get("finish_reason")
    if reason not in ENDS | LENGTHS:
        return _fault(f"the server ended with finish_reason={reason!r}")
    if not isinstance(message, dict) or not isinstance(content, str | None) or not isinstance(thought, str | None):
        return _fault(f"a choice without text: {str(choice)[:200]!r}")
    text = content or ""
    if thought:
        opening = "" if OPEN in prefix and CLOSE not in prefix.rpartition(OPEN)[2] else OPEN
        # A thought with nothing after it may not have been finished: it is not closed in its stead.
        text = opening + thought + (CLOSE + text if text else "")
    stop: Stop = "length"
    if reason in ENDS:
        text, stop = _ending(choice, text, sampling.stop, shows_stop)
    ids, logprobs = _told(choice.get("logprobs"))
    tokens = numbers(choice.get("token_ids"), int) or ids
    # Servers give log-probabilities at temperature 1: they are a step's only where it was drawn at 1, or greedily.
    if sampling.temperature not in (0, 1) or (tokens and len(tokens) != len(logprobs)):
        logprobs = ()
    return Step(text=text, tokens=tokens, logprobs=logprobs, stop=stop)


def _fault(reason: str) -> Step:
    return Step(text=reason, stop="error", sampled=False)


def _ending(choice: Mapping[str, Any], text: str, stops: Sequence[str], shows_stop: bool) -> tuple[str, Stop]:
    """OpenAI's `finish_reason` is "stop" for an end token and for a stop string alike: tell them apart."""
    if not stops:
        return text, "end"
    if any(text.endswith(stop) for stop in stops):
        return text, "stop"
    for name in ("stop_reason", "matched_stop"):  # vLLM; SGLang
        if name in choice:
            hit = choice[name]
            return (text + hit, "stop") if hit in stops else (text, "end")
    if shows_stop:
        return text, "end"
    if len(stops) > 1:
        raise ValueError(
            f"this server does not tell an end from a stop string, nor which of {list(stops)} it was: give one stop "
            f"string, or use a server that sends stop_reason (vLLM) or matched_stop (SGLang)"
        )
    # One string and no word which it was: a step that goes on after the end costs one call, one that does not is lost.
    return text + stops[0], "stop"


def numbers(values: Any, kind: type[int] | type[float]) -> tuple[Any, ...]:
    """The list as numbers; empty where it is none, or lacks one."""
    if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
        return ()
    return tuple(kind(value) for value in values)


def _told(found: Any) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Token ids (llama.cpp puts them here) and log-probabilities, as chat or as completions have them."""
    if not isinstance(found, dict):
        return (), ()
    if isinstance(content := found.get("content"), list):
        rows = [row if isinstance(row, dict) else {} for row in content]
        return numbers([row.get("id") for row in rows], int), numbers([row.get("logprob") for row in rows], float)
    return (), numbers(found.get("token_logprobs"), float)
