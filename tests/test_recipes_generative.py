"""The recipe of generative verifiers on small tiny models: what they are told, in which words, and their place."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forethought.engines.local.tiny import TinyConfig, build, build_tokenizer
from forethought.engines.scripted import Scripted
from forethought.problems import open_task
from forethought.recipes import generative, verifier
from forethought.scaling.stages import load_report
from forethought.search.seeds import derive
from forethought.store import open_store
from forethought.thought.tokens import render, worked_step
from forethought.train import checkpoint
from forethought.train.data import supervised
from forethought.train.metrics import read
from forethought.types import Messages, Problem, Sampling, Step, Trace, Verdict
from forethought.verify.generative import VERIFICATION, critique_prompt, direct_prompt
from forethought.verify.open import open_verifier

TASK = open_task("letters:words=2")
TOKENIZER = build_tokenizer()
SMALL: dict[str, Any] = {
    "steps": 2, "batch": 4, "lr": 1e-2, "warmup": 1, "save_every": 1, "dtype": "fp32", "eval_problems": 3,
    "eval_samples": 2, "k": 2, "critique_tokens": 24, "problems": TASK.name,
}  # fmt: skip


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "small"
    weights, tokenizer = build(TinyConfig(layers=1, width=32))
    weights.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def thought(problem: Problem, right: bool, spoilt: str = "q") -> Trace:
    """The worked example, or one whose last line and answer end in another letter; graded."""
    assert TASK.worked is not None
    text = TASK.worked(problem)
    if not right:
        wrong = problem.answer[:-1] + (spoilt if problem.answer[-1] != spoilt else "z")
        text = text.replace(f" {problem.answer}\n", f" {wrong}\n").replace(f"{{{problem.answer}}}", f"{{{wrong}}}")
    trace = Trace(problem.id, problem.messages, (worked_step(TOKENIZER, text),), "tiny@1")
    return replace(trace, verdicts={"grade": TASK.grade(problem, trace)})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of two right and three wrong thoughts, two of them alike, of each of eight problems."""
    folder = tmp_path_factory.mktemp("drawn")
    with open_store(folder).writer("drawn") as writer:
        for problem in TASK.load("train", count=8):
            told = [thought(problem, True), *(thought(problem, False, letter) for letter in "qqx")]
            writer.extend(replace(trace, nodes=(number,)) for number, trace in enumerate(told, 1))
    return str(folder)


def config(model: str, out: Path, **options: Any) -> generative.Config:
    return generative.Config(model=model, out=str(out), **{**SMALL, **options})


def course(folder: Path) -> list[dict[str, Any]]:
    """What was logged, less the clock."""
    return [{k: v for k, v in row.items() if k != "time"} for row in read(folder)]


def labelled(grade: float, *steps: tuple[str, float | None]) -> Trace:
    labels = tuple(label for _, label in steps)
    verdicts = {"grade": Verdict(grade), "true": Verdict(0.0, labels)}
    return Trace("p", (), tuple(Step(text) for text, _ in steps), "tiny@1", verdicts=verdicts)


def test_step_labels_become_a_critique_down_to_the_first_mistake() -> None:
    sound = labelled(1.0, ("<think>\n", None), ("ab: b\n", 1.0), ("</think>\n", None), ("\\boxed{b}", 1.0))
    assert generative.by_labels(sound) == "ab: b ok\n\\boxed{b} ok"
    wrong = labelled(0.0, ("ab: a\n", 0.0), ("cd: ad\n", 0.0), ("\\boxed{ad}", 0.0))
    assert generative.by_labels(wrong) == "ab: a wrong"


@pytest.mark.parametrize(
    "trace",
    [
        labelled(0.0, ("ab: b\n", 1.0)),  # nothing is wrong in it, but it never answers
        labelled(1.0, ("ab: a\n", 0.0), ("\\boxed{b}", 1.0)),  # right, by another way
        labelled(0.0, ("hm", None)),
    ],
)
def test_a_critique_that_contradicts_the_grade_is_left_out(trace: Trace) -> None:
    assert generative.by_labels(trace) is None


@pytest.mark.parametrize("kind", generative.KINDS)
def test_judgements_are_asked_for_and_worded_as_at_test_time(kind: str, model: str, tmp_path: Path) -> None:
    problems = TASK.load("train", count=4)
    told: list[tuple[Trace, str | None]] = [
        (thought(problem, number != 1), "ab: b ok") for number, problem in enumerate(problems)
    ]
    told.append((thought(problems[0], False), None))
    data = generative.balanced(told, TOKENIZER, config(model, tmp_path, kind=kind))
    assert len(data) == 2  # one wrong one has a critique, so one right one is drawn
    ask = direct_prompt if kind == "generative" else critique_prompt
    texts = []
    for one in data:
        start = one.mask.index(True)
        assert all(one.mask[start:])
        assert set(one.weights[start:]) == {1.0}
        assert one.tokens[-1] == TOKENIZER.eos_token_id
        texts.append(TOKENIZER.decode(one.tokens[start:-1]))
        asked = [render(TOKENIZER, ask(trace.messages, trace.steps), [])[0] for trace, _ in told]
        assert one.tokens[:start] in asked
        right = texts[-1].endswith("Yes")
        assert told[asked.index(one.tokens[:start])][0].reward == right
    begin = "" if kind == "generative" else f"ab: b ok\n{VERIFICATION} "
    assert sorted(texts) == [f"{begin}No", f"{begin}Yes"]


