"""The command as it is: killed and started anew, an allocation from its file, somebody else's tool talking to it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from http_server import Server, choice
from openai import OpenAI
from serving import Talking, process, served, server, thinker, wait

from forethought.search.allocate import Allocation, Choice, save
from forethought.serve.jobs import Jobs

ASKED: Any = [{"role": "user", "content": "2 + 2 = ?"}]


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def said(text: str, tokens: int = 9, stop: str | None = None) -> dict[str, Any]:
    """What an upstream answers."""
    usage = {"prompt_tokens": 7, "completion_tokens": tokens}
    return {"choices": [choice(text, stop_reason=stop)], "usage": usage}


def boxed(answers: str, payload: dict[str, Any], number: int) -> dict[str, Any]:
    """The answers by turns."""
    return said(f"<think>hm</think>\\boxed{{{answers[number % len(answers)]}}}", 16)


def ended(responses: Any, id_: str) -> bool:
    return bool(responses.retrieve(id_).status == "completed")


def test_a_job_outlives_kill_9_and_says_exactly_what_was_lost(tmp_path: Path) -> None:
    """A majority of four: when the server is killed, two thoughts of 9 tokens have come and two are under way."""
    config, store = tmp_path / "serve.toml", tmp_path / "store.sqlite"
    with Server() as behind:
        behind.answer = lambda payload, number: 3600.0 if number in (2, 3) else said("<think>two and two</think>4")
        config.write_text(
            f"""
            [server]
            store = "{store}"
            running = 1
            [models.small]
            model = "{behind.url}/v1#qwen"
            search = "majority"
            efforts = {{ low = 64 }}
            effort = "low"
            thought_tokens = 16
            instruct = "no"
            """
        )
        with process("--config", str(config)) as (child, url):
            responses = client(url).responses
            jobs = [responses.create(model="small", input=text, background=True).id for text in ("2 + 2", "3 + 3")]

            def spent() -> int:
                with closing(Jobs(store)) as kept:
                    return int(kept._db.execute("SELECT SUM(spent) FROM responses").fetchone()[0])

            wait(lambda: spent() == 18, "nothing was spent")
            child.kill()  # SIGKILL
            child.wait()
        assert len(behind.asked) == 4
        behind.answer = lambda payload, number: said("<think>two and two</think>4")
        with process("--config", str(config)) as (_, url):
            responses = client(url).responses
            for job in jobs:
                wait(partial(ended, responses, job), "it was not gone on with")
            made = [responses.retrieve(job) for job in jobs]
    assert [one.output_text for one in made] == ["4", "4"]
    notes = [getattr(one, "forethought", None) for one in made]
    assert notes == [{"attempts": 2, "lost_tokens": 18}, {"attempts": 1, "lost_tokens": 0}]


def test_effort_auto_goes_by_the_allocation_in_its_file(tmp_path: Path) -> None:
    """Two first thoughts; where both agree that is all, where they do not two more are drawn."""
    choices = ((Choice("majority", 64), Choice("majority", 32)),)
    file = save(tmp_path / "allocation.json", Allocation("agreement", 2, (0.75,), (64,), choices, 16, 16))
    config, calls = tmp_path / "serve.toml", {}
    with Server() as behind:
        config.write_text(
            f"""
            [models.small]
            model = "{behind.url}/v1#qwen"
            allocation = "{file}"
            thought_tokens = 16
            instruct = "no"
            [models.bare]
            model = "{behind.url}/v1#qwen"
            """
        )
        with process("--config", str(config)) as (_, url):
            create: Any = client(url).chat.completions.create
            for kind, boxes in (("easy", "44"), ("hard", "45")):
                behind.asked.clear()
                behind.answer = partial(boxed, boxes)
                usage = create(model="small", messages=ASKED, reasoning_effort="auto", seed=1).usage
                calls[kind] = len(behind.asked)
                assert usage.completion_tokens == 16 * calls[kind]
            with pytest.raises(openai.BadRequestError, match="'auto'; this model has"):
                create(model="bare", messages=ASKED, reasoning_effort="auto")
    assert calls == {"easy": 2, "hard": 4}


def test_thoughts_may_call_the_tools_that_the_server_was_given() -> None:
    def answer(payload: dict[str, Any], number: int) -> Any:
        if "<output>42</output>" in payload["messages"][-1]["content"]:
            return said("\n</think>\nIt is 42.")
        return said("<think>\n<calc>6 * 7</calc>", stop="</calc>")

    with Server() as behind:
        behind.answer = answer
        words = ("--model", f"small={behind.url}/v1#qwen", "--tools", "calculator")
        with process(*words) as (_, url):
            reply = client(url).chat.completions.create(model="small:majority", messages=ASKED, reasoning_effort="low")
    assert reply.choices[0].message.content == "It is 42."
    assert "an expression of numbers" in behind.asked[0][1]["messages"][0]["content"]
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 9 * len(behind.asked)


def test_the_llm_command_talks_to_it(tmp_path: Path) -> None:
    engine = Talking(thinker())
    with server(served(engine)) as there:
        (tmp_path / "extra-openai-models.yaml").write_text(
            f"- model_id: here\n  model_name: small\n  api_base: {there.url}/v1\n  reasoning: true\n"
        )

        def llm(*words: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "llm", *words],
                env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=120,
                check=False,
            )
            assert not done.returncode, done.stderr
            return done.stdout + done.stderr

        assert llm("-m", "here", "2 + 2 = ?").strip() == "It is 4."
        assert llm("-m", "here", "--no-stream", "-o", "reasoning_effort", "low", "2 + 2 = ?").strip() == "It is 4."
        told = llm("-m", "here", "-c", "-u", "Sure?")
        assert "It is 4." in told
        assert "output" in told
    assert [turn["content"] for turn in engine.asked[-1][0]] == ["2 + 2 = ?", "It is 4.", "Sure?"]


def test_the_store_forgets_what_is_old_and_what_is_too_much(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    with server(served(Talking(thinker())), store=str(file), store_mib=1) as there:
        made = [there.client.responses.create(model="small", input="x" * 100_000).id for _ in range(8)]
        statuses = [httpx.get(f"{there.url}/v1/responses/{id_}").status_code for id_ in made]
    assert (statuses[0], statuses[-1]) == (404, 200)
    assert file.stat().st_size < 2 << 20
    with closing(Jobs(file, days=1)) as jobs:
        jobs.add("me", {}, (), {"id": "live", "status": "queued"})
        jobs._db.execute("UPDATE responses SET created = created - 86401")
        jobs.add("me", {}, (), {"id": "new", "status": "completed"})
        left = {row["id"] for row in jobs._db.execute("SELECT id FROM responses")}
    assert left == {"live", "new"}
