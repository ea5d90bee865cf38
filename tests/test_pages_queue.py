"""What a person labels first, how far people agree, and what stands before a step that was edited."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labelling import RUN, TEXT, ends, thought

from forethought.pages.edit import prefix
from forethought.pages.queue import Shelf, queue, uncertainty
from forethought.scaling.labellers import agreement
from forethought.store import Store, open_store
from forethought.store.labels import moves
from forethought.types import Step, Verdict


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = open_store(tmp_path / "runs" / "grpo-1" / "store")
    with opened.writer(RUN) as writer:
        writer.extend(thought(number) for number in range(3))
    return opened


def test_what_a_verifier_doubts_comes_first_and_what_is_done_last(tmp_path: Path) -> None:
    scores = {"sure": 0.99, "doubtful": 0.45, "wrong": 0.02}
    with (store := open_store(tmp_path / "s")).writer("r") as writer:
        writer.extend(
            replace(thought(n), problem_id=name, verdicts={"grade": Verdict(0.5), "prm": Verdict(score)})
            for n, (name, score) in enumerate(scores.items())
        )
        writer.append(replace(thought(9), problem_id="unknown"))
        writer.append(replace(thought(8, "\n"), problem_id="nothing to label"))
    shelf = Shelf()

    def order(who: str, first: Any = "new") -> list[str]:
        rows = queue(shelf.known(store, "r"), store.labels.standing(), who, first)
        return [row["problem"] for row in rows]

    assert order("alice") == ["doubtful", "wrong", "sure", "unknown"]
    traces = {trace.problem_id: trace for trace in store.traces()}
    store.labels.put(traces["sure"], "alice", ends(traces["sure"])[0], 1)  # begun: she goes on with it
    assert order("alice")[0] == "sure"
    assert order("bob")[0] == "doubtful"
    store.labels.put(traces["doubtful"], "bob", ends(traces["doubtful"])[0], -1)
    assert order("bob")[-1] == "doubtful"
    assert order("alice") == ["sure", "wrong", "unknown", "doubtful"]
    assert order("alice", "second") == ["sure", "doubtful", "wrong", "unknown"]


def test_uncertainty_is_that_of_verifiers_at_their_most_doubtful_step() -> None:
    def doubt(**verdicts: Verdict) -> float | None:
        return uncertainty(replace(thought(0), verdicts=verdicts))

    assert doubt(grade=Verdict(0.5), true=Verdict(0.5)) is None
    assert doubt(prm=Verdict(0.9, (0.9, 0.4, None))) == pytest.approx(0.8)
    assert doubt(rm=Verdict(-3.2), vote=Verdict(1.0)) == 0.0
    assert doubt(people=Verdict(0.5), **{"person:bob": Verdict(0.5)}) is None


def test_a_thought_that_was_drawn_twice_is_labelled_once(tmp_path: Path) -> None:
    with (store := open_store(tmp_path / "s")).writer("r") as writer:
        writer.extend(replace(thought(0), nodes=(number,)) for number in range(3))
    assert len(Shelf().known(store, "r")) == 1


def test_agreement_is_of_the_steps_that_two_have_labelled(store: Store) -> None:
    first, second, _ = store.traces()
    for who, labels in (("alice", (1, -1, 0, 1)), ("bob", (1, -1, 1, 1)), ("carol", (1,))):
        for place, label in zip(ends(first), labels, strict=False):
            store.labels.put(first, who, place, label)
    store.labels.put(second, "alice", ends(second)[0], 1)
    told = agreement(store.labels.standing())
    assert [(one["name"], one["labels"], one["thoughts"]) for one in told["labellers"]] == [
        ("alice", 5, 2),
        ("bob", 4, 1),
        ("carol", 1, 1),
    ]
    assert {(pair["one"], pair["other"]): (pair["moves"], pair["same"]) for pair in told["pairs"]} == {
        ("alice", "bob"): (4, 3),
        ("alice", "carol"): (1, 1),
        ("bob", "carol"): (1, 1),
    }
    assert told["pairs"][0]["kappa"] == pytest.approx((3 / 4 - 7 / 16) / (1 - 7 / 16))
    assert told["moves"] == 4
    assert 0.5 < told["alpha"] < 0.8


@pytest.mark.parametrize(
    "decode", [None, lambda tokens: "".join(map(chr, tokens)), lambda tokens: "another vocabulary"]
)
def test_what_stands_before_a_move_keeps_its_tokens_where_they_are_the_models(decode: Any) -> None:
    trace = thought(0)
    for move in moves(trace):
        steps = prefix(trace, move.start, decode)
        assert "".join(step.text for step in steps) == TEXT[: move.start]
        known = [step for step in steps if step.tokens]
        assert len(known) == (len(steps) if decode and decode([65]) == "A" else 0)
        assert all("".join(map(chr, step.tokens)) == step.text for step in known)
    within = prefix(trace, 10, lambda tokens: "".join(map(chr, tokens)))
    assert [(step.text, bool(step.tokens)) for step in within] == [("<think>\n", True), ("48", False)]
    assert prefix(replace(trace, steps=(Step("abc", sampled=False),)), 2, decode)[0].text == "ab"