def test_without_a_wrong_thought_there_is_nothing_to_tell_apart(model: str, tmp_path: Path) -> None:
    told = [(thought(problem, True), "") for problem in TASK.load("train", count=3)]
    with pytest.raises(ValueError, match="3 right and 0 wrong thoughts"):
        generative.balanced(told, TOKENIZER, config(model, tmp_path))


def test_both_losses_are_means_over_their_own_targets() -> None:
    say, solve = (
        supervised([(TASK.load("train", count=1)[0].messages, text)], TOKENIZER) for text in ("No", "abcdefgh")
    )
    data, divisor = generative.joint(say * 2, solve, 0.5)
    targets = [sum(one.weights) for one in data]
    assert divisor == 2 * 3  # two letters and the end
    assert targets == pytest.approx([3, 3, 0.5 * divisor])
    assert generative.joint(say, [], 0.5) == (say, 3.0)


def test_a_critic_sees_the_answer_and_what_it_says_is_kept_where_its_verdict_is_the_grade(
    model: str, tmp_path: Path
) -> None:
    problem, other = TASK.load("train", count=2)
    right, wrong, lost = thought(problem, True), thought(problem, False), thought(other, False)

    def critic(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> str:
        asked = messages[-1]["content"]
        assert f"({problem.answer})" in asked or f"({other.answer})" in asked
        said = f"Critique {call}.\n{VERIFICATION}"
        if f"({other.answer})" in asked:
            return f"{said} Yes"  # never what the grade says
        if right.text in asked:
            return f"{said} Yes"
        return f"{said} {'No' if sampling.seed == seeds[1] else 'Yes, no'}"

    asked = config(model, tmp_path, kind="chain_of_thought", critic="scripted", tries=3, critique_tokens=99)
    seeds = [derive(asked.seed, "critique", wrong.problem_id, wrong.text, number) for number in range(3)]
    engine = Scripted(critic)
    known = {problem.id: problem, other.id: other}
    found = asyncio.run(generative._criticised([right, wrong, lost], known, engine, asked))
    told = {trace.text: said for trace, said in found}
    assert told[lost.text] is None
    assert told[right.text] == "Critique 0."
    assert (told[wrong.text] or "").startswith("Critique ")
    assert engine.calls == 1 + 2 + 3


def test_so_many_right_and_wrong_thoughts_of_a_problem_none_twice(drawn: str) -> None:
    group = list(open_store(drawn).traces())[:4]
    kept = generative.distinct(group, 4, 0)
    assert Counter(trace.reward for trace in kept) == {1.0: 1, 0.0: 2}
    kept = generative.distinct(group, 1, 0)
    assert Counter(trace.reward for trace in kept) == {1.0: 1, 0.0: 1}


@pytest.mark.parametrize(("kind", "solve"), [("generative", 0.0), ("chain_of_thought", 0.5)])
def test_a_run_leaves_a_verifier_and_one_that_was_killed_goes_on_to_the_bit(
    kind: str, solve: float, model: str, drawn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(model, tmp_path / "whole", kind=kind, store=drawn, solve=solve, steps=3)
    whole = generative.main(asked)
    assert len(course(whole)) == 3
    worth = json.loads((whole / verifier.FILE).read_text())
    assert {"auc", "pair_accuracy", "accuracy", "ece"} <= set(worth)
    assert worth["thoughts"] == 3 * 2
    (stage,) = load_report(whole).stages
    assert all(sample.judged is not None and sample.judge_tokens for pool in stage.pools for sample in pool.samples)
    assert (whole / "report.html").is_file()
    save = checkpoint.save

    def dying(run: Path, step: int, *args: Any, **options: Any) -> Path:
        found = save(run, step, *args, **options)
        if step == 2:
            raise Killed
        return found

    monkeypatch.setattr(checkpoint, "save", dying)
    part = replace(asked, out=str(tmp_path / "part"))
    with pytest.raises(Killed):
        generative.main(part)
    monkeypatch.setattr(checkpoint, "save", save)
    generative.main(part, tmp_path / "part")
    assert course(whole) == course(tmp_path / "part")
    ours, theirs = (load_file(next(run.glob("checkpoints/*3/model.safetensors"))) for run in (whole, tmp_path / "part"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    (trace, *_) = open_store(drawn).traces(limit=1)
    options: dict[str, Any] = {} if kind == "generative" else {"k": 2, "sampling": Sampling(24, seed=0)}
    (scored,) = verifier.score([trace], open_verifier(f"{kind}:{whole}", dtype="fp32", **options), "v")
    assert 0 < (scored.verdicts["v"].score or 0) < 1


def test_a_verifier_learns_to_say_no(model: str, drawn: str, tmp_path: Path) -> None:
    """What is told more often is believed more: forty steps on the wrong thoughts of one letter."""
    run = generative.main(config(model, tmp_path, store=drawn, steps=40, save_every=40, solve=0.0, eval_problems=0))
    assert course(run)[-1]["nll"] < 0.5 * course(run)[0]["nll"]


def test_what_is_asked_wrongly_is_refused_before_anything_is_learned(model: str, drawn: str, tmp_path: Path) -> None:
    def refuses(match: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            generative.main(config(model, tmp_path / str(random.random()), **{"store": drawn, **options}))

    refuses("kind is 'cot'; choose from generative, chain_of_thought", kind="cot")
    refuses("critic is 'tiny', and generative writes no critique", critic="tiny")
    refuses("eval_temperature is 0", eval_temperature=0.0)
    refuses("solve is -1", solve=-1.0)
    refuses("tries is 0", tries=0)
    refuses("countdown does not know which steps are right.*--critic", kind="chain_of_thought", problems="countdown")
