"""Rollouts against what else there is: sampling against transformers' `generate`, a GRPO step against TRL's trainer.

    make bench                                # both models; tiny alone: make bench ARGS="--model tiny"

Same weights, prompts, group, lengths, number format, learning rate and threads on both sides, in one process, taking
turns: ours, theirs, ours, theirs. benchmarks/README.md says what was set and why.
"""

from __future__ import annotations

import asyncio
import copy
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import transformers
import trl
import tyro
from datasets import Dataset
from race import HEADER, Race, machine, row, timed, verdict
from transformers import GenerationConfig, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from forethought.engines.local import LocalEngine, TinyConfig, load_model
from forethought.recipes.grpo import METHODS
from forethought.rollout import collect
from forethought.search.best_of_n import best_of_n
from forethought.thought.tokens import prompt_tokens
from forethought.train.data import grpo
from forethought.train.learner import Learner
from forethought.train.losses import policy_gradient
from forethought.types import Problem, Sampling, Trace, Verdict, user

NEW = 64
"""Tokens of every thought, on both sides."""
GROUP = 8
"""Thoughts for each prompt of a GRPO step."""
LR = 1e-5


@dataclass(frozen=True)
class Config:
    """Sampling and GRPO steps a second, against generate and TRL."""

    model: Literal["tiny", "smollm2-135m", "both"] = "both"
    """Which model."""
    quick: bool = False
    """Few rounds and small batches: does it run? The figures mean little."""
    json: bool = False
    """Print one last line of JSON."""


@dataclass(frozen=True)
class Shape:
    """What one model is measured at."""

    threads: int
    prompt: int
    """Tokens of a prompt, the chat template's included."""
    prompts: int
    """Prompts in a GRPO step."""
    steps: int
    """GRPO steps, one of them to warm up."""
    tiny: TinyConfig | None = None


SHAPES = {
    "tiny": Shape(threads=1, prompt=32, prompts=4, steps=21, tiny=TinyConfig(layers=4, width=256)),
    "smollm2-135m": Shape(threads=2, prompt=74, prompts=1, steps=7),
}


def unending(name: str, shape: Shape) -> tuple[Any, Any, LocalEngine]:
    """Model, tokenizer and engine whose end token lies beyond the vocabulary: never drawn, so all thoughts are `NEW`
    tokens long on either side, and neither pays for suppressing it."""
    model, tokenizer = load_model(name, tiny=shape.tiny, device=torch.device("cpu"))
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    if tokenizer.eos_token_id < model.config.vocab_size:
        raise ValueError(f"{name} has a row for token {tokenizer.eos_token_id}; it could be drawn")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    engine = LocalEngine(model, tokenizer, name=name)
    torch.set_num_threads(shape.threads)
    return model, tokenizer, engine


def problems(tokenizer: Any, shape: Shape, count: int) -> list[Problem]:
    """Strings of digits, each exactly `shape.prompt` tokens with the template around it."""
    room = shape.prompt - len(prompt_tokens(tokenizer, user("")))
    made = []
    for number in range(count):
        digits = "".join(random.Random(number).choices("0123456789", k=room))
        made.append(Problem(f"digits/{number}", user(digits), ""))
        if (length := len(prompt_tokens(tokenizer, user(digits)))) != shape.prompt:
            raise ValueError(f"{digits} takes {length} tokens, not {shape.prompt}: a digit is not a token here")
    return made


def reward(tokens: Sequence[int]) -> float:
    """The share of even tokens: cheap, and it differs within a group."""
    if len(tokens) != NEW:
        raise RuntimeError(f"a thought has {len(tokens)} tokens where {NEW} were asked for; the race is not fair")
    return sum(token % 2 == 0 for token in tokens) / NEW


