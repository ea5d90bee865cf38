"""Sampling: the embedded engine against transformers' `generate` and against openvino-genai.

    make bench ARGS="--json"                                       # with the other benchmarks
    python benchmarks/sampling.py --model tiny                     # tiny | smollm2-135m | both

Same weights, prompts, lengths and threads, in one process, taking turns. benchmarks/README.md has what was set and why.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy
import openvino_genai
import torch
import transformers
import tyro
from openvino import Core, Tensor
from race import NEW, PROMPT, THREADS, Model, Race, by_turns, header, machine, problems, row, unending, verdict
from transformers import CompileConfig, GenerationConfig

from forethought.engines.local import LocalEngine
from forethought.engines.models import smollm2_path
from forethought.thought.tokens import prompt_tokens
from forethought.types import Problem, Sampling

GENERATE: dict[Model, dict[int, float]] = {
    "tiny": {1: 2.0, 8: 2.0, 64: 2.0},
    "smollm2-135m": {8: 2.5, 32: 2.5, 64: 2.5, 128: 2.5},
}
"""Thoughts drawn together, and the ratio to reach."""
OPENVINO = {8: 0.8, 64: 1.0, 128: 1.0}
"""The same against openvino-genai, which has SmolLM2 alone."""
ROLLOUT = 3.0
SHORTEST = 8
"""Tokens of the shortest thought in a rollout; the longest has `NEW`."""
PROMPTS, GROUP = 32, 8
"""Problems of a rollout, and thoughts for each."""
CALLS = (64, PROMPTS * GROUP)
"""Rows in a call of `generate` in a rollout; the faster counts."""


@dataclass(frozen=True)
class Config:
    """Sampled tokens a second, against generate and openvino-genai."""

    model: Literal["tiny", "smollm2-135m", "both"] = "both"
    """Which model."""
    batches: tuple[int, ...] = ()
    """Only these of the goals' batches, and no rollout; by default all."""
    quick: bool = False
    """Few rounds, one batch and nothing compiled: does it run? The figures mean little."""
    json: bool = False
    """Print one last line of JSON."""


def ours(engine: LocalEngine, asked: Iterable[tuple[Problem, int]]) -> None:
    """Draw a thought of just so many tokens for each of `asked`."""

    async def draw() -> None:
        samples = [
            engine.sample(problem.messages, (), Sampling(tokens, seed=seed))
            for seed, (problem, tokens) in enumerate(asked)
        ]
        for step, (_, tokens) in zip(await asyncio.gather(*samples), asked, strict=True):
            check(len(step.tokens), tokens)

    asyncio.run(draw())


def generate(model: Any, prompts: Sequence[Sequence[int]], new: int, cache: str) -> None:
    """`new` tokens for each prompt, padded on the left to the longest; `cache` is dynamic, static or compiled."""
    longest = max(map(len, prompts))
    ids_BT = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask_BT = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    every = CompileConfig()
    every._compile_all_devices = True  # else transformers compiles for accelerators alone
    config = GenerationConfig(
        max_new_tokens=new,
        do_sample=True,
        top_k=0,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=0,
        cache_implementation="dynamic" if cache == "dynamic" else "static",
        disable_compile=cache != "compiled",
        compile_config=every if cache == "compiled" else None,
    )
    check(model.generate(ids_BT, attention_mask=mask_BT, generation_config=config).shape[1], longest + new)


def check(found: int, asked: int) -> None:
    """The race is fair only where all thoughts have their length."""
    if found != asked:
        raise RuntimeError(f"a thought has {found} tokens where {asked} were asked for; the race is not fair")


