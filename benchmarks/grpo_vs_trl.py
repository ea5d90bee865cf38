"""A GRPO step end to end, draw, reward, learn, against TRL's trainer.

    python benchmarks/grpo_vs_trl.py --model tiny                  # tiny | smollm2-135m | both

Same weights, prompts, group, lengths, number format, learning rate and threads, in one process, taking turns: ours,
theirs, ours, theirs. benchmarks/README.md says what was set and why.
"""

from __future__ import annotations

import copy
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
from race import NEW, PROMPT, THREADS, Model, Race, header, machine, problems, row, timed, unending, verdict
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from forethought.engines.local import LocalEngine
from forethought.recipes.grpo import METHODS
from forethought.rollout import collect
from forethought.search.best_of_n import best_of_n
from forethought.train.data import grpo
from forethought.train.learner import Learner
from forethought.train.losses import policy_gradient
from forethought.types import Problem, Sampling, Trace, Verdict

GROUP = 8
"""Thoughts of the one prompt of a step."""
GOALS: dict[Model, float] = {"tiny": 3.0, "smollm2-135m": 2.5}
STEPS: dict[Model, int] = {"tiny": 24, "smollm2-135m": 7}
"""Steps of a race, the first of them to warm up."""
LR = 1e-5


@dataclass(frozen=True)
class Config:
    """GRPO steps a second, against TRL."""

    model: Literal["tiny", "smollm2-135m", "both"] = "both"
    """Which model."""
    quick: bool = False
    """Few steps: does it run? The figures mean little."""
    json: bool = False
    """Print one last line of JSON."""


def reward(tokens: Sequence[int]) -> float:
    """The share of even tokens: cheap, and it differs within a group."""
    if len(tokens) != NEW:
        raise RuntimeError(f"a thought has {len(tokens)} tokens where {NEW} were asked for; the race is not fair")
    return sum(token % 2 == 0 for token in tokens) / NEW


class Turns(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Takes our step before each of TRL's, and the time of both."""

    def __init__(self, step: Callable[[int], None]) -> None:
        self.step, self.began = step, 0.0
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.ours.append(timed(partial(self.step, len(self.ours))))
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.theirs.append(time.perf_counter() - self.began)


def our_step(model: Any, tokenizer: Any, engine: LocalEngine, batches: Sequence[Problem]) -> Callable[[int], None]:
    """The recipe's step number so-and-so: weights into the engine, rollout, grades, advantages, one optimizer step."""
    learner = Learner(model, lr=LR, autocast="bf16" if engine.dtype == torch.bfloat16 else "fp32")
    weigh, normaliser = METHODS["grpo"]

    def grade(_: Problem, trace: Trace) -> Verdict:
        return Verdict(reward(trace.steps[0].tokens))

    def step(number: int) -> None:
        engine.update(model, number)
        search = partial(best_of_n, n=GROUP)
        groups = collect([batches[number]], engine, search=search, grade=grade, sampling=Sampling(NEW, seed=number))
        data, _ = grpo(groups, tokenizer, **weigh)
        learner.step(data, policy_gradient, normaliser=normaliser)

    return step


def training(name: Model, dtype: str, cache: str, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of our steps and of TRL's, which draws with `cache`; the first of each left out."""
    model, tokenizer = unending(name)
    other = copy.deepcopy(model)
    engine = LocalEngine(model, tokenizer, name=name, dtype=dtype)
    torch.set_num_threads(THREADS[name])
    batches = problems(tokenizer, [PROMPT] * steps)
    turns = Turns(our_step(model, tokenizer, engine, batches))
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=GROUP,
            num_generations=GROUP,
            max_completion_length=NEW,
            learning_rate=LR,
            lr_scheduler_type="constant",
            loss_type="grpo",
            beta=0.0,
            num_iterations=1,
            bf16=dtype == "bf16",
            cache_implementation=cache,
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
            callbacks=[turns],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return turns.ours[1:], turns.theirs[1:]


def measure(name: Model, quick: bool) -> list[dict[str, Any]]:
    """The races of one model, printed as they end: both number formats, TRL with either cache."""
    print(header(f"{name}: {GROUP} thoughts of {NEW} tokens on a prompt of {PROMPT}, torch threads {THREADS[name]}"))
    found = []
    # transformers' static cache has the weights' number format and fails under TRL's autocast.
    for dtype, cache in (("fp32", "dynamic"), ("fp32", "static"), ("bf16", "dynamic")):
        ours, theirs = training(name, dtype, cache, 3 if quick else STEPS[name])
        race = Race(f"{name}/{dtype}, {cache} cache", "steps/s", 1, GOALS[name], ours, {"GRPOTrainer": theirs})
        found.append(race.figures())
        print(row(found[-1]), flush=True)
    return found


def main(config: Config) -> int:
    """Race, print, and say by the exit status whether the goals were reached."""
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)  # TRL's own, about transformers 6
    about = machine(torch, transformers, trl)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    names: tuple[Model, ...] = ("tiny", "smollm2-135m") if config.model == "both" else (config.model,)
    races = [figures for name in names for figures in measure(name, config.quick)]
    return verdict("grpo_vs_trl", races, about, as_json=config.json)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
