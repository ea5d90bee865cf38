"""`forethought serve` over `tiny`, and a watch inside its process: memory, and how long its event loop was blocked.

    python benchmarks/watched_server.py            # prints its address; ends when standard input closes

`GET /watch` tells the memory held now, and what the loop did since the last time it was asked: the longest wait of a
task that wants to run every 10 ms, and every wait of 100 ms and more with the processor time that the loop's thread
and all threads took meanwhile, and where the loop stood. A wait without processor time is the machine's doing.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro
import uvicorn

from forethought.engines.local import LocalEngine, TinyConfig, load_model
from forethought.serve.app import create
from forethought.serve.config import ModelConfig, ServerConfig
from forethought.serve.models import Models, Served

NAME = "tiny"
EVERY = 0.01
"""Seconds between two wake-ups of the watch."""
BLOCKED = 0.1
"""Seconds of waiting from which on a wake-up is told."""
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Config:
    """What is served."""

    store: str = ""
    """The file of stored responses."""
    context: int = 512
    """Of the model, in characters."""
    thought: int = 48
    """Tokens of a thought."""
    answer: int = 48
    """Tokens of an answer."""
    cache_mib: int = 64
    """For keys and values, kept prefixes included: full within seconds, so that what grows later is a leak."""
    running: int = 8
    waiting: int = 64


@dataclass
class Watch:
    """What one event loop was seen to do."""

    longest: float = 0.0
    """Seconds that a wake-up came late, at most."""
    blocked: list[dict[str, Any]] = field(default_factory=list)
    """The waits of `BLOCKED` and more: seconds, processor seconds of the loop's thread and of all, where it stood."""
    beats: int = 0
    _beat: float = field(default_factory=time.monotonic)
    _seen: str = ""

    async def run(self) -> None:
        """Wake up over and over, in the loop that is watched."""
        threading.Thread(target=self._look, args=(threading.get_ident(),), daemon=True).start()
        while True:
            began, used, all_used = time.monotonic(), time.thread_time(), time.process_time()
            await asyncio.sleep(EVERY)
            self._beat = time.monotonic()
            late, self.beats = self._beat - began - EVERY, self.beats + 1
            self.longest = max(self.longest, late)
            if late >= BLOCKED:
                cpu, process = time.thread_time() - used, time.process_time() - all_used
                self.blocked.append({"seconds": late, "cpu": cpu, "process": process, "at": self._seen})
            self._seen = ""

    def _look(self, thread: int) -> None:
        """From another thread: where the loop stands when it has not come round for half the time that is told."""
        while True:
            time.sleep(EVERY)
            if time.monotonic() - self._beat > BLOCKED / 2 and (frame := sys._current_frames().get(thread)):
                self._seen = " < ".join(f"{at.name} ({Path(at.filename).name}:{at.lineno})" for at in
                                        reversed(traceback.extract_stack(frame)[-5:]))  # fmt: skip

    def told(self) -> dict[str, Any]:
        """What was seen since the last time; it begins anew."""
        seen = {"longest": self.longest, "blocked": self.blocked, "beats": self.beats}
        self.longest, self.blocked, self.beats = 0.0, [], 0
        return seen


def memory() -> int:
    """Bytes of this process in memory, as the kernel counts them."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def main(config: Config) -> None:
    """Serve until standard input closes, and say first where."""
    model, tokenizer = load_model("tiny", tiny=TinyConfig(layers=2, width=64, context=config.context))
    engine = LocalEngine(model, tokenizer, name=NAME, dtype="fp32", cache_bytes=config.cache_mib << 20)
    served = ModelConfig(
        NAME, "tiny", effort="low", efforts={"none": 0, "low": config.thought}, thought_tokens=config.thought,
        answer_tokens=config.answer, instruct="no",
    )  # fmt: skip
    limits = ServerConfig(store=config.store, running=config.running, waiting=config.waiting, heartbeat=1.0)
    app, watch = create(limits, Models([Served(served, engine)])), Watch()

    @app.get("/watch")
    async def watched() -> dict[str, Any]:
        house = app.state.house
        return {**watch.told(), "memory": memory(), "inside": house.gate.inside, "usage": asdict(engine.usage)}

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=5))
    serving, watching = asyncio.create_task(server.serve()), asyncio.create_task(watch.run())
    while not server.started:
        await asyncio.sleep(EVERY)
    print(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving
    watching.cancel()


if __name__ == "__main__":
    asyncio.run(main(tyro.cli(Config)))
