"""The lab of step labels: its searches and labels against counts made by hand, and the whole of it, small, twice."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forethought import rollout
from forethought.engines.scripted import Scripted
from forethought.labs import first_error, label_quality, selection, step_labels
from forethought.recipes.label import Completer
from forethought.store import open_store
from forethought.types import Problem, Sampling, Step, Trace, Verdict, user

SMALL = step_labels.Config(
    seeds=(3,), steps=1, modulus=3, layers=1, width=32, cold_examples=64, cold_steps=60, cold_batch=8, cold_lr=1e-2,
    weak_steps=50, strong_steps=1, max_tokens=40, examples=8, samples=4, verifier_steps=2, problems=2,
    bank=4, labelled=2, thoughts=2, drawn=2, searched=2, ks=(1, 2), lengths=(2, 4, 8), scripted=4, reliability=(0.7,),
)  # fmt: skip
"""One link modulo 3, so that some thoughts of a model of a second's training are right."""


def thought(*texts: str) -> Trace:
    steps = tuple(Step(text, tuple(map(ord, text))) for text in texts)
    return Trace("p", user("?"), steps, "scripted", verdicts={"grade": Verdict(0.0)})


@pytest.mark.parametrize("truth", range(8))
def test_halves_look_at_log2_places_and_one_after_the_other_at_all_up_to_the_error(truth: int) -> None:
    """A completer that never errs: every place says what it is, each search ends on the error."""
    texts = [first_error.BAD if at >= truth else first_error.GOOD for at in range(8)]
    engine = Scripted(first_error.reliable(8, 1 - 1e-12))
    worker = Completer(engine, first_error._grade, Sampling(1000, seed=0), first_error._decode, 4)
    problem = Problem("p", user("?"), "")
    found = asyncio.run(first_error.searched(problem, thought(*texts), truth, worker, (1, 4), lambda count: 1.0))
    assert [(one.search, one.k) for one in found] == [("binary", 1), ("linear", 1), ("binary", 4), ("linear", 4)]
    linear = min(truth + 1, 7)
    assert [one.rollouts for one in found] == [3, linear, 12, 4 * linear]
    assert all((one.off, one.zeros, one.expected) == (0, 0, 0.0) for one in found)
    assert found[1].sound == min(truth, 7)
    assert found[1].tokens == sum(len(first_error.GOOD) * (8 - count) for count in range(1, linear + 1))


def test_a_sound_place_is_taken_for_hopeless_as_often_as_the_form_says() -> None:
    rows = asyncio.run(first_error.scripted(16, 0.9, 60, (1, 2, 4)))
    assert {one.steps for one in rows} == {16}
    for k in (1, 2, 4):
        own = [one for one in rows if one.k == k]
        sound = sum(one.sound for one in own)
        zeros, expected = sum(one.zeros for one in own) / sound, sum(one.expected for one in own) / sound
        assert zeros == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / sound))
        assert {one.off > 0 for one in own if one.off is not None} == {False}  # nothing mends a wrong step
    with pytest.raises(ValueError, match="lower reliability"):
        asyncio.run(first_error.scripted(2, 1 - 1e-9, 1, (1,)))


def test_places_are_sound_up_to_the_first_error_and_the_last_step_is_none() -> None:
    labels = {"true": Verdict(0.0, (None, 1.0, 0.0, 1.0, 0.0)), "a": Verdict(0.0, (1.0, 0.75, 0.5, 0.0, 0.0))}
    trace = replace(thought("", "a", "b", "c", "d"), verdicts=labels)
    places = label_quality.places_of([trace], "a", 4)
    assert [(one.sound, one.right, one.drawn) for one in places] == [(True, 3, 4), (False, 2, 4), (False, 0, 4)]
    row = label_quality.table([places], [places]).splitlines()[3].split()
    assert [row[0], row[1], row[3], row[4]] == ["1", "25.0", "25.0]", "25.0"]  # missed, and (1 - p)^1
    assert row[6] == "25.0"  # passed: the mean of 1/2 and 0


