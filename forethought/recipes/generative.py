"""A generative verifier (GenRM, arXiv 2408.15240): a language model that learns to say whether an answer is right.

    forethought train generative --model runs/cold --problems letters --kind chain_of_thought
    forethought eval --model runs/cold --problems letters --verify chain_of_thought:runs/generative-…

learns from the grades of thoughts that it draws, or that a store has (`--store`): `generative` the word Yes or No,
`chain_of_thought` a critique and then the word. Half of the words are Yes. Beside that it imitates right thoughts, so
that judging can use what it knows of solving: L(judge) + lambda L(solve), each a mean over its own targets (`--solve`
is lambda).

Critiques are a program's, where the task knows which steps are right: every line that claims something, and ` ok` or
` wrong`, down to the first wrong one. Else, and with `--critic`, a model writes them with the answer in sight, and one
is kept where its verdict is the grade's. `docs/labs.md` has what either kind is worth (`generative_verifier`).
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from tqdm import tqdm

from forethought.engines.http import HttpEngine
from forethought.engines.open import described, open_engine
from forethought.problems import open_task
from forethought.recipes import verifier
from forethought.recipes.label import problems_of
from forethought.recipes.run import Run, Settings, at_least, batches, begin, step_of
from forethought.recipes.student import Student, hinted
from forethought.scaling.measure import gather
from forethought.scaling.stages import Stage
from forethought.scaling.table import table
from forethought.scaling.verifiers import judgement
from forethought.search.seeds import derive
from forethought.thought.tokens import Tokenizer, worked_step
from forethought.train import checkpoint
from forethought.train.data import datum
from forethought.train.losses import nll
from forethought.types import Datum, Engine, Problem, Sampling, Trace
from forethought.verify import generative
from forethought.verify.open import ASKED
from forethought.verify.verdict import Verify

KINDS = ("generative", "chain_of_thought")
"""As `verify.open` calls them."""


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Teach a language model to say whether a thought's answer is right."""

    kind: str = "generative"
    """generative (Yes or No) or chain_of_thought (a critique before it)."""
    store: str = ""
    """A store, or the folder of a run, whose thoughts are learned from; empty draws them from the model."""
    run: str = ""
    """Which run of the store; needed where it has several."""
    critic: str = ""
    """A model that writes the critiques; empty takes the task's own step labels."""
    tries: int = 4
    """Critiques that it writes of a thought, at most, until one is right."""
    examples: int = 256
    """Problems to draw thoughts on, where there is no store."""
    samples: int = 8
    """Thoughts for each of them."""
    eval_problems: int = 64
    """Problems held out, at most half of all; 0 measures nothing."""
    eval_samples: int = 16
    """Most thoughts for each of them that are judged."""
    eval_temperature: float = 1.0
    """Of the thoughts that are drawn, those to learn from included, and of the critiques."""
    k: int = 4
    """Critiques of a thought whose p(Yes) are averaged, when it is measured."""
    critique_tokens: int = 192
    """Longest critique."""
    per_problem: int = 4
    """Most right and most wrong thoughts of one problem."""
    solve: float = 1 / 3
    """lambda: weight of imitating right thoughts; 0 leaves that out."""
    batch: int = 16
    """Judgements in one step, and as many right thoughts."""
    steps: int = 300
    """Optimizer steps."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: int = 20
    """Steps over which the rate rises."""
    save_every: int = 50
    """Steps between checkpoints; the last step is always kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "tries", "examples", "samples", "k", "critique_tokens", "per_problem", "batch", "steps")
        at_least(self, 1, "save_every")
        at_least(self, 0, "solve")
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; choose from {', '.join(KINDS)}")
        if self.critic and self.kind == "generative":
            raise ValueError(f"critic is {self.critic!r}, and {self.kind} writes no critique; take chain_of_thought")
        if self.eval_temperature == 0 and max(self.k, self.samples) > 1:
            raise ValueError("eval_temperature is 0: all critiques, and all thoughts, would be one; raise it")

    @property
    def oracle(self) -> bool:
        """Are critiques made of the task's step labels?"""
        return self.kind == "chain_of_thought" and not self.critic


