"""What the engine says it computed: every token once, whoever shares it, and each on the bill of who asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
import torch
from local_engines import Request, drawing, run, tiny, tiny_engine, together

from forethought.engines.local import LocalEngine, TinyConfig
from forethought.engines.local.tiny import build
from forethought.engines.usage import Usage, counting, judging
from forethought.thought.tokens import prompt_tokens, render
from forethought.types import Messages, Sampling, Step, user

INSTRUCTIONS = "Answer with a number and nothing else.\n"


def unique(sequences: Iterable[tuple[int, ...]]) -> int:
    """Tokens of a tree that holds all of these: what has to be computed at least."""
    return len({tokens[:at] for tokens in sequences for at in range(1, len(tokens) + 1)})


def prompt(engine: LocalEngine, messages: Messages) -> tuple[int, ...]:
    return prompt_tokens(engine.tokenizer, messages)


def test_a_shared_prompt_is_computed_once() -> None:
    engine = tiny_engine()
    together(engine, [(user("1 + 1 = ?"), (), Sampling(max_tokens=2, seed=i)) for i in range(6)])
    length = len(prompt(engine, user("1 + 1 = ?")))
    assert (engine.usage.prefilled, engine.usage.reused) == (length, 5 * length)


def test_instructions_that_problems_share_are_computed_once() -> None:
    engine = tiny_engine()
    asked = [user(INSTRUCTIONS + letter * 9) for letter in "abcdef"]
    together(engine, [(messages, (), Sampling(max_tokens=1, seed=0)) for messages in asked])
    prompts = [prompt(engine, messages) for messages in asked]
    assert engine.usage.prefilled == unique(prompts)
    assert engine.usage.prefilled + engine.usage.reused == sum(map(len, prompts))
    before = engine.usage.copy()
    late = user(INSTRUCTIONS + "g" * 9)
    together(engine, [(late, (), Sampling(max_tokens=1, seed=0))])
    assert (engine.usage - before).prefilled == unique([*prompts, prompt(engine, late)]) - unique(prompts)


def test_what_is_shared_is_on_the_bill_of_one() -> None:
    engine = tiny_engine()

    async def metered(letter: str) -> tuple[int, int]:
        with counting() as usage:
            await engine.sample(user(INSTRUCTIONS + letter * 9), (), Sampling(max_tokens=1, seed=0))
        return usage.prefilled, usage.reused

    async def both() -> list[tuple[int, int]]:
        return list(await asyncio.gather(metered("a"), metered("b")))

    (first, found), (second, found_too) = run(both())
    whole = len(prompt(engine, user(INSTRUCTIONS + "a" * 9)))
    assert {first + found, second + found_too} == {whole}
    assert sorted([first, second]) == [10, whole], "nine letters and the assistant's mark are each one's own"


def test_a_beam_of_four_by_four_computes_each_token_once_and_so_does_its_judge() -> None:
    """Eight levels; the judge reads the head's value of every child, in the same engine and in one of its own."""
    messages = user(INSTRUCTIONS + "17 + 4")
    for same in (True, False):
        engine = tiny_engine()
        judge = engine if same else tiny_engine()
        judge.attach(torch.ones(64))
        beam: list[tuple[Step, ...]] = [()]
        seen: list[tuple[int, ...]] = []
        for level in range(8):
            tries = [
                (messages, path, Sampling(max_tokens=11, seed=100 * level + 10 * at + child))
                for at, path in enumerate(beam)
                for child in range(4 if level else 16)
            ]
            steps = together(engine, tries)
            paths = [(*path, step) for (_, path, _), step in zip(tries, steps, strict=True)]

            async def worth(
                paths: list[tuple[Step, ...]] = paths, judge: LocalEngine = judge
            ) -> list[tuple[float, ...]]:
                with judging():
                    return list(await asyncio.gather(*(judge.values(messages, path) for path in paths)))

            best = [values[-1] for values in run(worth())]
            ranked = sorted(range(len(paths)), key=lambda at: -best[at])
            beam = [paths[at] for at in ranked if steps[at].stop == "length"][:4]
            seen += [render(engine.tokenizer, messages, path)[0] for path in paths]
        least = unique(seen)
        computed = engine.usage.prefilled + engine.usage.sampled
        assert least <= computed <= 1.05 * least
        assert judge.usage.judged == judge.usage.scored
        if same:
            assert engine.usage.scored == 8 * 16, "the token that was drawn last was not run through the model yet"
        else:
            assert least <= judge.usage.scored <= 1.05 * least


def test_log_probabilities_compute_the_steps_and_what_stands_before_them_once() -> None:
    engine = tiny_engine()
    step = Step(text="123456")
    run(engine.logprobs(user(INSTRUCTIONS), (step,)))
    length = len(prompt(engine, user(INSTRUCTIONS)))
    assert (engine.usage.scored, engine.usage.reused, engine.usage.prefilled) == (length + 6, 0, 0)
    run(engine.logprobs(user(INSTRUCTIONS), (Step(text="654321"),)))
    assert (engine.usage.scored, engine.usage.reused) == (length + 6 + 7, length - 1)