def test_step_scores_are_combined_in_every_way_and_each_arm_chooses_by_its_own() -> None:
    """Two thoughts of one problem: the wrong one has the better last step and the worse product."""

    def judged(right: bool, *scores: float | None) -> Trace:
        verdicts = {"grade": Verdict(float(right), answer="12"[right]), "process": Verdict(0.0, scores)}
        return replace(thought("a", "b"), verdicts={**verdicts, "outcome": Verdict(float(not right))})

    bank = [judged(True, 0.9, 0.6), judged(False, 0.2, 0.7)]
    pools = selection.arms(bank, ("outcome", "process"))
    assert list(pools) == ["vote", "outcome", "last", "min", "product", "mean"]
    best = {name: selection._metric(name, 2)(pool)[0] for name, pool in pools.items()}
    assert best == {"vote": pytest.approx(0.5), "outcome": 0, "last": 0, "min": 1, "product": 1, "mean": 1}
    lines = selection.table([bank], ("outcome", "process")).splitlines()
    assert lines[-1] == "bank 0, of 2: vote 50.0, outcome 0.0, last 0.0, min 100.0, product 100.0, mean 100.0"
    silent = [replace(trace, verdicts={"grade": trace.verdicts["grade"]}) for trace in bank]
    assert selection._metric("product", 2)(selection.arms(silent, ())["product"]) == 0.5  # not scored, not wrong


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def test_the_lab_goes_on_where_it_was_killed_and_prints_the_same_tables_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(SMALL, out=str(tmp_path / "lab"))
    step_labels.main(replace(asked, arms=("cold",)))
    assert [place.parent.name for place in tmp_path.glob("lab/*/done")] == ["cold-3"]
    assert "thoughts each" not in capsys.readouterr().out
    drawn: list[str] = []
    collect = rollout.collect

    def dying(problems: list[Problem], *args: Any, **options: Any) -> list[list[Trace]]:
        if len(drawn) == 1:
            raise Killed
        drawn.extend(problem.id for problem in problems)
        return collect(problems, *args, **options)

    monkeypatch.setattr(step_labels, "collect", dying)
    with pytest.raises(Killed):
        step_labels.main(asked)
    monkeypatch.setattr(step_labels, "collect", lambda *args, **options: collect(*args, **options))
    step_labels.main(asked)
    tables = capsys.readouterr().out.partition("2 problems, 4 thoughts each")[2]
    assert {place.parent.name for place in tmp_path.glob("lab/*/done")} == {f"{arm}-3" for arm in step_labels.ARMS}
    banked = list(open_store(asked.folder("judged", 3) / "store").traces())
    assert len({trace.problem_id for trace in banked}) == 2
    assert len(banked) == 8
    assert all(set(trace.verdicts) == {"grade", *step_labels.VERIFIERS} for trace in banked)
    assert all(len(trace.verdicts["process"].steps) == len(trace.steps) for trace in banked)
    for trace in open_store(asked.folder("places", 3) / "store").traces():
        assert {f"{who} {part}" for who in step_labels.COMPLETERS for part in step_labels.PARTS} < set(trace.verdicts)
    for name in ("collect", "open_engine", "open_verifier"):
        monkeypatch.delattr(step_labels, name)  # nothing is drawn or judged again
    step_labels.main(asked)
    assert capsys.readouterr().out.partition("2 problems, 4 thoughts each")[2] == tables
    assert "scripted completer, 0.7 a step, 8 steps" in tables
    with pytest.raises(ValueError, match="begun with other settings: bank was 4 and is 5"):
        step_labels.main(replace(asked, bank=5))


def test_what_is_asked_wrongly_is_refused() -> None:
    with pytest.raises(ValueError, match="weak_steps is 60; it must be from 1 to 59"):
        replace(SMALL, weak_steps=60)
    with pytest.raises(ValueError, match=r"reliability is \(0.9, 1.0\)"):
        replace(SMALL, reliability=(0.9, 1.0))
    with pytest.raises(ValueError, match="at least one number"):
        replace(SMALL, ks=())
    with pytest.raises(ValueError, match="there is no arm 'warm' in this lab; there is cold, strong, bank, learned"):
        replace(SMALL, arms=("warm",))
    with pytest.raises(ValueError, match="bank is 0"):
        replace(SMALL, bank=0)
