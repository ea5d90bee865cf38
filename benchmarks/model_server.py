"""An OpenAI-compatible server over `tiny` and a scorer over its thoughts, that counts what it is asked.

    python benchmarks/model_server.py --model FOLDER --scorer FOLDER       # prints its address
    python benchmarks/model_server.py --model FOLDER --scorer FOLDER --latency 50

`POST /v1/chat/completions` honours what vLLM's does and searches use: n, stop, include_stop_str_in_output, max_tokens,
max_completion_tokens, temperature, top_p, seed, continue_final_message, add_generation_prompt; it reports usage,
stop_reason and token_ids. `POST /score` is a judge of plain JSON (`verify.remote.endpoint`) with a process head behind
it: whoever asks, however it has cut the thought, the text is judged line by line. `POST /reset` and `GET /stats` are
free of charge.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import tyro
from aiohttp import web
from peers.driver import MODEL, RATE

from forethought.engines.local import LocalEngine, load_model
from forethought.engines.open import find
from forethought.engines.usage import counting
from forethought.thought.tokens import render
from forethought.types import Message, Messages, Sampling, Step
from forethought.verify.open import open_verifier
from forethought.verify.verdict import Verify

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Config:
    """Serve a model and a scorer, and count what they are asked."""

    model: str
    """A checkpoint or a run."""
    scorer: str
    """A process verifier's run, over a model of its own."""
    latency: float = 0.0
    """Milliseconds that every call waits before it is looked at, as on a hosted server."""
    heat: float = 1.0
    """Draws are at so many times the temperature that is asked for."""
    port: int = 0
    """0 is any free one."""

    def __post_init__(self) -> None:
        if not self.latency >= 0:
            raise ValueError(f"latency is {self.latency}; it is in milliseconds, 0 or more")
        if not self.heat > 0:
            raise ValueError(f"heat is {self.heat}; it multiplies temperatures and must be above 0")


@dataclass
class Stats:
    """What was asked since the last reset."""

    requests: int = 0
    """Calls of either kind."""
    judgements: int = 0
    """Of these, those to the scorer."""
    most: int = 0
    """Most calls in flight at one time."""
    prompt: int = 0
    """Tokens of prompts and prefixes as a provider bills them: once a request."""
    generated: int = 0
    """Tokens drawn, end tokens included."""
    prefilled: int = 0
    """Of the prompts' tokens, those that were run through the model and not found in its prefix cache."""
    scored: int = 0
    """Tokens run through the scorer."""
    in_flight: int = 0
    area: float = 0.0
    """Calls in flight, summed over seconds."""
    busy: float = 0.0
    """Seconds in which any was."""
    since: float = field(default_factory=time.perf_counter)

    def move(self, by: int) -> None:
        """A call has come (1) or gone (-1)."""
        now = time.perf_counter()
        self.area += self.in_flight * (now - self.since)
        self.busy += (now - self.since) if self.in_flight else 0.0
        self.since, self.in_flight = now, self.in_flight + by
        self.most = max(self.most, self.in_flight)