def openvino(threads: int) -> Callable[[Sequence[int], int, bool], None]:
    """openvino-genai's continuous batching over the same GGUF file: draws `NEW` tokens for each of a prompt's branches,
    asked for as one request with so many sequences, or as so many requests that find the prompt in its prefix cache."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 2
    scheduler.enable_prefix_caching = True
    scheduler.max_num_seqs = 256
    scheduler.max_num_batched_tokens = 8192
    pipeline = openvino_genai.LLMPipeline(
        str(smollm2_path()), "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=threads
    )

    def draw(prompt: Sequence[int], batch: int, forked: bool) -> None:
        config = openvino_genai.GenerationConfig(
            max_new_tokens=NEW, ignore_eos=True, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
        )
        config.apply_chat_template = False
        config.num_return_sequences = batch if forked else 1
        ids_BT = numpy.array([prompt] * (1 if forked else batch), dtype=numpy.int64)
        inputs = openvino_genai.TokenizedInputs(Tensor(ids_BT), Tensor(numpy.ones_like(ids_BT)))
        rows = pipeline.generate(inputs, config).tokens
        check(len(rows), batch)
        for tokens in rows:
            check(len(tokens), NEW)

    return draw


def measure(name: Model, batches: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """All races of one model, or those of `batches`, printed as they end."""
    model, tokenizer = unending(name)
    engine = LocalEngine(model, tokenizer, name=name)
    torch.set_num_threads(THREADS[name])
    model = model.to(engine.dtype).eval()
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(header(f"{name}: {size:.1f}M parameters, {engine.dtype}, torch threads {THREADS[name]}"))
    rival = openvino(THREADS[name]) if name == "smollm2-135m" else None
    caches = ["dynamic", "static"]
    if not quick and any(map(shutil.which, ("c++", "g++", "clang++"))):
        caches.append("compiled")
    rounds, seconds = (1, 0.0) if quick else (4, 10.0)
    found: list[dict[str, Any]] = []

    def add(race: Race) -> None:
        found.append(race.figures())
        print(row(found[-1]), flush=True)

    [problem] = problems(tokenizer, [PROMPT])
    prompt = prompt_tokens(tokenizer, problem.messages)
    races = [(batch, goal) for batch, goal in GENERATE[name].items() if not batches or batch in batches]
    for batch, goal in races[: 1 if quick else None]:
        torch.compiler.reset()  # shapes of one batch are constants to the compiler, of two they are not
        theirs = {f"generate, {cache}": partial(generate, model, [prompt] * batch, NEW, cache) for cache in caches}
        if rival and batch in OPENVINO:
            theirs |= {
                f"openvino-genai, {kind}": partial(rival, prompt, batch, kind == "forked")
                for kind in ("forked", "prefix cache")
            }
        mine, others = by_turns(partial(ours, engine, [(problem, NEW)] * batch), theirs, rounds=rounds, seconds=seconds)
        for kind, bar in (("generate", goal), ("openvino-genai", OPENVINO.get(batch, 0.0))):
            if times := {setting: seen for setting, seen in others.items() if setting.startswith(kind)}:
                add(Race(f"{name}/{kind}, B = {batch}", "tokens/s", batch * NEW, bar, mine, times))

    if batches:
        return found
    draw = random.Random(0)
    several = problems(tokenizer, [draw.randint(PROMPT // 2, 2 * PROMPT) for _ in range(4 if quick else PROMPTS)])
    asked = [(problem, draw.randint(SHORTEST, NEW)) for problem in several for _ in range(GROUP)]
    # In their favour: prompts of like length stand together, which costs generate nothing.
    rows = sorted(((prompt_tokens(tokenizer, one.messages), new) for one, new in asked), key=lambda pair: len(pair[0]))

    def padded(size: int, cache: str) -> None:
        for start in range(0, len(rows), size):
            prompts, lengths = zip(*rows[start : start + size], strict=True)
            generate(model, prompts, max(lengths), cache)

    theirs = {f"{size} rows, {cache}": partial(padded, size, cache) for size in CALLS for cache in caches[:2]}
    mine, others = by_turns(partial(ours, engine, asked), theirs, rounds=1 if quick else 3)
    add(Race(f"{name}/rollout", "tokens/s", sum(tokens for _, tokens in asked), ROLLOUT, mine, others))
    return found


def main(config: Config) -> int:
    """Race, print, and say by the exit status whether the goals were reached."""
    transformers.logging.set_verbosity_error()
    numbers = ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
    defaults = {name: str(Core().get_property("CPU", name)) for name in numbers}
    about = machine(torch, transformers, openvino_genai) | {"openvino": defaults}
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    names: tuple[Model, ...] = ("tiny", "smollm2-135m") if config.model == "both" else (config.model,)
    known = {batch for name in names for batch in GENERATE[name]}
    if unknown := set(config.batches) - known:
        raise SystemExit(f"--batches {min(unknown)}: there is a goal for {', '.join(map(str, sorted(known)))}")
    races = [figures for name in names for figures in measure(name, config.batches, config.quick)]
    return verdict("sampling", races, about, as_json=config.json)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