def main(config: Config, resume: Path | None = None) -> Path:
    """Run the recipe and return its folder; raises KeyboardInterrupt once the place is saved after Ctrl-C."""
    task = open_task(config.problems, question=config.question, answer=config.answer)
    if config.oracle and task.labels is None:
        raise ValueError(
            f"{task.name} does not know which steps are right; name a model that writes critiques: --critic"
        )
    critic = open_engine(config.critic, dtype=config.dtype) if config.critic else None
    source = verifier.chosen(Path(config.store), config.run) if config.store else None
    student = Student.load(config.model, dtype=config.dtype)
    student.prepare(config)
    learner = student.schooled(config.lr, config.warmup, config.steps)
    place = checkpoint.latest(resume) if resume else None
    if place:
        student.resume(checkpoint.load(place, learner).state["spent"])

    with begin("generative", config, resume, place) as run:
        asked = _as_verifier(config)
        learn, held = verifier.divided(verifier.judged_traces(asked, run, student, source, fresh=place is None), asked)
        chosen = [trace for group in learn for trace in distinct(group, config.per_problem, config.seed)]
        if critic is not None:
            known = problems_of(task, {trace.problem_id for trace in chosen})
            told = asyncio.run(_criticised(chosen, known, critic, config))
        else:
            told = [(trace, by_labels(trace) if config.oracle else "") for trace in chosen]
        judgements = balanced(told, student.tokenizer, config)
        solutions = [datum(student.tokenizer, trace.messages, trace.steps) for trace in chosen if trace.reward == 1]
        plan = batches(judgements, config.batch, config.steps, config.seed)
        beside = batches(solutions, config.batch, config.steps, config.seed) if config.solve else [[]] * config.steps
        print(f"{len(judgements):,} judgements of {len(chosen):,} thoughts, {sum(map(len, held)):,} held out; ", end="")
        print(f"{config.steps} steps of {config.batch} -> {run.folder}", flush=True)
        first = step_of(place)
        for step in tqdm(range(first, config.steps), initial=first, total=config.steps, desc="generative", unit="step"):
            data, divisor = joint(plan[step], beside[step], config.solve)
            metrics = learner.step(data, nll, normaliser=divisor)
            student.training_tokens += int(metrics["computed"])
            run.metrics.log(step + 1, metrics)
            if run.due(step + 1, config.steps, config.save_every):
                state = {"spent": student.spent()}
                checkpoint.save(run.folder, step + 1, learner, state=state, tokenizer=student.tokenizer)
            run.raise_if_asked()
        student.refresh(config.steps)
        _finish(config, run, student, held)
    return run.folder


def judge_of(config: Config, engine: Engine) -> Verify:
    """The trained model as the verifier that it learned to be."""
    if config.kind == "generative":
        return ASKED[config.kind](engine)
    sampling = Sampling(config.critique_tokens, config.eval_temperature, seed=config.seed)
    return ASKED[config.kind](engine, k=config.k, sampling=sampling)


def by_labels(trace: Trace) -> str | None:
    """What the labels of the trace's steps come to as a critique: every step that claims something with ` ok` or
    ` wrong`, down to the first wrong one; `None` where that is not what the grade says, or nothing is claimed."""
    lines, sound = [], True
    for step, label in zip(trace.steps, trace.verdicts["true"].steps, strict=True):
        if label is not None and sound:
            sound = label > 0
            lines.append(f"{step.text.strip()} {'ok' if sound else 'wrong'}")
    return "\n".join(lines) if lines and sound == (trace.reward == 1) else None


def balanced(told: Iterable[tuple[Trace, str | None]], tokenizer: Tokenizer, config: Config) -> list[Datum]:
    """Judgements to imitate, in the form in which `verify.generative` asks for them, as many Yes as No.

    Args:
        told: thoughts, each with its critique ("" is none asked for); one without (`None`) is left out.

    Raises:
        ValueError: no right, or no wrong, thought is left.
    """
    sides: dict[bool, list[Datum]] = {True: [], False: []}
    for trace, critique in told:
        if critique is None:
            continue
        right = trace.reward == 1
        if config.kind == "generative":
            prompt = generative.direct_prompt(trace.messages, trace.steps)
            reply = generative.DIRECT_WORDS[not right]
        else:
            prompt = generative.critique_prompt(trace.messages, trace.steps)
            reply = f"{critique}\n{generative.VERIFICATION}{generative.CRITIQUE_WORDS[not right]}"
        sides[right].append(datum(tokenizer, prompt, [worked_step(tokenizer, reply)]))
    count = min(map(len, sides.values()))
    if not count:
        raise ValueError(
            f"there are {len(sides[True])} right and {len(sides[False])} wrong thoughts to judge, and both are needed: "
            "draw more (--examples, --samples), or at another temperature"
        )
    rng = random.Random(config.seed)
    return [one for side in sides.values() for one in rng.sample(side, count)]


