"""A verifier from judged thoughts: a scalar head that tells right ones from wrong ones, on a trunk that learns with it.

    forethought train verifier --model runs/cold --problems chain:steps=6 --kind outcome

draws thoughts from the model and learns from their grades; `--store` learns from thoughts that a store has, and
`--labels` names the judge whose verdicts are the labels. What is learned by

- `outcome` is the grade, at the last token (arXiv 2110.14168); `process`, the label of each step at its last token
  (arXiv 2305.20050; Monte-Carlo ones, arXiv 2312.08935); `bradley_terry`, which of a problem's thoughts are better
  (arXiv 2203.02155); `value`, at every step, how the thought ended.

Problems that are held out say what it is worth. The run's folder is a verifier: `--verify runs/verifier-…`.
`docs/LOG.md` has what it took.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from forethought.engines.open import described
from forethought.problems import Task, open_task
from forethought.recipes.label import cut, noted, problems_of, true
from forethought.recipes.run import Run, Settings, at_least, batches, begin, step_of
from forethought.recipes.student import Student
from forethought.scaling.measure import gather
from forethought.scaling.stages import Stage
from forethought.scaling.table import table
from forethought.scaling.verifiers import judgement, location
from forethought.search.seeds import derive
from forethought.store import Store, find_store
from forethought.store.labels import PEOPLE, PERSON, thought_key
from forethought.train import checkpoint, heads
from forethought.types import Datum, Sampling, Trace
from forethought.verify.heads import AGGREGATES, Aggregate, Head, Kind, save
from forethought.verify.open import open_verifier
from forethought.verify.verdict import Verify

DEFAULT_LABELS = {"outcome": "grade", "process": "true", "bradley_terry": "grade", "value": "grade"}
VALUES = ("mc", "omega")
"""Judges whose step labels are what is to be hoped for from there, not whether the step is right."""
FILE = "verifier.json"
"""In the run's folder: what it is worth on held-out problems."""


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Train a verifier: a scalar head that tells right thoughts from wrong ones."""

    model: str
    """The trunk: a checkpoint of the policy or another model with the tokenizer that the thoughts were drawn with."""
    kind: str = "outcome"
    """outcome, process, bradley_terry or value."""
    store: str = ""
    """A store, or the folder of a run, whose thoughts are learned from; empty draws them from the model."""
    run: str = ""
    """Which run of the store; needed where it has several."""
    labels: str = ""
    """The judge whose verdicts are learned: grade (for process: true), or what `forethought label` or people wrote."""
    hard: bool = False
    """Learn labels above 0 as 1 (Math-Shepherd's hard estimate)."""
    examples: int = 256
    """Problems to draw thoughts on, where there is no store."""
    samples: int = 8
    """Thoughts for each of them."""
    eval_problems: int = 64
    """Problems held out, at most half of all; 0 measures nothing."""
    eval_samples: int = 64
    """Most thoughts for each of them that are judged."""
    eval_temperature: float = 1.0
    """Of the thoughts that are drawn, those to learn from included."""
    per_problem: int = 8
    """Most right and most wrong thoughts of one problem."""
    balance: bool = True
    """Right and wrong labels weigh the same; the head's bias is then set to the odds there are (outcome, process)."""
    margin: float = 0.0
    """Between the rewards of a right and a wrong thought (bradley_terry)."""
    first_error: bool = False
    """Learn nothing from the steps behind a first wrong one, which people who label stop at (process)."""
    aggregate: str = "auto"
    """How step scores become one: last, min, product, mean; auto: product, and last where labels are values."""
    freeze: bool = False
    """Leave the trunk as it is and train the head alone."""
    batch: int = 16
    """Thoughts in one step; of bradley_terry, problems."""
    steps: int = 100
    """Optimizer steps."""
    lr: float = 3e-4
    """Peak learning rate."""
    warmup: int = 10
    """Steps over which the rate rises."""
    save_every: int = 50
    """Steps between checkpoints; the last step is always kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "examples", "samples", "per_problem", "batch", "steps", "save_every")
        at_least(self, 0, "margin")
        if self.first_error and self.kind != "process":
            raise ValueError(f"first_error is set; it is for process, where steps have labels, not for {self.kind}")
        if self.kind not in DEFAULT_LABELS:
            raise ValueError(f"kind is {self.kind!r}; choose from {', '.join(DEFAULT_LABELS)}")
        if self.aggregate not in ("auto", *get_args(Aggregate)):
            raise ValueError(f"aggregate is {self.aggregate!r}; choose from auto, {', '.join(get_args(Aggregate))}")
        if self.freeze and self.lora_rank:
            raise ValueError(f"lora_rank is {self.lora_rank} and freeze is set; adapters are there to be trained")

    @property
    def judge(self) -> str:
        """Whose verdicts are learned."""
        return self.labels or DEFAULT_LABELS[self.kind]


def main(config: Config, resume: Path | None = None) -> Path:
    """Run the recipe and return its folder; raises KeyboardInterrupt once the place is saved after Ctrl-C."""
    source = chosen(Path(config.store), config.run) if config.store else None
    student = Student.load(config.model, dtype=config.dtype)
    student.prepare(config)
    if config.freeze:
        student.model.requires_grad_(False)
    rates: dict[str, Any] = {"lr": config.lr, "warmup": min(config.warmup, config.steps - 1)}
    head = heads.fresh(student.model)
    learner = student.learner(**rates, decay="linear", total=config.steps + 1, head=head)
    place = checkpoint.latest(resume) if resume else None
    if place:
        student.resume(checkpoint.load(place, learner).state["spent"])

    with begin("verifier", config, resume, place) as run:
        learn, held = divided(judged_traces(config, run, student, source, fresh=place is None), config)
        units = _units(learn, config, student.tokenizer)
        data = [datum for unit in units for datum in unit]
        right = heads.odds(data) if config.balance and config.kind in ("outcome", "process") else 1.0
        learner.max_tokens = max(learner.max_tokens, *(sum(len(datum.tokens) for datum in unit) for unit in units))
        targets = sum(sum(datum.mask) for datum in data)
        print(f"{len(data):,} thoughts with {targets:,} labels of {config.judge!r}, {len(held):,} held out", end="")
        print(f"; {config.steps} steps of {config.batch} -> {run.folder}", flush=True)
        losses: dict[str, Callable[..., Any]] = {
            "outcome": partial(heads.cross_entropy, right=right),
            "process": partial(heads.cross_entropy, right=right),
            "bradley_terry": partial(heads.bradley_terry, margin=config.margin),
            "value": heads.squared_error,
        }
        plan = batches(units, config.batch, config.steps, config.seed)
        first = step_of(place)
        for step in tqdm(range(first, config.steps), initial=first, total=config.steps, desc="verifier", unit="step"):
            batch = [datum for unit in plan[step] for datum in unit]
            normaliser: Any = (
                float(len({datum.pair for datum in batch})) if config.kind == "bradley_terry" else "tokens"
            )
            metrics = learner.step(batch, losses[config.kind], normaliser=normaliser)
            student.training_tokens += int(metrics["computed"])
            run.metrics.log(step + 1, metrics)
            if run.due(step + 1, config.steps, config.save_every):
                state = {"spent": student.spent()}
                checkpoint.save(run.folder, step + 1, learner, state=state, tokenizer=student.tokenizer)
            run.raise_if_asked()
        student.refresh(config.steps)
        weight = tuple(head.weight[0].tolist())
        kind: Kind = config.kind  # type: ignore[assignment]  # checked when the config was made
        _finish(config, run, student, Head(kind, weight, head.bias.item() - math.log(right), _aggregate(config)), held)
    return run.folder


def chosen(path: Path, name: str) -> tuple[Store, str]:
    """The store in `path`, or of the run there, and the run `name` in it: the only one, where no name is given.

    Raises:
        ValueError: there is no store, no such run, or several and no name.
    """
    store = find_store(path)
    names = [run.name for run in store.summary().runs]
    if name not in names and (name or len(names) != 1):
        which = f"has no run {name!r}" if name else "has not one run"
        raise ValueError(f"{store.path} {which}; choose --run from {', '.join(names) or 'none: it is empty'}")
    return store, name or names[0]


def judged_traces(
    config: Config, run: Run, student: Student, source: tuple[Store, str] | None, *, fresh: bool
) -> list[Trace]:
    """The thoughts to learn from, in steps as they are labelled: the store's, or drawn and kept in the run's own."""
    task = None if source else open_task(config.problems, question=config.question, answer=config.answer)
    if source is None and task is not None:
        if fresh:
            sampling = Sampling(config.max_tokens, config.eval_temperature, seed=derive(config.seed, "thoughts"))
            problems = task.load("train", count=config.examples + config.eval_problems, seed=config.seed)
            run.keep(student.sample(problems, task, config.samples, sampling, "thoughts"))
            run.writer.flush()
        source = chosen(run.folder, run.folder.name)
    assert source is not None
    store, name = source
    traces = [trace for trace in store.traces(run=name) if trace.stop != "error"]
    _check_tokens(traces, student, store)
    decode = student.engine.decode
    # Steps that somebody labelled are theirs; all others are cut into moves, and so are those that people labelled on
    # the page: a person reads lines, however the thought was drawn.
    told = store.labels.standing() if config.judge == PEOPLE or config.judge.startswith(PERSON) else {}
    traces = [
        trace if _steps(trace, config) and thought_key(trace.messages, trace.text) not in told else cut(trace, decode)
        for trace in traces
    ]
    traces = list(store.labels.judged(traces, told))
    if config.judge == "true" and not any(_steps(trace, config) for trace in traces):
        traces = _told(traces, task or open_task(config.problems, question=config.question, answer=config.answer))
    labelled = [trace for trace in traces if config.judge in trace.verdicts]
    if not labelled:
        judges = sorted({judge for trace in traces for judge in trace.verdicts})
        raise ValueError(
            f"none of the {len(traces)} thoughts of {store.path} (run {name}) has a verdict of {config.judge!r}; they "
            f"have {', '.join(judges) or 'none at all'}: choose --labels, or write them with forethought label"
        )
    return labelled


def _told(traces: Sequence[Trace], task: Task) -> list[Trace]:
    """The traces with the task's own step labels."""
    groups: dict[str, list[Trace]] = {}
    for trace in traces:
        groups.setdefault(trace.problem_id, []).append(trace)
    problems = problems_of(task, groups)

    async def labelled() -> list[Trace]:
        return [one for id, group in groups.items() for one in await true(problems[id], group, task=task)]

    return asyncio.run(labelled())


def _check_tokens(traces: Sequence[Trace], student: Student, store: Store) -> None:
    """Tokens are learned from as they were sampled: they must be this model's."""
    for step in (step for trace in traces[:1] for step in trace.steps if step.tokens and step.sampled):
        if max(step.tokens) >= len(student.tokenizer) or not student.engine.decode(step.tokens).startswith(step.text):
            raise ValueError(
                f"the thoughts of {store.path} were drawn by {traces[0].policy}, and their tokens are not those of "
                f"{student.name}: take as --model a checkpoint with the same tokenizer"
            )


def _steps(trace: Trace, config: Config) -> tuple[float | None, ...]:
    """The judge's labels of the trace's steps; none where it judged the whole alone."""
    verdict = trace.verdicts.get(config.judge)
    return verdict.steps if verdict is not None else ()


def divided(traces: Iterable[Trace], config: Config) -> tuple[list[list[Trace]], list[list[Trace]]]:
    """Traces by problem, to learn from and held out. Problems that ask the same are one, so that none is in both."""
    groups: dict[str, list[Trace]] = {}
    for trace in traces:
        groups.setdefault(json.dumps(trace.messages), []).append(trace)
    order = sorted(groups, key=lambda asked: derive(config.seed, "held out", asked) or 0)
    count = min(config.eval_problems, len(order) // 2)
    return [groups[asked] for asked in order[count:]], [groups[asked] for asked in order[:count]]


def _units(groups: Sequence[Sequence[Trace]], config: Config, tokenizer: Any) -> list[list[Datum]]:
    """What a batch is made of: single thoughts or, to be compared, the thoughts of one problem."""
    units: list[list[Datum]] = []
    for number, group in enumerate(groups):
        rng = random.Random(f"{config.seed}/{group[0].problem_id}")
        data: list[Datum] = []
        for side in (True, False):
            own = [trace for trace in group if (trace.reward == 1) == side]
            for trace in rng.sample(own, min(len(own), config.per_problem)):
                datum = heads.marked(
                    tokenizer, trace, _labels(trace, config), pair=number if config.kind == "bradley_terry" else None
                )
                data += [datum] if datum else []
        if config.kind != "bradley_terry":
            units += [[datum] for datum in data]
        elif data := heads.compared(data):
            units.append(data)
    if not units:
        raise ValueError(
            f"no thought with a label of {config.judge!r} can be learned from by {config.kind}"
            + ("; it needs problems with a right and a wrong thought" if config.kind == "bradley_terry" else "")
        )
    return units


def _labels(trace: Trace, config: Config) -> list[float | None]:
    """What the head should say at each step; `None` is no target.

    A step that claims nothing is as right as what stands before it (a neutral step counts as right, arXiv 2305.20050,
    section 2.6): the head is read there too, and has to have learned what to say.
    """
    verdict, steps = trace.verdicts[config.judge], list(_steps(trace, config))
    if config.kind == "process" or (config.kind == "value" and steps):
        labels = steps or [None] * len(trace.steps)
        if config.judge not in VALUES and steps:
            for at, (label, step) in enumerate(zip(labels, trace.steps, strict=True)):
                if label is None and step.sampled:
                    labels[at] = next((before for before in reversed(labels[:at]) if before is not None), 1.0)
        if config.first_error and 0.0 in labels:
            behind = labels.index(0.0) + 1
            labels[behind:] = [None] * (len(labels) - behind)
    else:
        sampled = [step.sampled and bool(step.tokens or step.text) for step in trace.steps]
        last = max((at for at, ours in enumerate(sampled) if ours), default=None)
        places = [ours if config.kind == "value" else at == last for at, ours in enumerate(sampled)]
        labels = [verdict.score if here else None for here in places]
    return [None if label is None else float(label > 0) if config.hard else label for label in labels]


def _aggregate(config: Config) -> Aggregate:
    if config.aggregate != "auto":
        return config.aggregate  # type: ignore[return-value]  # checked when the config was made
    return AGGREGATES["value" if config.judge in VALUES or config.kind != "process" else "correctness"]


def score(traces: Sequence[Trace], verify: Verify, name: str, *, progress: Callable[[], object] = bool) -> list[Trace]:
    """The traces with `verify`'s verdict under `name`; all are asked for at once, `progress` is called after each."""

    async def one(trace: Trace) -> Trace:
        verdict = await verify(trace.messages, trace.steps)
        progress()
        return noted(trace, name, verdict)

    async def every() -> list[Trace]:
        return await asyncio.gather(*map(one, traces))

    return asyncio.run(every())


def _finish(config: Config, run: Run, student: Student, head: Head, held: Sequence[Sequence[Trace]]) -> None:
    """Put the head into the last checkpoint, and say what it is worth on the problems held out."""
    folder = checkpoint.latest(run.folder)
    assert folder is not None
    save(folder, head)
    traces = [trace for group in held for trace in group[: config.eval_samples]]
    if not traces or any(stage.name == config.kind for stage in run.stages):
        return
    judged = score(traces, open_verifier(str(folder), student.engine), config.kind)
    if config.kind == "bradley_terry":  # pairs leave the reward's zero open: it is that of an average thought
        rewards = [trace.verdicts[config.kind].parts["reward"] for trace in judged]
        head = replace(head, bias=head.bias - math.fsum(rewards) / len(rewards))
        save(folder, head)
        judged = score(traces, open_verifier(str(folder), student.engine), config.kind)
    worth = judgement(judged, config.kind)
    if config.kind == "process":
        worth |= location(judged, config.kind, config.judge)
    numbers = {name: None if math.isnan(value) else value for name, value in worth.items()}
    (run.folder / FILE).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {value:.3g}" for name, value in worth.items()))
    seconds = time.perf_counter() - student.began
    stage = Stage(
        config.kind, gather(judged, judge=config.kind), training_tokens=student.training_tokens, seconds=seconds
    )
    ks = tuple(k for k in (1, 2, 4, 8, 16, 32, 64) if k <= max(len(pool.judged) for pool in stage.pools))
    if ks:
        print(table(stage, ks))
        print(run.add(stage, ks, described(config.model), f"{config.kind} verifier"))
