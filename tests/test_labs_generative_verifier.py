"""The lab of generative verifiers, on hand-made thoughts and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from forethought.engines.local.tiny import build_tokenizer
from forethought.labs import generative_verifier as lab
from forethought.problems import Task
from forethought.recipes import generative, verifier
from forethought.recipes.run import write_config
from forethought.recipes.student import Student
from forethought.scaling.measure import gather
from forethought.store import open_store
from forethought.thought.tokens import prompt_tokens
from forethought.types import Messages, Problem, Step, Trace, Verdict, user
from forethought.verify.generative import critique_prompt

TOKENIZER = build_tokenizer()
HALF = 16
"""Of the thoughts of each problem, those that are right."""


def thoughts(problem: str, arm: str, belief: Sequence[float], parts: dict[str, float] | None = None) -> list[Trace]:
    """32 thoughts of 10 tokens, every other one right; right ones are judged `belief[0]`, the others `belief[1]`."""
    found = []
    for number in range(2 * HALF):
        wrong = number % 2
        step = Step(f"\\boxed{{{'no' if wrong else 'ok'}}}", tokens=tuple(range(10)))
        verdicts = {
            "grade": Verdict(float(not wrong), answer="no" if wrong else "ok"),
            arm: Verdict(belief[wrong], parts=parts or {}, cost=30),
        }
        found.append(Trace(problem, user(problem), (step,), "tiny@1", nodes=(number + 1,), verdicts=verdicts))
    return found


def test_the_table_has_tokens_and_a_vote_of_as_many_beside_each_number() -> None:
    arms = {
        "head": [*thoughts("a", "head", (0.2, 0.9)), *thoughts("b", "head", (0.2, 0.9))],
        "word": [*thoughts("a", "word", (0.9, 0.2)), *thoughts("b", "word", (0.9, 0.2))],
    }
    text = lab.table("6", arms, arms["head"], (1,), TOKENIZER)
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert rows[0].startswith("6 words: pass@1 50.0")
    assert rows[1] == "n 1 2 4 8 16 32"
    assert rows[2].startswith("pass@n 50 76 ")  # 1 - (16 * 15) / (32 * 31)
    assert rows[3].startswith("head: AUC 0.000 [0.000, 0.000]")
    assert rows[4] == "best of n 50 24 5 0 0 0"
    assert rows[5] == "tokens 40 80 160 320 640 1,280"
    assert rows[6] == "a vote of as many 50 50 50 50 50 50"
    assert rows[7].startswith("word: AUC 1.000")
    assert rows[8].split()[-1] == "100"
    assert rows[-1].startswith("word over head, best of 32: 100.0")
    assert "not clear" not in rows[-1]


def test_fewer_critiques_are_the_first_ones_and_cost_their_share() -> None:
    parts = {"critique 1": 0.2, "critique 2": 0.6, "critique 4": 1.0}
    trace = replace(thoughts("a", "critique", (0.6, 0.6), parts)[0], messages=user("a"))
    prompt = len(prompt_tokens(TOKENIZER, critique_prompt(trace.messages, trace.steps)))
    whole = replace(
        trace, verdicts={**trace.verdicts, "critique": replace(trace.verdicts["critique"], cost=prompt + 400)}
    )

    def of(k: int) -> Verdict:
        return lab.averaged(whole, "critique", k, 4, TOKENIZER).verdicts["critique"]

    assert [of(k).score for k in (1, 2, 3, 4)] == pytest.approx([0.2, 0.4, 0.4, 0.6])
    assert [of(k).cost - prompt for k in (1, 2, 4)] == [100, 200, 400]
    unread = replace(trace, verdicts={"critique": Verdict(0.5, parts={"critique 3": 0.5}, cost=prompt)})
    assert lab.averaged(unread, "critique", 2, 4, TOKENIZER).verdicts["critique"].score is None


def test_auc_counts_comparisons_between_problems_too() -> None:
    traces = [*thoughts("a", "head", (0.4, 0.3)), *thoughts("b", "head", (0.8, 0.7))]
    found = lab.auc_of(gather(traces, judge="head"))
    assert found.value == pytest.approx(0.75)  # right ones of a stand below wrong ones of b
    assert (found.low, found.high) == pytest.approx((0.75, 1.0))  # draws of a alone, or b alone, are told apart


def test_thoughts_of_one_text_are_judged_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = open_store(tmp_path / "bank")
    with bank.writer("test-5") as writer:
        for problem in "ab":
            writer.extend(
                replace(trace, verdicts={"grade": trace.verdicts["grade"]}) for trace in thoughts(problem, "x", (0, 0))
            )
    asked: list[str] = []

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        asked.append(messages[0]["content"] + steps[0].text)
        return Verdict(0.9 if "ok" in steps[0].text else 0.1, cost=7)

    monkeypatch.setattr(lab, "_verify", lambda *given: judge)
    config = lab.Config(out=str(tmp_path))
    for _ in range(2):
        found = lab._judged(config, 0, "word", "5", tmp_path, bank)
        assert len(found) == 4 * HALF
        assert sum(trace.verdicts["word"].cost for trace in found) == 7 * 4 * HALF
        assert all((trace.verdicts["word"].score == 0.9) == (trace.reward == 1) for trace in found)
    assert sorted(asked) == ["a\\boxed{no}", "a\\boxed{ok}", "b\\boxed{no}", "b\\boxed{ok}"]


def test_a_bank_is_drawn_once_and_tests_come_from_the_other_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    class Generator:
        def sample(self, problems: list[Problem], task: Task, n: int, *rest: object) -> list[list[Trace]]:
            drawn.extend(problem.id for problem in problems)
            return [thoughts(problem.id, "x", (0, 0))[:n] for problem in problems]

    monkeypatch.setattr(Student, "load", lambda *given: Generator())
    bank = open_store(tmp_path / "bank")
    config = lab.Config(out=str(tmp_path), learned=3, problems=2, vote=32)
    for _ in range(2):
        lab._draw(config, 0, tmp_path, bank)
    runs = {run.name: run.traces for run in bank.summary().runs}
    assert runs == {"train": 3 * 2, "test-2-4": 2 * 32, "test-5": 2 * 32, "test-6": 2 * 32}
    assert [id.split("/")[:2] for id in drawn] == [
        *[["letters:words=2-4", "train"]] * 3, *[["letters:words=2-4", "test"]] * 2, *[["letters:words=5", "test"]] * 2,
        *[["letters:words=6", "test"]] * 2,
    ]  # fmt: skip


def test_learned_from_are_as_many_right_as_wrong_thoughts_none_twice() -> None:
    group = [replace(trace, steps=(Step(str(at % 12)),)) for at, trace in enumerate(thoughts("a", "x", (0, 0)))]
    told = lab.pairs([group, group[:1], group[2:3]], seed=0)
    assert [trace.reward for trace in told] == [1.0] * 4 + [0.0] * 4
    assert len({trace.text for trace in told if trace.reward == 0}) == 4
    with pytest.raises(ValueError, match="2 of 2 thoughts are right; change --temperature"):
        lab.pairs([group[:1], group[2:3]], seed=0)


def test_all_arms_learn_from_the_same_thoughts_and_begin_at_the_same_base(tmp_path: Path) -> None:
    config = lab.Config(out=str(tmp_path))
    assert lab.base_of(config, 1).problems == "letters:words=2-6"
    runs = [lab.arm_of(config, 1, arm, Path("base")) for arm in lab.ARMS]
    assert isinstance(runs[0], verifier.Config)
    assert (
        len({(run.model, run.store, run.run, run.problems, run.per_problem, run.steps, run.batch) for run in runs}) == 1
    )
    assert len({run.out for run in runs}) == len(lab.ARMS)
    told = [(run.kind, run.solve) for run in runs[1:] if isinstance(run, generative.Config)]
    assert told == [(kind, solve) for kind in generative.KINDS for solve in (0.0, 1 / 3)]


def test_a_folder_of_another_lab_is_refused_and_other_seeds_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = lab.Config(out=str(tmp_path / "lab"), seeds=(0,))
    write_config(tmp_path / "lab", "generative_verifier", replace(begun, seeds=()), resume=False)
    with pytest.raises(ValueError, match="other settings: steps was 150 and is 7"):
        lab.main(replace(begun, steps=7))

    def reached(run: object) -> Path:
        raise InterruptedError

    monkeypatch.setattr(lab, "finish", reached)
    with pytest.raises(InterruptedError):
        lab.main(replace(begun, seeds=(4,)))


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="vote is 31; it must be at least 32"):
        lab.Config(vote=31)
    with pytest.raises(ValueError, match=r"votes is \(4, 0\)"):
        lab.Config(votes=(4, 0))
    with pytest.raises(ValueError, match="arm is 'prm'; choose from head"):
        lab.arm_of(lab.Config(), 0, "prm", Path("base"))
