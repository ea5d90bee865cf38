"""The model that a recipe teaches: its weights, the engine that samples from them, and how it is measured."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from forethought.engines.local import LocalEngine, TinyConfig, load_model
from forethought.engines.local.quiet import quiet
from forethought.engines.open import described, find, label_of
from forethought.problems import Task
from forethought.problems.tools import open_tools
from forethought.recipes.run import Run, Settings
from forethought.rollout import collect
from forethought.scaling.cost import inference_flops, training_flops
from forethought.scaling.measure import gather
from forethought.scaling.stages import Stage
from forethought.scaling.table import table
from forethought.search.best_of_n import best_of_n
from forethought.thought.tools import Tools
from forethought.train.adapters import adapted, is_adapted, plain
from forethought.train.learner import Learner, adapters_off
from forethought.types import Datum, Problem, Sampling, Trace

COSTS = ("training_tokens", "sampled_tokens", "prefilled_tokens")
"""What a student counts between two measurements, besides the seconds."""


@dataclass
class Student:
    """A model, the engine over it, and what has been spent since the last measurement."""

    name: str
    model: Any
    """Float32 weights, the ones that learn, or adapters over them."""
    tokenizer: Any
    engine: LocalEngine
    """Samples from a copy of the weights, taken at the last `refresh`."""
    autocast: Literal["fp32", "bf16"]
    training_tokens: int = 0
    sampled_tokens: int = 0
    prefilled_tokens: int = 0
    """Of prompts; one that several thoughts share counts once."""
    tools: Tools | None = None
    """What its thoughts may call."""
    recompute: bool = False
    """Does learning compute activations again in the backward pass?"""
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def load(
        cls, name: str, *, tiny: TinyConfig | None = None, dtype: str = "auto", called: str | None = None
    ) -> Student:
        """The model called `name`, or a run's newest one.

        `dtype` is what it computes in: auto, bf16 or fp32. `called` is the model that its thoughts are filed under,
        where that is not `name`.
        """
        model, tokenizer = load_model(find(name).value, tiny=tiny)
        label = label_of(find(called or name))
        engine = LocalEngine(model, tokenizer, name=label, dtype=dtype)
        low = str(engine.dtype) == "torch.bfloat16"
        return cls(label, model, tokenizer, engine, "bf16" if low else "fp32")

    def prepare(self, config: Settings) -> None:
        """From here on learn as `config` says: by adapters over weights that stay as they are where it has a
        `lora_rank`, with little memory where it says `recompute`; and think with its `tools`."""
        self.tools = open_tools(config.tools)
        self.recompute = config.recompute
        if config.lora_rank:
            self.model = adapted(self.model, config.lora_rank, config.seed)

    def learner(self, **options: Any) -> Learner:
        """A fresh optimizer over the weights."""
        return Learner(self.model, autocast=self.autocast, recompute=self.recompute, **options)

    def schooled(self, lr: float, warmup: int, steps: int) -> Learner:
        """A fresh optimizer whose rate rises to `lr` and falls to nothing over `steps` steps."""
        return self.learner(lr=lr, warmup=min(warmup, steps - 1), decay="linear", total=steps + 1)

    def reference(self, learner: Learner) -> Callable[[Sequence[Datum]], list[tuple[float, ...]]]:
        """What gives log-probabilities as `learner` does, under the weights as they are now: those of a copy, or of a
        LoRA run those below the adapters."""
        if not is_adapted(self.model):
            still = copy.deepcopy(self.model)
            return Learner(still, lr=1.0, autocast=self.autocast, temperature=learner.temperature).logprobs

        def below(data: Sequence[Datum]) -> list[tuple[float, ...]]:
            with adapters_off(self.model):
                return learner.logprobs(data)

        return below

    def weights(self) -> dict[str, Any]:
        """A copy of the weights, to `restore` later."""
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def restore(self, weights: dict[str, Any]) -> None:
        """Put a copy of the weights back."""
        self.model.load_state_dict(weights)

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face checkpoint, whole or not at all."""
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        model: Any = plain(self.model)
        with quiet():
            model.save_pretrained(part)
        self.tokenizer.save_pretrained(part)
        part.rename(folder)

    def spent(self) -> dict[str, float]:
        """What has gone into learning since the last measurement, for a checkpoint; `resume` takes it up again."""
        seconds = time.perf_counter() - self.began
        return {**{name: getattr(self, name) for name in COSTS}, "seconds": seconds}

    @property
    def tokens(self) -> int:
        """All that was computed for learning since the last measurement: sampled, of prompts, and learned from."""
        return self.training_tokens + self.sampled_tokens + self.prefilled_tokens

    def resume(self, spent: Mapping[str, float]) -> None:
        """Go on counting from `spent`."""
        for name in COSTS:
            setattr(self, name, int(spent[name]))
        self.began = time.perf_counter() - spent["seconds"]

    def refresh(self, step: int) -> None:
        """The engine samples from the weights as they are now, adapters folded in, at training step `step`."""
        self.engine.update(plain(self.model), step)

    def sample(
        self,
        problems: Sequence[Problem],
        task: Task,
        n: int,
        sampling: Sampling,
        label: str,
    ) -> list[list[Trace]]:
        """`n` graded thoughts for each problem, all asked for at once, under a progress bar."""
        prefilled = self.engine.usage.prefilled
        with tqdm(total=len(problems) * n, desc=label, unit="thought", leave=False, smoothing=0.1) as bar:
            groups = collect(
                problems,
                self.engine,
                search=partial(best_of_n, n=n, tools=self.tools),
                grade=task.grade,
                sampling=sampling,
                concurrency=max(1, len(problems)),
                progress=lambda traces: bar.update(len(traces)),
            )
        self.prefilled_tokens += self.engine.usage.prefilled - prefilled
        self.sampled_tokens += sum(len(step.tokens) for group in groups for trace in group for step in trace.steps)
        return groups

    def measure(
        self, name: str, problems: Sequence[Problem], task: Task, n: int, sampling: Sampling
    ) -> tuple[Stage, list[list[Trace]]]:
        """What the model can do now, as a stage that carries what was spent on learning since the last one."""
        spent = self.spent()
        learned, sampled, prefilled = (int(spent[name]) for name in COSTS)
        groups = self.sample(problems, task, n, sampling, f"measure: {name}")
        parameters, frozen = self._multiplying()
        stage = Stage(
            name=name,
            pools=gather((trace for group in groups for trace in group), problems),
            training_tokens=learned,
            sampled_tokens=sampled,
            train_flops=training_flops(parameters, learned, frozen=frozen, recompute=self.recompute),
            sample_flops=inference_flops(parameters, sampled + prefilled),
            seconds=time.perf_counter() - self.began,
        )
        self.resume(dict.fromkeys(spent, 0))
        return stage, groups

    def examine(self, name: str, run: Run, task: Task, config: Any) -> None:
        """Measure on `config.eval_problems` held-out problems, print the table and bring the run's report up to date.

        Nothing is done where there are none to measure on, or where this stage was measured before an interruption.
        """
        if not config.eval_problems or any(stage.name == name for stage in run.stages):
            return
        problems = task.load("test", count=config.eval_problems, seed=config.seed)
        sampling = Sampling(config.max_tokens, config.eval_temperature, seed=config.seed)
        stage, groups = self.measure(name, problems, task, config.eval_samples, sampling)
        run.keep(groups)
        run.writer.flush()
        ks = tuple(k for k in (1, 2, 4, 8, 16, 32, 64) if k <= config.eval_samples)
        print(table(stage, ks))
        print(run.add(stage, ks, described(config.model), f"{run.recipe}: {task.name}"))

    def _multiplying(self) -> tuple[int, int]:
        """Parameters that cost FLOPs, and those of them that are not trained.

        Attention is left out: it adds about 1 % at the lengths of these thoughts.
        """
        embedded = self.model.get_input_embeddings().weight
        tied = self.model.get_output_embeddings().weight is embedded
        # The embedding table multiplies nothing; a head that is tied to it does.
        used = [parameter for parameter in self.model.parameters() if tied or parameter is not embedded]
        return sum(p.numel() for p in used), sum(p.numel() for p in used if not p.requires_grad)


def hinted(problem: Problem) -> Problem:
    """The problem with its answer shown, as rationalisation samples it (arXiv 2203.14465, section 3.2)."""
    *before, last = problem.messages
    shown = {**last, "content": f"{last['content']} ({problem.answer})"}
    return replace(problem, messages=(*before, shown))  # type: ignore[arg-type]  # a TypedDict spread is a dict to mypy
