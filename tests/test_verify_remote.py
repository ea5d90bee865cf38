"""Judges behind HTTP: what is asked, what is read, and everything a server can get wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from http_server import NEVER, Answer, Server
from judges import ASKED, THOUGHT, ask

from forethought.engines.usage import counting
from forethought.types import Step, Verdict
from forethought.verify import remote

TEXT = "".join(step.text for step in THOUGHT)
SPENT = {"prompt_tokens": 12, "total_tokens": 12, "completion_tokens": 0, "prompt_tokens_details": None}
FAST: dict[str, Any] = {"backoff": 0.001, "retries": 2}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        yield one


def answering(server: Server, answer: Answer) -> None:
    server.answer = lambda payload, number: answer


def vllm(entry: Any) -> Answer:
    return {"id": "x", "object": "list", "model": "rm", "data": [{"index": 0, **entry}], "usage": SPENT}


def test_an_endpoint_is_sent_conversation_and_steps_and_believed(server: Server) -> None:
    answering(
        server,
        {"score": 0.25, "steps": [1, 0.5, None, 0], "answer": "8", "note": "a slip", "parts": {"style": 1}, "cost": 7},
    )
    (verdict,) = ask(remote.endpoint(f"{server.url}/judge", api_key="k", **FAST), THOUGHT)
    assert verdict == Verdict(0.25, (1, 0.5, None, 0), "8", "a slip", {"style": 1.0}, 7)
    path, payload, headers = server.asked[0]
    assert (path, headers["Authorization"]) == ("/judge", "Bearer k")
    assert payload == {"messages": [dict(ASKED[0])], "steps": [step.text for step in THOUGHT]}


def test_an_endpoint_may_say_little_and_its_extras_must_be_of_their_form(server: Server) -> None:
    answering(server, {"score": None})
    assert ask(remote.endpoint(server.url, **FAST), THOUGHT) == [Verdict(None, answer="8")]
    answering(server, {"score": 1, "answer": 8, "note": None, "parts": ["a"], "cost": -3, "usage": SPENT})
    assert ask(remote.endpoint(server.url, **FAST), THOUGHT) == [Verdict(1, answer="8", cost=12)]
    answering(server, {"score": 1, "steps": ["good", True, 2, 0.5], "parts": {"a": "b", "c": 2}})
    (odd,) = ask(remote.endpoint(server.url, **FAST), THOUGHT)
    assert (odd.steps, odd.parts) == ((None, None, None, 0.5), {"c": 2.0})


@pytest.mark.parametrize("given", ["0.9", 1.5, -0.1, True, [0.5], {}, float("nan"), float("inf")])
def test_a_score_that_is_none_is_not_one(server: Server, given: Any) -> None:
    for make, answer in (
        (remote.endpoint(server.url, **FAST), {"score": given}),
        (remote.score(server.url, "rm", **FAST), vllm({"score": given})),
        (remote.classify(server.url, "rm", **FAST), vllm({"probs": [given], "num_classes": 1})),
    ):
        answering(server, answer)
        (verdict,) = ask(make, THOUGHT)
        assert (verdict.score, verdict.answer) == (None, "8")
        assert "not from 0 to 1" in verdict.note


@pytest.mark.parametrize("given", [[0.5], [0.5] * 5, "good", {"0": 1}])
def test_as_many_scores_as_steps(server: Server, given: Any) -> None:
    answering(server, {"score": 0.5, "steps": given})
    (verdict,) = ask(remote.endpoint(server.url, **FAST), THOUGHT)
    assert verdict.score is None
    assert "of 4 steps" in verdict.note


def test_classify_reads_the_probability_of_its_label(server: Server) -> None:
    answering(server, vllm({"label": "good", "probs": [0.1, 0.2, 0.7], "num_classes": 3}))
    (last,) = ask(remote.classify(server.url + "/v1", "rm", **FAST), THOUGHT)
    (second,) = ask(remote.classify(server.url, "rm", label=1, send="text", **FAST), THOUGHT)
    (none,) = ask(remote.classify(server.url, "rm", label=3, **FAST), THOUGHT)
    assert [last.score, second.score, none.score] == [0.7, 0.2, None]
    assert (last.cost, last.answer) == (12, "8")
    turns = [dict(ASKED[0]), {"role": "assistant", "content": TEXT}]
    assert server.asked[0][:2] == ("/classify", {"model": "rm", "messages": turns})
    assert server.asked[1][1] == {"model": "rm", "input": f"3 + 4 = ?\n{TEXT}"}


def test_score_reads_a_cross_encoder(server: Server) -> None:
    answering(server, vllm({"object": "score", "score": 0.42}))
    (verdict,) = ask(remote.score(server.url, "rm", **FAST), THOUGHT)
    assert (verdict.score, verdict.cost) == (0.42, 12)
    assert server.asked[0][:2] == ("/score", {"model": "rm", "text_1": "3 + 4 = ?", "text_2": TEXT})


def test_pooling_reads_a_process_reward_at_each_mark(server: Server) -> None:
    answering(server, vllm({"object": "pooling", "data": [[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]]}))
    thought = (THOUGHT[0], Step("\nWait", sampled=False), *THOUGHT[1:3])
    (product,) = ask(
        remote.pooling(server.url, "prm", mark="<extra_0>", extra={"task": "token_classify"}, **FAST), thought
    )
    (least,) = ask(remote.pooling(server.url, "prm", mark="<extra_0>", aggregate="min", **FAST), thought)
    assert product.score == pytest.approx(0.09)
    assert product.steps == (0.9, None, 0.2, 0.5)
    assert least.score == 0.2
    path, payload, _ = server.asked[0]
    assert (path, payload["use_activation"], payload["task"]) == ("/pooling", True, "token_classify")
    said = "<think><extra_0>\nWait3 + 4 = 8<extra_0>so 8\n</think><extra_0>"
    assert payload["messages"][-1] == {"role": "assistant", "content": said}


@pytest.mark.parametrize("rows", [[1.5], [[-3.0], [9.0], [1.5]]])
def test_pooling_without_a_mark_reads_a_reward(server: Server, rows: Any) -> None:
    """One number of the sequence, or one a token, the last of which counts."""
    answering(server, vllm({"data": rows}))
    (verdict,) = ask(remote.pooling(server.url, "rm", reference=1.5, **FAST), THOUGHT)
    assert (verdict.score, verdict.parts, verdict.cost) == (0.5, {"reward": 1.5}, 12)
    assert server.asked[0][1]["use_activation"] is False
    assert server.asked[0][1]["messages"][-1]["content"] == TEXT


@pytest.mark.parametrize(
    ("rows", "mark", "named"),
    [
        ([[0.1, 0.9]], "<s>", "1 scores of 4 steps"),
        ([[0.1, 0.9]] * 5, "<s>", "5 scores of 4 steps"),
        ([[0.1, 1.9]] * 4, "<s>", "a step 1.9, which is not from 0 to 1"),
        ([[0.1, float("nan")]] * 4, "<s>", "no rows of numbers"),
        ([[]] * 4, "<s>", "no rows of numbers"),
        ([[0.1], 0.3], "", "no rows of numbers"),
        ([0.1, 0.9], "", "a reward is one number"),
        ([], "", "no rows of numbers"),
        ("AACAPw==", "", "no rows of numbers"),
        (None, "", "no rows of numbers"),
    ],
)
def test_rows_that_are_not_what_was_asked_for(server: Server, rows: Any, mark: str, named: str) -> None:
    answering(server, vllm({"data": rows}))
    (verdict,) = ask(remote.pooling(server.url, "rm", mark=mark, **FAST), THOUGHT)
    assert verdict.score is None
    assert named in verdict.note
    assert verdict.cost == 12  # it was computed all the same


@pytest.mark.parametrize("data", [[], None, "x", [3], [{}]])
def test_an_answer_without_rows(server: Server, data: Any) -> None:
    answering(server, {"data": data})
    for make in (remote.classify, remote.score, remote.pooling):
        (verdict,) = ask(make(server.url, "rm", **FAST), THOUGHT)
        assert (verdict.score, verdict.answer, verdict.cost) == (None, "8", 0)


@pytest.mark.parametrize("answer", [b"<html>", b"[1]", {"detail": "?"}, (503, {"error": "busy"}), None])
def test_a_server_that_stays_wrong_is_no_score_after_its_retries(server: Server, answer: Answer) -> None:
    answering(server, answer)
    (verdict,) = ask(remote.endpoint(server.url, **FAST), THOUGHT)
    assert (verdict.score, verdict.answer, len(server.asked)) == (None, "8", 3)
    assert "the judge cannot be reached" in verdict.note


def test_a_refusal_is_the_callers_and_a_long_thought_is_not(server: Server) -> None:
    answering(server, (401, {"error": {"message": "bad key"}}))
    with pytest.raises(ValueError, match=r"refuses the request \(401\): bad key; give the api_key"):
        ask(remote.classify(server.url, "rm", **FAST), THOUGHT)
    answering(server, (400, {"error": {"message": "This model's maximum context length is 10 tokens."}}))
    (verdict,) = ask(remote.classify(server.url, "rm", **FAST), THOUGHT)
    assert verdict.score is None
    assert "too long for the judge" in verdict.note


def test_verdicts_are_asked_for_together_and_each_is_metered(server: Server) -> None:
    server.answer = lambda payload, number: {"score": 0.5, "cost": len(payload["steps"][0])}
    verify = remote.endpoint(server.url, max_concurrent=4, **FAST)

    async def work() -> tuple[list[Verdict], int, int]:
        with counting() as usage:
            async with verify:
                verdicts = await asyncio.gather(*(verify(ASKED, (Step("x" * size),)) for size in range(1, 9)))
        return list(verdicts), usage.judged, usage.requests

    verdicts, judged, requests = asyncio.run(work())
    assert [verdict.cost for verdict in verdicts] == list(range(1, 9))
    assert (judged, requests) == (36, 8)
    assert server.connections <= 4
    assert ask(verify, (Step("xx"),))[0].cost == 2  # in another loop too


def test_an_address_with_a_query_is_refused_and_its_password_not_told(server: Server) -> None:
    with pytest.raises(ValueError, match=r"http://host/judge\?key=1 has a query") as refused:
        remote.endpoint("http://me:secret@host/judge?key=1")
    assert "secret" not in str(refused.value)
    with pytest.raises(ValueError, match="no address of a server"):
        remote.score("host:8000", "rm")


def test_equal_thoughts_judged_at_one_time_are_one_request_that_the_first_pays(server: Server) -> None:
    server.answer = lambda payload, number: {"score": 0.5, "cost": 7}
    judge = remote.endpoint(server.url, **FAST)
    other = (*THOUGHT[:-1], Step("\\boxed{9}"))
    verdicts = ask(judge, THOUGHT, other, THOUGHT, THOUGHT)
    assert [verdict.score for verdict in verdicts] == [0.5] * 4
    assert sorted(verdict.cost for verdict in verdicts) == [0, 0, 7, 7]
    assert len(server.asked) == 2
    ask(judge, THOUGHT)  # later is another time
    assert len(server.asked) == 3


def test_who_gives_up_does_not_take_the_others_verdict_along(server: Server) -> None:
    server.holding = []

    async def go() -> list[Any]:
        async with remote.endpoint(server.url, retries=0) as judge:
            first, second = (asyncio.create_task(judge(ASKED, THOUGHT)) for _ in range(2))
            async with asyncio.timeout(30):
                while not server.in_flight:
                    await asyncio.sleep(0.005)
            first.cancel()
            await asyncio.sleep(0)
            await asyncio.to_thread(server.release)
            return list(await asyncio.gather(first, second, return_exceptions=True))

    given_up, judged = asyncio.run(go())
    assert isinstance(given_up, asyncio.CancelledError)
    assert judged.answer == "8"
    assert len(server.asked) == 1


def test_when_all_give_up_the_request_is_given_up(server: Server) -> None:
    server.answer = lambda payload, number: NEVER

    async def go() -> None:
        async with remote.endpoint(server.url, **FAST) as judge:
            tasks = [asyncio.create_task(judge(ASKED, THOUGHT)) for _ in range(2)]
            async with asyncio.timeout(30):
                while not server.in_flight:
                    await asyncio.sleep(0.005)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert await asyncio.to_thread(server.hung_up.acquire, timeout=30)

    asyncio.run(go())


def test_a_refusal_is_told_to_all_who_shared_the_request(server: Server) -> None:
    server.answer = lambda payload, number: (401, {"error": {"message": "no key"}})

    async def go() -> list[Any]:
        async with remote.endpoint(server.url, **FAST) as judge:
            told = await asyncio.gather(*(judge(ASKED, THOUGHT) for _ in range(3)), return_exceptions=True)
            return list(told)

    assert {str(fault).partition(" refuses")[2] for fault in asyncio.run(go())} == {
        " the request (401): no key; give the api_key of this server"
    }
