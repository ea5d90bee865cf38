"""Nothing of a hidden thought comes out: not in an answer, a summary, an error, a log line or an event."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from serving import Talking, served, server

from forethought.serve.spoken import Spoken, spoken
from forethought.serve.summary import NEUTRAL, Narrator, leaks, squeezed
from forethought.types import Messages, Sampling, Step

KNOWN = "How long does the train from Paris to Lyon take at 200 km/h?"
HIDDEN = "The user Alice Moreau has the badge zx81_delta and pays 4815 euros.\nSo the long way round is two hours."


@pytest.mark.parametrize(
    "said",
    [
        "It says: the long way round is two.",
        "It notes that 4815 matters.",
        "It is about Alice.",
        "Z X 8 1 - D E L T A",
        "The badge ZX81_DELTA is used.",
        "thelongwayroundistwohours",
        "So... the-long-way-round.. is!",
        "about a payment by MOREAU",
    ],
)
def test_a_leak_is_seen(said: str) -> None:
    assert leaks(said, HIDDEN, KNOWN)


@pytest.mark.parametrize(
    "said",
    [
        "Estimating how many hours a trip takes.",
        "Comparing the train from Paris to Lyon at 200 km/h with another.",
        "Weighing the long way against a shorter one.",
        *NEUTRAL,
    ],
)
def test_other_words_and_the_readers_own_are_no_leak(said: str) -> None:
    assert not leaks(said, HIDDEN, KNOWN)


def test_pieces_do_not_change_what_is_shown() -> None:
    random_ = random.Random(0)
    for text, stops, shown in [
        ("<think>a</think>\n b <c> ", (), "b <c>"),
        ("x <think>hidden</think> y</think> z", (), "x  y z"),
        ("one two three", ("two",), "one"),
        ("<think>two</think>one two", ("two",), "one"),
        ("a < b <th", (), "a < b <th"),
        ("<think>never closed", (), ""),
        ("  \n ", (), ""),
    ]:
        assert spoken(text, stops)[0] == shown
        for _ in range(50):
            parts, at = Spoken(stops), 0
            got = ""
            while at < len(text):
                size = random_.randint(1, 6)
                got += parts.feed(text[at : at + size])
                at += size
            assert got + parts.end() == shown, (text, stops)


def test_a_text_that_begins_inside_a_thought_is_hidden_up_to_its_end() -> None:
    inside = Spoken(hidden=True)
    assert inside.feed("secret") + inside.feed("</think>\nfour") + inside.end() == "four"


def secrets(count: int) -> list[tuple[str, str]]:
    """(thought, the secret in it): codes, names, numbers and sentences."""
    random_ = random.Random(1)
    made = []
    for number in range(count):
        secret = [
            f"zq{random_.randint(10**5, 10**6)}x",
            f"Velmorin{random_.choice('abcdef')}sky",
            str(random_.randint(10**7, 10**8)),
            f"never tell anyone the garden gate {random_.choice(['opens', 'falls', 'sings'])} at dusk",
        ][number % 4]
        made.append((f"<think>\nfirst some thinking\nbut note that {secret} is private\nso go on\n</think>", secret))
    return made


def test_two_hundred_thoughts_leak_nothing_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    """Every summary is asked of a model that repeats what it reads, in one of four spellings; one in ten engines
    fails behind its thought."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.WARNING, "httpx")
    spellings: list[Callable[[str, str], str]] = [
        lambda notes, secret: notes,
        lambda notes, secret: f"The secret is {secret}.",
        lambda notes, secret: " ".join(secret),
        lambda notes, secret: secret.upper().replace(" ", "-"),
    ]
    cases = secrets(200)

    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Any:
        told = messages[-1]["content"]
        if told.startswith("Below are private notes"):
            secret = next(secret for _, secret in cases if secret in told)
            spelled = spellings[cases.index(next(c for c in cases if c[1] == secret)) // 4 % 4]
            return spelled(told.partition("Notes:\n")[2], secret).replace("\n", " ")
        number = int(told)
        if prefix:
            return OSError(f"fault behind {cases[number][0]}") if number % 10 == 0 else "All is well."
        return cases[number][0]

    async def ask(url: str, number: int, client: httpx.AsyncClient) -> str:
        body: dict[str, Any] = {"model": "small", "stream": number % 3 != 0}
        if number % 5 == 4:
            body |= {"messages": [{"role": "user", "content": str(number)}]}
            return (await client.post(f"{url}/v1/chat/completions", json=body)).text
        body |= {"input": str(number), "reasoning": {"summary": "auto"}}
        return (await client.post(f"{url}/v1/responses", json=body)).text

    async def all_of_them(url: str) -> list[str]:
        async with httpx.AsyncClient(timeout=60) as client:
            return list(await asyncio.gather(*(ask(url, number, client) for number in range(200))))

    with server(served(Talking(script)), running=32, waiting=200) as there:
        told = asyncio.run(all_of_them(there.url))
    everything = squeezed("\n".join(told)) + squeezed(caplog.text)
    assert sum("All is well." in one or '"content":"A"' in one for one in told) == 180
    assert not [secret for _, secret in cases if squeezed(secret) in everything]


def test_a_summary_that_says_enough_and_no_more_is_kept() -> None:
    said: list[str] = []
    engine = Talking(lambda messages, prefix, sampling, call: "Comparing two ways of going")
    narrator = Narrator(engine, KNOWN, 1, said.append)
    asyncio.run(narrator.finish(HIDDEN))
    assert said == ["Comparing two ways of going"]
    assert narrator.usage.sampled == len(said[0])
    assert json.dumps(engine.asked[0][0]).count("zx81_delta") == 1


def test_without_anybody_to_ask_the_words_are_neutral() -> None:
    said: list[str] = []
    asyncio.run(Narrator(None, KNOWN, 3, said.append).finish(HIDDEN * 30))
    assert said == list(NEUTRAL[:3])
