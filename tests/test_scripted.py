"""The scripted engine: what the searches' tests stand on."""

from __future__ import annotations

import asyncio
import random

import pytest

from forethought.engines.scripted import LOGPROB, Scripted, always, endless, spelled
from forethought.types import Engine, Messages, Sampling, Step, user

ASKED = user("2 + 2 = ?")


def sample(engine: Scripted, sampling: Sampling | None = None, prefix: tuple[Step, ...] = ()) -> Step:
    return asyncio.run(engine.sample(ASKED, prefix, sampling or Sampling()))


def test_it_is_an_engine_and_says_its_lines_in_turn() -> None:
    engine = Scripted(["4", "five"], name="parrot@3")
    assert isinstance(engine, Engine)
    assert engine.name == "parrot@3"
    assert [sample(engine).text for _ in range(3)] == ["4", "five", "4"]
    assert (engine.calls, engine.tokens) == (3, 6)


def test_a_token_is_a_character() -> None:
    step = sample(Scripted(["né 🙂"]))
    assert step.tokens == tuple(map(ord, "né 🙂"))
    assert step.logprobs == (LOGPROB,) * 4
    assert step.stop == "end"


@pytest.mark.parametrize(
    ("text", "sampling", "expected", "stop"),
    [
        ("one\ntwo", Sampling(stop=("\n",)), "one\n", "stop"),
        ("one two", Sampling(stop=("two", " ")), "one ", "stop"),  # the first in the text, not in the list
        ("one\ntwo", Sampling(max_tokens=2, stop=("\n",)), "on", "length"),
        ("one\ntwo", Sampling(max_tokens=4, stop=("\n",)), "one\n", "stop"),
        ("one", Sampling(max_tokens=3), "one", "length"),
        ("one", Sampling(max_tokens=4), "one", "end"),
        ("", Sampling(max_tokens=1, stop=("\n",)), "", "end"),
    ],
)
def test_a_text_is_cut_where_a_model_would_be(text: str, sampling: Sampling, expected: str, stop: str) -> None:
    step = spelled(text, sampling)
    assert (step.text, step.stop, len(step.tokens)) == (expected, stop, len(expected))


def test_it_can_fail_never_end_and_say_nothing() -> None:
    failed = sample(Scripted(always(OSError("the line is dead"))))
    assert (failed.stop, failed.sampled, failed.text) == ("error", False, "OSError: the line is dead")
    endlessly = Scripted(endless("ab\n"))
    assert sample(endlessly, Sampling(max_tokens=10)).text == "ab\nab\nab\na"
    assert sample(endlessly, Sampling(max_tokens=10)).stop == "length"
    assert sample(endlessly, Sampling(stop=("\n",))).text == "ab\n"
    silent = sample(Scripted(always("")))
    assert (silent.text, silent.tokens, silent.stop) == ("", (), "end")


def test_a_bug_of_the_script_propagates() -> None:
    def broken(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> str:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        sample(Scripted(broken))


def test_a_script_sees_what_was_asked_and_can_draw_by_its_seed() -> None:
    def digits(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> str:
        return f"{messages[0]['content']}{len(prefix)}{call}{random.Random(sampling.seed).random()}"

    first, again = (sample(Scripted(digits), Sampling(seed=7), (Step("a"),)) for _ in range(2))
    assert first == again
    assert first.text.startswith("2 + 2 = ?10")
    assert first != sample(Scripted(digits), Sampling(seed=8), (Step("a"),))


def test_calls_in_flight_are_counted() -> None:
    engine = Scripted(["x"], delay=0.01)

    async def at_once() -> None:
        async with asyncio.timeout(5):
            await asyncio.gather(*(engine.sample(ASKED, (), Sampling(seed=seed)) for seed in range(5)))

    asyncio.run(at_once())
    assert (engine.most_in_flight, engine.in_flight, engine.calls) == (5, 0, 5)
    assert [sampling.seed for _, _, sampling in engine.asked] == [0, 1, 2, 3, 4]


def test_a_call_that_is_cancelled_is_no_longer_in_flight() -> None:
    engine = Scripted(["x"], delay=10.0)

    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await engine.sample(ASKED, (), Sampling())

    asyncio.run(cancelled())
    assert (engine.in_flight, engine.tokens) == (0, 0)


def test_a_step_passes_as_it_is_and_logprobs_are_one_a_token() -> None:
    step = Step(text="x", tokens=(1, 2), stop="budget", value=0.5)
    engine = Scripted([step])
    assert sample(engine) is step
    assert asyncio.run(engine.logprobs(ASKED, [step, Step("abc")])) == ((LOGPROB,) * 2, (LOGPROB,) * 3)


@pytest.mark.parametrize(("replies", "named"), [("a text", "list"), ([], "empty")])
def test_bad_scripts_are_refused(replies: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Scripted(replies)
    with pytest.raises(ValueError, match="delay is -1"):
        Scripted(["a"], delay=-1)
    with pytest.raises(ValueError, match="text to repeat"):
        endless("")