class Server:
    """The routes, over one engine that samples and one that scores.

    `forget` empties their prefix caches: whoever comes after a reset finds nothing that another has computed.
    """

    def __init__(self, engine: LocalEngine, judge: Verify, config: Config, forget: Callable[[], None]) -> None:
        self._engine, self._judge, self._forget = engine, judge, forget
        self._latency, self._heat = config.latency / 1000, config.heat
        self._stats = Stats()

    def app(self) -> web.Application:
        """What aiohttp serves."""
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", self._metered(self._chat))
        app.router.add_post("/score", self._metered(self._score))
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/reset", self._reset)
        app.router.add_get("/stats", self._told)
        return app

    def _metered(self, answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            stats = self._stats
            stats.requests += 1
            stats.move(1)
            try:
                await asyncio.sleep(self._latency)
                return web.json_response(await answer(await request.json()))
            except (ValueError, KeyError, IndexError) as error:
                return web.json_response({"error": {"message": f"{type(error).__name__}: {error}"}}, status=400)
            finally:
                stats.move(-1)

        return handler

    async def _chat(self, asked: dict[str, Any]) -> dict[str, Any]:
        turns = [Message(role=turn["role"], content=turn["content"]) for turn in asked["messages"]]
        # As chat templates do: an empty system turn is left out.
        turns = [turn for turn in turns if turn["content"] or turn["role"] != "system"]
        if turns[-1]["content"] == RATE:
            return await self._rate(turns)
        goes_on = bool(asked.get("continue_final_message"))
        if goes_on and (turns[-1]["role"] != "assistant" or asked.get("add_generation_prompt", True)):
            raise ValueError("continue_final_message needs an assistant's turn and add_generation_prompt=false")
        prefix = (Step(turns.pop()["content"]),) if goes_on else ()
        stop = asked.get("stop") or ()
        sampling = Sampling(
            max_tokens=asked.get("max_completion_tokens") or asked.get("max_tokens") or 256,
            temperature=self._heat * (1.0 if asked.get("temperature") is None else asked["temperature"]),
            top_p=1.0 if asked.get("top_p") is None else asked["top_p"],
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )
        seed, messages = asked.get("seed"), tuple(turns)
        seeds = [None if seed is None else seed + index for index in range(asked.get("n") or 1)]
        with counting() as usage:
            draws = (self._engine.sample(messages, prefix, replace(sampling, seed=each)) for each in seeds)
            steps = await asyncio.gather(*draws)
        prompt = len(render(self._engine.tokenizer, messages, prefix)[0])
        drawn = sum(len(step.tokens) for step in steps)
        self._stats.prompt += prompt
        self._stats.generated += drawn
        self._stats.prefilled += usage.prefilled
        shows = bool(asked.get("include_stop_str_in_output"))
        choices = [choice(index, step, sampling.stop, shows) for index, step in enumerate(steps)]
        return answered(choices, prompt, drawn, max(0, prompt - usage.prefilled))

    async def _rate(self, turns: list[Message]) -> dict[str, Any]:
        """optillm's judge is the chat model, asked in words for a number up to 10: it is given the scorer's."""
        thought = turns[-2]["content"]
        question = next(turn for turn in turns if turn["role"] == "user")
        score = (await self._score({"messages": [question], "steps": [thought]}))["score"]
        return answered([choice(0, Step(f"{10 * (score or 0.0):.6f}"), (), False)], 0, 1, 0)

    async def _score(self, asked: dict[str, Any]) -> dict[str, Any]:
        messages: Messages = tuple(Message(role=turn["role"], content=turn["content"]) for turn in asked["messages"])
        lines = "".join(asked["steps"]).splitlines(keepends=True)
        self._stats.judgements += 1
        verdict = await self._judge(messages, tuple(Step(line, stop="stop") for line in lines))
        self._stats.scored += verdict.cost
        return {"score": verdict.score, "cost": verdict.cost}

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        if self._stats.in_flight:
            return web.json_response({"error": {"message": f"{self._stats.in_flight} calls in flight"}}, status=409)
        self._forget()
        self._stats = Stats()
        return web.json_response({})

    async def _told(self, request: web.Request) -> web.StreamResponse:
        stats = self._stats
        mean = stats.area / stats.busy if stats.busy else 0.0
        return web.json_response({**asdict(stats), "mean": mean})


def choice(index: int, step: Step, stops: tuple[str, ...], shows: bool) -> dict[str, Any]:
    """One of an answer's choices, as vLLM writes it."""
    hit = next((stop for stop in stops if step.stop == "stop" and step.text.endswith(stop)), None)
    text = step.text if hit is None or shows else step.text.removesuffix(hit)
    return {
        "index": index,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "length" if step.stop == "length" else "stop",
        "stop_reason": hit,
        "token_ids": list(step.tokens),
    }


def answered(choices: list[dict[str, Any]], prompt: int, drawn: int, cached: int) -> dict[str, Any]:
    """A chat completion."""
    usage = {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": choices,
        "usage": {**usage, "prompt_tokens_details": {"cached_tokens": cached}},
    }


def opened(config: Config) -> Server:
    """The server over the weights that `config` names."""
    model, tokenizer = load_model(find(config.model).value)
    trunk, _ = load_model(find(config.scorer).value)
    engine, scorer = (LocalEngine(each, tokenizer, name=MODEL) for each in (model, trunk))

    def forget() -> None:
        engine.update(model, 0)
        scorer.update(trunk, 0)

    return Server(engine, open_verifier(config.scorer, scorer, aggregate="mean"), config, forget)


async def serve(config: Config) -> None:
    """Serve until standard input closes, and say first, as a line of JSON, where."""
    runner = web.AppRunner(opened(config).app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", config.port, backlog=1024)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(json.dumps({"url": f"http://{host}:{port}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(tyro.cli(Config)))