def joint(judgements: Sequence[Datum], solutions: Sequence[Datum], weight: float) -> tuple[list[Datum], float]:
    """One batch, and what its summed loss is divided by, for the mean over the judgements' targets and `weight` times
    the mean over the solutions'."""
    targets, others = (sum(sum(one.mask) for one in data) for data in (judgements, solutions))
    scale = weight * targets / others if others else 0.0
    weighed = [replace(one, weights=tuple(scale * each for each in one.weights)) for one in solutions]
    return [*judgements, *weighed], float(targets)


def distinct(group: Sequence[Trace], per_problem: int, seed: int) -> list[Trace]:
    """At most `per_problem` right and as many wrong thoughts of one problem, drawn at random, no text twice."""
    rng = random.Random(f"{seed}/{group[0].problem_id}")
    found: list[Trace] = []
    for side in (1.0, 0.0):
        own = list({trace.text: trace for trace in group if trace.reward == side}.values())
        found += rng.sample(own, min(len(own), per_problem))
    return found


def _as_verifier(config: Config) -> verifier.Config:
    """What the recipe of heads is told, so that thoughts are taken, drawn, labelled and held out as there."""
    names = {field.name for field in fields(verifier.Config)} & {field.name for field in fields(Config)} - {"kind"}
    shared = {name: getattr(config, name) for name in names}
    return verifier.Config(**shared, kind="process" if config.oracle else "outcome")


async def _criticised(
    traces: Sequence[Trace], problems: dict[str, Problem], critic: Engine, config: Config
) -> list[tuple[Trace, str | None]]:
    """Critiques by a model that sees the answer (reference-guided), the first of `tries` whose verdict is
    the grade's; all thoughts are asked about at once."""

    async def one(trace: Trace) -> tuple[Trace, str | None]:
        prompt = generative.critique_prompt(hinted(problems[trace.problem_id]).messages, trace.steps)
        for number in range(config.tries):
            seed = derive(config.seed, "critique", trace.problem_id, trace.text, number)
            said = await critic.sample(prompt, (), Sampling(config.critique_tokens, config.eval_temperature, seed=seed))
            right = generative.yes_or_no(said.text) if generative.VERIFICATION in said.text else None
            if said.stop != "error" and right is not None and right == (trace.reward == 1):
                return trace, said.text.rpartition(generative.VERIFICATION)[0].strip()
        return trace, None

    try:
        return await asyncio.gather(*map(one, traces))
    finally:
        if isinstance(critic, HttpEngine):
            await critic.close()


def _finish(config: Config, run: Run, student: Student, held: Sequence[Sequence[Trace]]) -> None:
    """Say what the verifier is worth on the problems held out."""
    traces = [trace for group in held for trace in group[: config.eval_samples]]
    if not traces or any(stage.name == config.kind for stage in run.stages):
        return
    with tqdm(total=len(traces), desc="judge", unit="thought", leave=False) as bar:
        judged = verifier.score(traces, judge_of(config, student.engine), config.kind, progress=bar.update)
    worth = judgement(judged, config.kind)
    numbers = {name: None if math.isnan(value) else value for name, value in worth.items()}
    (run.folder / verifier.FILE).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {value:.3g}" for name, value in worth.items()))
    pools = gather(judged, judge=config.kind)
    seconds = time.perf_counter() - student.began
    stage = Stage(config.kind, pools, training_tokens=student.training_tokens, seconds=seconds)
    ks = tuple(k for k in (1, 2, 4, 8, 16, 32, 64) if k <= max(len(pool.judged) for pool in pools))
    print(table(stage, ks))
    print(run.add(stage, ks, described(config.model), f"{config.kind} verifier"))
