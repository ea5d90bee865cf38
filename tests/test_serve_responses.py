"""The responses API as OpenAI's own client sees it: items, streams, summaries, sealed reasoning, jobs."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serving import THOUGHT, Running, Talking, served, server, thinker, wait

from forethought.engines.scripted import always, endless
from forethought.serve.jobs import ATTEMPTS, Jobs
from forethought.types import Messages, Sampling, Step, Verdict, user


@pytest.fixture(scope="module")
def sealing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "seal"
    path.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
    return path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, sealing: Path) -> Iterator[Running]:
    store = tmp_path_factory.mktemp("store") / "responses.sqlite"
    with server(served(Talking(thinker())), store=str(store), seal=str(sealing)) as there:
        yield there


def test_a_response_has_a_reasoning_item_and_an_answer(running: Running) -> None:
    made = running.client.responses.create(model="small", input="2 + 2 = ?", metadata={"for": "me"})
    assert [item.type for item in made.output] == ["reasoning", "message"]
    assert (made.status, made.output_text, made.metadata) == ("completed", "It is 4.", {"for": "me"})
    assert made.usage is not None
    assert made.usage.output_tokens_details.reasoning_tokens == len(THOUGHT)
    assert made.usage.output_tokens == len(THOUGHT) + len("It is 4.")
    assert "two and two" not in made.model_dump_json()


def test_the_events_come_in_their_order_and_hold_together(running: Running) -> None:
    stream = running.client.responses.create(
        model="small", input="2 + 2 = ?", reasoning={"summary": "auto"}, stream=True
    )
    events: list[Any] = list(stream)
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "forethought.search.grown",
        "forethought.search.chosen",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "forethought.search.grown",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == ["I", "t", " i", "s", " 4", "."]
    final = events[-1].response
    assert final.output_text == "It is 4."
    assert [item.id for item in final.output] == [
        event.item.id for event in events if event.type == "response.output_item.done"
    ]


def test_the_clients_own_accumulator_takes_the_stream(running: Running) -> None:
    with running.client.responses.stream(model="small", input="2 + 2 = ?") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "It is 4."


def test_the_tree_is_told_as_it_grows() -> None:
    with server(served(Talking(thinker()), thought_tokens=64)) as there:
        stream: Any = there.client.responses.create(model="small:majority", input="?", stream=True)
        grown: list[Any] = [event for event in stream if event.type == "forethought.search.grown"]
    assert [(event.node, event.parent, event.depth) for event in grown] == [(n, 0, 1) for n in range(1, 5)]
    assert grown[-1].tokens == 4 * len(f"{THOUGHT}\nIt is 4.")
    assert [event.cost for event in grown] == [len(f"{THOUGHT}\nIt is 4.")] * 4


@pytest.mark.parametrize("shown", [True, False])
def test_scores_the_choice_and_where_allowed_the_texts_are_told(shown: bool) -> None:
    async def judge(messages: Messages, steps: Sequence[Step]) -> Verdict:
        return Verdict(0.5 if "wrong" in steps[-1].text else 0.75, cost=9)

    said = ["<think>wrong</think>\n5"] * 3 + [f"{THOUGHT}\nIt is 4."]

    model = served(Talking(said), judge, thought_tokens=64, show_thoughts=shown)
    with server(model) as there:
        events: list[Any] = list(there.client.responses.create(model="small:best-of-n", input="?", stream=True))
    grown, scored, chosen = (
        [event for event in events if event.type == f"forethought.search.{word}"]
        for word in ("grown", "scored", "chosen")
    )
    by_node = sorted((event.node, event.score, event.cost) for event in scored)
    assert by_node == [(1, 0.5, 9), (2, 0.5, 9), (3, 0.5, 9), (4, 0.75, 9)]
    assert [event.node for event in chosen] == [4]
    assert [getattr(event, "text", None) for event in grown] == (said if shown else [None] * 4)


def test_an_answer_stands_in_the_tree_behind_its_thought() -> None:
    with server(served(Talking(thinker()))) as there:
        events: list[Any] = list(there.client.responses.create(model="small", input="?", stream=True))
    grown = [event for event in events if event.type == "forethought.search.grown"]
    assert [(event.node, event.parent, event.answer) for event in grown] == [(1, 0, False), (2, 1, True)]


def test_no_effort_no_reasoning_item() -> None:
    with server(served(Talking(always("4")))) as there:
        made = there.client.responses.create(model="small", input="2 + 2 = ?", reasoning={"effort": "none"})
    assert [item.type for item in made.output] == ["message"]


def test_a_cut_answer_is_incomplete() -> None:
    with server(served(Talking(endless()))) as there:
        made = there.client.responses.create(model="small", input="?", max_output_tokens=40)
        events: Any = there.client.responses.create(model="small", input="?", max_output_tokens=40, stream=True)
        last = list(events)[-1]
    assert made.incomplete_details is not None
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert made.usage is not None
    assert made.usage.output_tokens == 40
    assert last.type == "response.incomplete"


def test_a_failing_engine_is_a_failed_response() -> None:
    with server(served(Talking(always(OSError("secret trouble"))))) as there:
        with pytest.raises(openai.InternalServerError):
            there.client.responses.create(model="small", input="?")
        events: list[Any] = list(there.client.responses.create(model="small", input="?", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "engine_error"
    assert "secret" not in "".join(event.model_dump_json(warnings=False) for event in events)


def test_a_stateless_client_carries_the_thought_and_cannot_read_it(sealing: Path) -> None:
    engine = Talking(thinker())
    with server(served(engine), seal=str(sealing)) as there:
        asked: list[Any] = [{"role": "user", "content": "2 + 2 = ?"}]
        include: Any = ["reasoning.encrypted_content"]
        made = there.client.responses.create(model="small", input=asked, include=include, store=False)
        items: list[Any] = [item.model_dump(exclude_none=True) for item in made.output]
        sealed = items[0]["encrypted_content"]
        assert b"two and two" not in base64.urlsafe_b64decode(sealed)
        there.client.responses.create(model="small", input=[*asked, *items, {"role": "user", "content": "Sure?"}])
        went_on = engine.asked[-1][0]
        there.client.responses.create(model="small", input=[*asked, items[0]])
        thought = next(prefix for _, prefix, _ in reversed(engine.asked) if len(prefix) == 1)
        items[0]["encrypted_content"] = sealed[:-8] + "AAAAAAA="
        with pytest.raises(openai.BadRequestError, match="cannot be read"):
            there.client.responses.create(model="small", input=[*asked, *items, *asked])
    assert went_on[1] == {"role": "assistant", "content": "<think>\ntwo and two\nmake four\n</think>\nIt is 4."}
    assert thought[0].text == "<think>\ntwo and two\nmake four"
    assert not thought[0].sampled


def test_a_response_goes_on_from_the_last(running: Running) -> None:
    first = running.client.responses.create(model="small", input="2 + 2 = ?", instructions="Be brief.")
    running.client.responses.create(model="small", input="And 3?", previous_response_id=first.id)
    made = running.client.responses.retrieve(first.id)
    assert made.output_text == "It is 4."
    running.client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        running.client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError, match="not found"):
        running.client.responses.create(model="small", input="And 3?", previous_response_id=first.id)


def test_the_conversation_goes_on_and_the_instructions_do_not(tmp_path: Path) -> None:
    engine = Talking(thinker())
    with server(served(engine), store=str(tmp_path / "db")) as there:
        first = there.client.responses.create(model="small", input="2 + 2 = ?", instructions="Be brief.")
        there.client.responses.create(model="small", input="And 3?", previous_response_id=first.id)
    assert [turn["content"] for turn in engine.asked[-1][0]] == ["2 + 2 = ?", "It is 4.", "And 3?"]


@pytest.mark.parametrize(
    ("given", "code", "param"),
    [
        ({"input": []}, "invalid_value", "input"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "4"}]}, "unsupported_value", "input"),
        ({"input": [{"type": "computer_call"}]}, "unsupported_value", "input[0]"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools"),
        ({"reasoning": {"effort": "huge"}}, "unsupported_value", "reasoning.effort"),
        ({"text": {"format": {"type": "json_object"}}}, "unsupported_value", "text.format"),
        ({"include": ["file_search_call.results"]}, "unsupported_value", "include"),
        ({"background": True, "stream": True}, "invalid_value", "background"),
        ({"conversation": "c"}, "unsupported_parameter", "conversation"),
        ({"nonsense": 1}, "unknown_parameter", "nonsense"),
    ],
)
def test_what_is_wrong_is_named(running: Running, given: Any, code: str, param: str) -> None:
    reply = httpx.post(f"{running.url}/v1/responses", json={"model": "small", "input": "?", **given})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, code, param)


def test_without_a_store_or_a_key_what_needs_one_is_refused() -> None:
    with server(served(Talking(thinker()))) as there:
        made: Any = there.client.responses.create(model="small", input="?")
        assert made.store is False
        needs: list[dict[str, Any]] = [{"background": True}, {"store": True}, {"previous_response_id": "resp_x"}]
        for given in needs:
            with pytest.raises(openai.BadRequestError, match="stores no responses"):
                there.client.responses.create(model="small", input="?", **given)
        with pytest.raises(openai.BadRequestError, match="no key"):
            there.client.responses.create(model="small", input="?", include=["reasoning.encrypted_content"])


def test_a_background_response_is_polled_for_and_can_be_cancelled(tmp_path: Path) -> None:
    engine = Talking(thinker(), delay=0.2)
    with server(served(engine), store=str(tmp_path / "db")) as there:
        responses = there.client.responses
        queued = responses.create(model="small", input="?", background=True)
        assert queued.status == "queued"
        wait(lambda: responses.retrieve(queued.id).status == "completed", "it was never made")
        assert responses.retrieve(queued.id).output_text == "It is 4."
        engine.delay = 60.0
        long = responses.create(model="small", input="?", background=True)
        wait(lambda: responses.retrieve(long.id).status == "in_progress", "it was never begun")
        assert responses.cancel(long.id).status == "cancelled"
        wait(lambda: engine.in_flight == 0, "its search went on")
        assert responses.retrieve(long.id).status == "cancelled"
        assert responses.cancel(queued.id).status == "completed"


def test_a_job_is_begun_again_by_the_next_server_and_says_what_was_lost(tmp_path: Path) -> None:
    store = tmp_path / "db"
    with server(served(Talking(thinker(), delay=60.0)), store=str(store)) as there:
        queued = there.client.responses.create(model="small", input="2 + 2 = ?", background=True)
        wait(lambda: there.client.responses.retrieve(queued.id).status == "in_progress", "it was never begun")
    jobs = Jobs(store)
    jobs.spend(queued.id, 123)
    jobs.close()
    with server(served(Talking(thinker())), store=str(store)) as there:
        wait(lambda: there.client.responses.retrieve(queued.id).status == "completed", "it was not begun again")
        made = there.client.responses.retrieve(queued.id)
    assert made.output_text == "It is 4."
    assert getattr(made, "forethought", None) == {"attempts": 2, "lost_tokens": 123}


def test_a_job_that_takes_the_server_with_it_is_given_up(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "db")
    jobs.add("127.0.0.1", {"model": "small", "input": "?"}, user("?"), {"id": "resp_x", "status": "queued"})
    for _ in range(ATTEMPTS):
        jobs.begin("resp_x")
        jobs.spend("resp_x", 10)
        jobs.unfinished()
    jobs.close()
    engine = Talking(thinker())
    with server(served(engine), store=str(tmp_path / "db")) as there:
        made = there.client.responses.retrieve("resp_x")
    assert made.error is not None
    assert (made.status, engine.calls) == ("failed", 0)
    assert "30 tokens were lost" in made.error.message


def test_summaries_are_made_while_it_thinks() -> None:
    long = "<think>\n" + "adding one more small thing\n" * 60 + "</think>"

    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> str:
        if messages[0]["content"].startswith("Below are private notes"):
            return "Sums are being made"
        return "4" if prefix else long

    engine = Talking(script)
    engine.pause = 0.0005
    with server(served(engine, efforts={"low": 4000})) as there:
        stream: Any = there.client.responses.create(
            model="small", input="?", reasoning={"summary": "detailed"}, stream=True
        )
        kinds = [event.type for event in stream]
    first = kinds.index("response.reasoning_summary_text.delta")
    assert first < kinds.index("forethought.search.grown"), "nothing was said before the thought was whole"
    assert 2 <= kinds.count("response.reasoning_summary_text.delta") <= 6


def test_thoughts_are_shown_where_the_operator_allows_it() -> None:
    with server(served(Talking(thinker()), show_thoughts=True)) as there:
        made: Any = there.client.responses.create(model="small", input="?")
    assert made.output[0].content[0].text == "two and two\nmake four"
