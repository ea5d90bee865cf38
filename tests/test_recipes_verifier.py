"""The verifier recipe on small tiny models: what it learns from, its place after a kill, what it leaves behind."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forethought.engines.local.tiny import TinyConfig, build, build_tokenizer
from forethought.problems import open_task
from forethought.recipes import sft, verifier
from forethought.recipes.label import cut
from forethought.scaling.stages import load_report
from forethought.store import open_store
from forethought.store.labels import PEOPLE, moves
from forethought.thought.tokens import worked_step
from forethought.train import checkpoint
from forethought.train.metrics import read
from forethought.types import Problem, Trace, Verdict
from forethought.verify import heads
from forethought.verify.open import open_verifier

TASK = open_task("chain:steps=2,modulus=5")
TOKENIZER = build_tokenizer()
SMALL: dict[str, Any] = {
    "steps": 2, "batch": 4, "lr": 1e-2, "warmup": 1, "save_every": 1, "dtype": "fp32", "eval_problems": 4,
    "problems": TASK.name,
}  # fmt: skip


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small checkpoint to learn on."""
    folder = tmp_path_factory.mktemp("model") / "trunk"
    model, tokenizer = build(TinyConfig(layers=1, width=32, context=128))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def thought(problem: Problem, rng: random.Random, sound: bool) -> Trace:
    """The worked example, or one whose lines go wrong at one place and follow from there; graded."""
    task_text = TASK.worked(problem) if TASK.worked else ""
    value, modulus = problem.meta["start"], problem.meta["modulus"]
    at = -1 if sound else rng.randrange(len(problem.meta["moves"]))
    lines = []
    for number, (name, move) in enumerate(zip("bc", problem.meta["moves"], strict=True)):
        result = {"+": value + int(move[1:]), "-": value - int(move[1:]), "*": value * int(move[1:])}[move[0]]
        rest = (result + (rng.randrange(1, modulus) if number == at else 0)) % modulus
        lines.append(f"{name}={value}{move}={result}={rest}")
        value = rest
    head, _, _ = task_text.partition("\n")
    text = "\n".join([head, *lines, "</think>", f"\\boxed{{{value}}}"])
    trace = Trace(problem.id, problem.messages, (worked_step(TOKENIZER, text),), "tiny@1")
    return replace(trace, verdicts={"grade": TASK.grade(problem, trace)})


def fill(folder: Path, problems: int = 12, each: int = 4, seed: int = 0) -> Path:
    """A store of right and wrong thoughts, one step each, as a search has them."""
    rng = random.Random(seed)
    with open_store(folder).writer("drawn") as writer:
        for problem in TASK.load("train", count=problems):
            for number in range(each):
                writer.append(replace(thought(problem, rng, sound=number % 2 == 0), nodes=(number + 1,)))
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(fill(tmp_path_factory.mktemp("drawn")))


def config(trunk: str, out: Path, **options: Any) -> verifier.Config:
    return verifier.Config(model=trunk, out=str(out), **{**SMALL, **options})


def course(folder: Path) -> list[dict[str, Any]]:
    """What was logged, less the clock."""
    return [{k: v for k, v in row.items() if k != "time"} for row in read(folder)]


@pytest.mark.parametrize("kind", list(verifier.DEFAULT_LABELS))
def test_every_kind_learns_and_leaves_a_verifier(kind: str, trunk: str, drawn: str, tmp_path: Path) -> None:
    run = verifier.main(config(trunk, tmp_path / "run", kind=kind, store=drawn, steps=3))
    rows = course(run)
    assert len(rows) == 3
    assert {"loss", "accuracy", "grad_norm"} <= set(rows[0])
    folder = checkpoint.latest(run)
    assert folder is not None
    head = heads.load(folder)
    assert head.kind == kind
    assert head.aggregate == ("product" if kind == "process" else "last")
    assert any(head.weight)
    worth = json.loads((run / verifier.FILE).read_text())
    assert {"auc", "pair_accuracy", "accuracy", "ece"} <= set(worth)
    assert ("first_error" in worth) == (kind == "process")
    (stage,) = load_report(run).stages
    assert all(sample.judged is not None for pool in stage.pools for sample in pool.samples)
    assert (run / "report.html").is_file()
    traces = [cut(trace, TOKENIZER.decode) for trace in open_store(drawn).traces(limit=4)]
    scored = verifier.score(traces, open_verifier(str(run), dtype="fp32"), "v")
    assert all(0 < (trace.verdicts["v"].score or 0) < 1 for trace in scored)
    if kind == "process":
        assert [len(trace.verdicts["v"].steps) for trace in scored] == [len(trace.steps) for trace in traces]