def sampling(model: Any, engine: LocalEngine, problem: Problem, batch: int, rounds: int, seconds: float) -> Race:
    """`batch` thoughts of one prompt, for `rounds` rounds and `seconds` at least."""
    prompt = prompt_tokens(engine.tokenizer, problem.messages)
    ids_BT = torch.tensor([prompt] * batch)

    async def draw() -> None:
        asked = (engine.sample(problem.messages, (), Sampling(NEW, seed=seed)) for seed in range(batch))
        for step in await asyncio.gather(*asked):
            reward(step.tokens)

    def generate(cache: str) -> None:
        config = GenerationConfig(
            max_new_tokens=NEW,
            do_sample=True,
            top_k=0,
            eos_token_id=model.generation_config.eos_token_id,
            pad_token_id=0,
            cache_implementation=cache,
            disable_compile=True,
        )
        out_BT = model.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), generation_config=config)
        for row_T in out_BT[:, len(prompt) :].tolist():
            reward(row_T)

    race = Race(f"sample {batch}", "tokens/s", batch * NEW)
    began = time.perf_counter()
    while len(race.ours) < rounds or time.perf_counter() - began < seconds:
        race.ours.append(timed(lambda: asyncio.run(draw())))
        for cache in ("dynamic", "static"):
            race.theirs.setdefault(f"generate, {cache} cache", []).append(timed(partial(generate, cache)))
    return race


class Turns(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Takes our step before each of TRL's, and the time of both."""

    def __init__(self, step: Callable[[int], None], race: Race) -> None:
        self.step, self.race, self.began = step, race, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.race.ours.append(timed(partial(self.step, len(self.race.ours))))
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.race.theirs.setdefault("GRPOTrainer", []).append(time.perf_counter() - self.began)


def training(model: Any, tokenizer: Any, engine: LocalEngine, shape: Shape, steps: int) -> Race:
    """GRPO: draw, reward, one optimizer step."""
    low = engine.dtype == torch.bfloat16
    other = copy.deepcopy(model)
    batches = problems(tokenizer, shape, shape.prompts * steps)
    learner = Learner(model, lr=LR, autocast="bf16" if low else "fp32")
    weigh, normaliser = METHODS["grpo"]

    def grade(_: Problem, trace: Trace) -> Verdict:
        return Verdict(reward(trace.steps[0].tokens))

    def step(number: int) -> None:
        engine.update(model, number)
        asked = batches[number * shape.prompts : (number + 1) * shape.prompts]
        search = partial(best_of_n, n=GROUP)
        groups = collect(asked, engine, search=search, grade=grade, sampling=Sampling(NEW, seed=number))
        data, _ = grpo(groups, tokenizer, **weigh)
        learner.step(data, policy_gradient, normaliser=normaliser)

    race = Race("grpo", "steps/s", 1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=shape.prompts * GROUP,
            num_generations=GROUP,
            max_completion_length=NEW,
            learning_rate=LR,
            lr_scheduler_type="constant",
            loss_type="grpo",
            beta=0.0,
            num_iterations=1,
            bf16=low,
            use_cpu=True,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            dataloader_pin_memory=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=other,
            reward_funcs=lambda completion_ids, **_: [reward(tokens) for tokens in completion_ids],
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": list(problem.messages)} for problem in batches]),
            processing_class=tokenizer,
            callbacks=[Turns(step, race)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return race


def measure(name: str, quick: bool) -> dict[str, Race]:
    """All races of one model by `model/race`, printed as they end."""
    shape = SHAPES[name]
    model, tokenizer, engine = unending(name, shape)
    frozen = copy.deepcopy(model).to(engine.dtype).eval()
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    thoughts = f"prompts of {shape.prompt} tokens, thoughts of {NEW}, {shape.prompts} x {GROUP} to a GRPO step"
    print(f"\n{name}: {size:.1f}M parameters, {engine.dtype}, threads {torch.get_num_threads()}; {thoughts}\n{HEADER}")
    found = {}

    def add(race: Race) -> None:
        found[f"{name}/{race.name}"] = race
        print(row(race), flush=True)

    [problem] = problems(tokenizer, shape, 1)
    rounds, seconds = (2, 0.0) if quick else (6, 10.0)
    for batch in (1, 8) if quick else (1, 8, 32, 64):
        add(sampling(frozen, engine, problem, batch, rounds, seconds))
    add(training(model, tokenizer, engine, shape, 3 if quick else shape.steps))
    return found


def main(config: Config) -> int:
    """Race, print, and say by the exit status whether the goal was reached."""
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)  # TRL's own, about transformers 6
    about = machine(torch, transformers, trl)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    races: dict[str, Race] = {}
    for name in SHAPES if config.model == "both" else (config.model,):
        races |= measure(name, config.quick)
    return verdict("rollouts", races, about, as_json=config.json)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