def test_a_meter_counts_its_own_tasks_and_the_engine_all() -> None:
    engine = tiny_engine()

    async def search(name: str, size: int, judged: bool) -> tuple[Usage, Usage]:
        with counting() as outer:
            await engine.sample(user(name), (), Sampling(max_tokens=size, seed=1))
            with counting() as inner:
                if judged:
                    with judging():
                        await asyncio.create_task(engine.logprobs(user(name), (Step(text="1234"),)))
                else:
                    await engine.sample(user(name), (), Sampling(max_tokens=1, seed=2))
        return outer, inner

    async def both() -> list[tuple[Usage, Usage]]:
        return list(await asyncio.gather(search("first", 20, True), search("second", 30, False)))

    (first, first_inner), (second, second_inner) = run(both())
    assert (first.sampled, first.requests, first_inner.requests, first_inner.sampled) == (20, 2, 1, 0)
    assert first.judged == first_inner.judged == first_inner.scored > 0
    assert (second.sampled, second.judged, second_inner.sampled) == (31, 0, 1)
    assert first.seconds >= first_inner.seconds > 0
    for name in ("prefilled", "reused", "sampled", "scored", "judged", "requests"):
        assert getattr(engine.usage, name) == getattr(first, name) + getattr(second, name)
    assert engine.usage.flops == pytest.approx(first.flops + second.flops)


def test_the_cancelled_count_what_they_had_cost() -> None:
    engine = tiny_engine()

    async def go() -> tuple[Usage, Usage]:
        with counting() as long:
            task = asyncio.create_task(engine.sample(user("go"), (), Sampling(max_tokens=120, seed=1)))
        with counting() as never:
            late = asyncio.create_task(engine.sample(user("no"), (), Sampling(max_tokens=120, seed=1)))
        await asyncio.sleep(0)
        late.cancel()
        async with drawing(engine):
            short = asyncio.create_task(engine.sample(user("go"), (), Sampling(max_tokens=10, seed=2)))
            await asyncio.sleep(0)
        await short
        task.cancel()
        await engine.sample(user("go"), (), Sampling(max_tokens=1, seed=3))
        return long, never

    long, never = run(go())
    assert 10 <= long.sampled <= 120  # a slow event loop cancels late
    assert long.prefilled == len(prompt(engine, user("go")))
    assert (never.requests, never.prefilled, never.sampled, never.flops) == (1, 0, 0, 0)


def test_a_search_that_is_given_up_counts_what_it_had_cost() -> None:
    engine = tiny_engine()

    async def given_up() -> None:
        task = asyncio.create_task(engine.sample(user("go"), (), Sampling(max_tokens=120, seed=1)))
        async with drawing(engine):
            raise RuntimeError(f"gave up on {task}")

    with pytest.raises(RuntimeError, match="gave up"):
        run(given_up())
    assert engine.usage.prefilled == len(prompt(engine, user("go")))
    assert 1 <= engine.usage.sampled <= 120  # a slow event loop hears of it late
    assert engine.usage.flops > 0


def test_operations_are_two_a_weight_and_four_a_unit_of_width_and_position_seen() -> None:
    model, _ = tiny()
    weights = sum(
        parameter.numel() for parameter in model.parameters()
    )  # the embedding is the head, and counts as that
    engine = tiny_engine()

    def flops(first: int, last: int) -> float:
        return float(sum(2 * weights + 4 * 2 * 64 * seen for seen in range(first, last + 1)))

    length = len(prompt(engine, user("go")))
    step = run(engine.sample(user("go"), (), Sampling(max_tokens=30, seed=1)))
    assert engine.usage.flops == pytest.approx(flops(1, length + 29)), "the last token is not run through the model"
    before = engine.usage.copy()
    run(engine.sample(user("go"), (step,), Sampling(max_tokens=1, seed=1)))
    assert (engine.usage - before).flops == pytest.approx(flops(length + 30, length + 30)), (
        "what is reused costs nothing"
    )


def test_counts_stay_true_where_memory_holds_no_prefix() -> None:
    engine = tiny_engine(cache_bytes=1)
    asked: list[Request] = [(user(INSTRUCTIONS + letter), (), Sampling(max_tokens=2, seed=0)) for letter in "abc"]
    together(engine, asked)
    assert engine.usage.prefilled == sum(len(prompt(engine, messages)) for messages, _, _ in asked)
    assert (engine.usage.reused, engine.usage.sampled) == (0, 6)


def test_new_weights_find_nothing_of_the_old() -> None:
    engine = tiny_engine()
    request: Request = (user(INSTRUCTIONS), (), Sampling(max_tokens=1, seed=0))
    together(engine, [request])
    engine.update(build(TinyConfig(layers=2, width=64, context=128, seed=1))[0], 1)
    together(engine, [request])
    assert engine.usage.prefilled == 2 * len(prompt(engine, user(INSTRUCTIONS)))