def test_what_people_said_on_the_page_trains_a_process_verifier(trunk: str, tmp_path: Path) -> None:
    """They say of each line what the task knows: the same is learned as from the task's own labels."""
    store = open_store(fill(tmp_path / "store"))
    problems = {problem.id: problem for problem in TASK.load("train", count=12)}
    assert TASK.labels is not None
    for number, trace in enumerate(store.traces()):
        known = dict(
            zip(moves(trace), TASK.labels(problems[trace.problem_id], cut(trace, TOKENIZER.decode)), strict=True)
        )
        for move in filter(lambda move: move.asked, known):
            label = {None: 0, 0.0: -1, 1.0: 1}[known[move]]
            store.labels.put(trace, ("ann", "bob")[number % 2], move.end, label)
    asked = config(trunk, tmp_path / "people", kind="process", store=str(store.path), labels=PEOPLE)
    run = verifier.main(asked)
    assert "first_error" in json.loads((run / verifier.FILE).read_text())
    task = verifier.main(replace(asked, out=str(tmp_path / "task"), labels="true"))
    assert course(run) == course(task)


@pytest.mark.parametrize(("killed_after", "freeze"), [(1, False), (5, False), (3, True)])
def test_a_run_killed_anywhere_goes_on_to_the_bit(
    killed_after: int, freeze: bool, trunk: str, drawn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(trunk, tmp_path / "whole", store=drawn, steps=6, freeze=freeze, eval_problems=4 * freeze)
    whole = verifier.main(asked)
    save = checkpoint.save

    def dying(run: Path, step: int, *args: Any, **options: Any) -> Path:
        found = save(run, step, *args, **options)
        if step == killed_after:
            raise Killed
        return found

    monkeypatch.setattr(checkpoint, "save", dying)
    part = replace(asked, out=str(tmp_path / "part"))
    with pytest.raises(Killed):
        verifier.main(part)
    monkeypatch.setattr(checkpoint, "save", save)
    verifier.main(part, tmp_path / "part")
    assert course(whole) == course(tmp_path / "part")
    last = [checkpoint.latest(folder) for folder in (whole, tmp_path / "part")]
    assert last[0] is not None
    assert last[1] is not None
    assert heads.load(last[0]) == heads.load(last[1])
    ours, theirs = (load_file(folder / "model.safetensors") for folder in last if folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    before = load_file(Path(trunk) / "model.safetensors")
    assert all(torch.equal(ours[name], before[name]) for name in before) == freeze
    worth = [folder / verifier.FILE for folder in (whole, tmp_path / "part")]
    assert [path.exists() for path in worth] == [freeze] * 2
    assert not freeze or worth[0].read_text() == worth[1].read_text()


def test_without_a_store_it_draws_its_own_thoughts_once(
    trunk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)

    def luck(problem: Problem, trace: Trace) -> Verdict:
        return Verdict(float(rng.random() < 0.5))

    monkeypatch.setattr(verifier, "open_task", lambda spec, **columns: replace(TASK, grade=luck))
    asked = config(trunk, tmp_path / "run", examples=6, samples=3, max_tokens=12, eval_problems=2)
    save = checkpoint.save

    def dying(*args: Any, **options: Any) -> Path:
        save(*args, **options)
        raise Killed

    monkeypatch.setattr(checkpoint, "save", dying)
    with pytest.raises(Killed):
        verifier.main(asked)
    monkeypatch.setattr(checkpoint, "save", save)
    graded = rng.getstate()
    run = verifier.main(asked, tmp_path / "run")
    assert rng.getstate() == graded  # nothing was drawn again
    assert len(list(open_store(run / "store").traces())) == 8 * 3
    assert len(course(run)) == 2


def traces_of(folder: str) -> list[Trace]:
    return [cut(trace, TOKENIZER.decode) for trace in open_store(folder).traces()]


def test_no_question_is_both_learned_from_and_held_out(trunk: str, drawn: str, tmp_path: Path) -> None:
    asked = config(trunk, tmp_path, eval_problems=5)
    traces = traces_of(drawn)
    twins = [replace(trace, problem_id=f"again/{trace.problem_id}") for trace in traces]
    learn, held = verifier.divided([*traces, *twins], asked)
    assert len(held) == 5
    assert not {str(t.messages) for group in learn for t in group} & {str(t.messages) for group in held for t in group}
    assert sum(map(len, learn)) + sum(map(len, held)) == 2 * len(traces)
    assert verifier.divided(traces, asked)[1] == verifier.divided(traces, asked)[1]
    _, all_but = verifier.divided(traces, replace(asked, eval_problems=999))
    assert len(all_but) == len({str(trace.messages) for trace in traces}) // 2


def test_so_many_right_and_wrong_thoughts_of_a_problem(trunk: str, drawn: str, tmp_path: Path) -> None:
    group = traces_of(drawn)[:4]
    assert [trace.reward for trace in group] == [1, 0, 1, 0]
    units = verifier._units([group], config(trunk, tmp_path), TOKENIZER)
    assert sorted(unit[0].labels[-1] for unit in units) == [0.0, 0.0, 1.0, 1.0]
    one = verifier._units([group], config(trunk, tmp_path, per_problem=1), TOKENIZER)
    assert [unit[0].labels[-1] for unit in one] == [1.0, 0.0]
    (pair,) = verifier._units([group], config(trunk, tmp_path, kind="bradley_terry"), TOKENIZER)
    assert len({datum.pair for datum in pair}) == 1
    with pytest.raises(ValueError, match="a right and a wrong thought"):
        verifier._units([[group[0]]], config(trunk, tmp_path, kind="bradley_terry"), TOKENIZER)


def test_what_each_kind_is_told(trunk: str, drawn: str, tmp_path: Path) -> None:
    labels = {"mc": (0.25, None, 0.0, 0.5, 1.0), "people": (None, 1.0, 0.0, None, None)}
    verdicts = {"grade": Verdict(1.0), **{judge: Verdict(1.0, steps) for judge, steps in labels.items()}}
    trace = replace(traces_of(drawn)[0], verdicts=verdicts)
    assert len(trace.steps) == 5

    def told(**options: Any) -> list[float | None]:
        return verifier._labels(trace, config(trunk, tmp_path, **options))

    assert told(kind="outcome") == told(kind="bradley_terry") == [None, None, None, None, 1.0]
    assert told(kind="value") == [1.0] * 5
    assert told(kind="value", labels="mc") == told(kind="process", labels="mc") == [0.25, None, 0.0, 0.5, 1.0]
    assert told(kind="process", labels="people") == [
        1.0,
        1.0,
        0.0,
        0.0,
        0.0,
    ]  # what claims nothing takes after its past
    assert told(kind="process", labels="people", first_error=True) == [1.0, 1.0, 0.0, None, None]
    assert told(kind="process", labels="mc", hard=True) == [1.0, None, 0.0, 1.0, 1.0]
    assert verifier._aggregate(config(trunk, tmp_path, kind="process", labels="mc")) == "last"
    assert verifier._aggregate(config(trunk, tmp_path, kind="process", labels="people")) == "product"
    assert verifier._aggregate(config(trunk, tmp_path, kind="process", aggregate="min")) == "min"


def test_labels_of_people_stay_with_the_steps_they_judged(trunk: str, tmp_path: Path) -> None:
    """Two people's steps of several lines each are not cut into moves that nobody judged."""
    rng = random.Random(0)
    traces = []
    for problem in TASK.load("train", count=4):
        trace = thought(problem, rng, sound=True)
        traces.append(
            replace(trace, verdicts={**trace.verdicts, "people": Verdict(None, (float(rng.random() < 0.5),))})
        )
    with open_store(tmp_path / "store").writer("r") as writer:
        writer.extend(traces)
    asked = config(
        trunk, tmp_path / "run", kind="process", labels="people", store=str(tmp_path / "store"), balance=False
    )
    run = verifier.main(asked)
    assert sum(row["targets"] for row in course(run)) == 8  # two steps of four thoughts with one label each


def test_what_is_asked_wrongly_is_refused_before_anything_is_learned(trunk: str, drawn: str, tmp_path: Path) -> None:
    def refuses(match: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            verifier.main(config(trunk, tmp_path / str(random.random()), **{"store": drawn, **options}))

    refuses("kind is 'prm'", kind="prm")
    refuses("aggregate is 'max'", aggregate="max")
    refuses("freeze is set", freeze=True, lora_rank=4)
    refuses("batch is 0", batch=0)
    refuses("first_error is set", first_error=True, kind="outcome")
    refuses("no run 'other'; choose --run from drawn", run="other")
    refuses("holds no store", store=str(tmp_path))
    refuses("a verdict of 'mc'; they have grade", labels="mc")
    with open_store(tmp_path / "two").writer("first") as writer:
        writer.extend(open_store(drawn).traces(min_reward=1.0))
    refuses("all 12 labels are right", store=str(tmp_path / "two"), eval_problems=6)
    with open_store(tmp_path / "two").writer("second") as writer:
        step = replace(next(open_store(drawn).traces()).steps[0], tokens=(100_000,))
        writer.append(replace(next(open_store(drawn).traces()), steps=(step,)))
    refuses("has not one run; choose --run from first, second", store=str(tmp_path / "two"))
    refuses("the same tokenizer", store=str(tmp_path / "two"), run="second")


@pytest.mark.slow
def test_an_outcome_head_learns_to_judge_chains_in_a_minute(tmp_path: Path) -> None:
    """A policy that is hot enough to err, its own thoughts, their grades: AUC on problems held out."""
    taught: dict[str, Any] = {"problems": TASK.name, "batch": 32, "max_tokens": 48}
    cold = sft.Config(
        **taught, examples=4000, steps=700, lr=3e-3, layers=2, width=64, eval_problems=0, out=str(tmp_path / "cold")
    )
    asked = verifier.Config(
        **taught, model=str(sft.main(cold)), steps=200, lr=1e-3, eval_temperature=1.7, out=str(tmp_path / "run")
    )
    began = time.process_time()
    run = verifier.main(asked)
    worth = json.loads((run / verifier.FILE).read_text())
    assert 0.2 < worth["right"] < 0.8
    assert worth["auc"] > 0.8
    assert time.process_time() - began < 60
