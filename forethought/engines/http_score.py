"""How servers tell the log-probabilities of a prompt, read back as those of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from forethought.engines.http_body import Api, numbers

Rows = tuple[tuple[float, ...], ...]

PROMPT = {"prompt_logprobs": 0}
"""vLLM: beside each token of the prompt no other one."""
ECHO = {"echo": True, "logprobs": 1}
"""Completions: the prompt as if it had been drawn."""
FIELDS: dict[Api, dict[str, Any]] = {"chat": PROMPT, "completions": ECHO, "tokens": PROMPT | ECHO}
"""What asks for them. SGLang knows `ECHO` alone."""


def by_position(data: Mapping[str, Any], ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Rows:
    """Log-probabilities of the tokens in each (start, end) of `ids`, the prompt the server was given.

    Raises `ValueError` where the server sent none.
    """
    choice = data["choices"][0]
    if rows := choice.get("prompt_logprobs"):
        values = [(row or {}).get(str(token), {}).get("logprob") for row, token in zip(rows, ids, strict=False)]
    else:
        values = (choice.get("logprobs") or {}).get("token_logprobs") or []
    if len(values) < len(ids):
        raise ValueError(
            f"the server gave log-probabilities of {len(values)} of the prompt's {len(ids)} tokens: use one that knows "
            "prompt_logprobs (vLLM), or echo with logprobs (SGLang)"
        )
    return tuple(_all(values[start:end]) for start, end in spans)


def by_text(data: Mapping[str, Any], api: Api, prompt: str, texts: Sequence[str]) -> Rows:
    """Log-probabilities of `texts`, the end of what the server was asked to read, one tuple for each.

    A token belongs to the text that it begins in. Raises `ValueError` where the server sent none, or its tokens do
    not spell the texts.
    """
    choice = data["choices"][0]
    if api == "completions":
        found = choice.get("logprobs") or {}
        offsets, values = numbers(found.get("text_offset"), int), found.get("token_logprobs") or []
        if not offsets or len(offsets) != len(values) or offsets[0] != 0:
            raise ValueError("the server gives no log-probabilities of a prompt (completions with echo and logprobs)")
        start = len(prompt)
    else:
        rows = data.get("prompt_logprobs") or choice.get("prompt_logprobs")
        if not rows:
            raise ValueError(
                "the server gives no log-probabilities of a prompt: use one that knows prompt_logprobs (vLLM), or "
                "api='completions' where it knows echo with logprobs"
            )
        ids = numbers(data.get("prompt_token_ids"), int)
        entries = [_entry(row, ids[at] if at < len(ids) else None) for at, row in enumerate(rows)]
        pieces = [str(entry.get("decoded_token") or "") for entry in entries]
        values = [entry.get("logprob") for entry in entries]
        if not "".join(pieces).endswith("".join(texts)):
            raise ValueError("the server's tokens do not spell the steps: ask with api='tokens' instead")
        offsets = tuple(accumulate(map(len, pieces[:-1]), initial=0))
        start = len("".join(pieces)) - len("".join(texts))
    spans = []
    for text in texts:
        spans.append(_all([v for at, v in zip(offsets, values, strict=True) if start <= at < start + len(text)]))
        start += len(text)
    return tuple(spans)


def _entry(row: Mapping[str, Any] | None, token: int | None) -> Mapping[str, Any]:
    """What vLLM says of the prompt's own token, among the likelier ones that it may list before and behind it.

    The first token has nothing before it that could predict it, and no row.
    """
    if not row:
        return {}
    if token is not None and str(token) in row:
        return dict(row[str(token)])
    if len(row) > 1:
        raise ValueError(f"the server lists {len(row)} tokens at one place of the prompt and does not tell which it is")
    return dict(next(iter(row.values())))


def _all(values: Sequence[Any]) -> tuple[float, ...]:
    if not all(isinstance(value, int | float) for value in values):
        raise ValueError("the server left out a token's log-probability")
    return tuple(float(value) for value in values)
