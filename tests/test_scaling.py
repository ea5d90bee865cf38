"""Metrics against enumeration, intervals against simulation, FLOPs against hand counts."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from functools import partial

import numpy as np
import pytest

from forethought.scaling import plurality as plurality_module
from forethought.scaling.cost import inference_flops, training_flops
from forethought.scaling.measure import (
    Pool,
    Sample,
    best_at,
    estimate,
    gain,
    gather,
    guess_at,
    judged_tokens_at,
    maj_at,
    pass_at,
    stops,
    tokens_at,
    unjudged,
    usable,
)
from forethought.scaling.plurality import plurality
from forethought.scaling.stages import Stage
from forethought.scaling.table import table
from forethought.types import Problem, Step, Trace, Verdict, user


def pool(*rows: tuple[float | None, str | None], name: str = "p", tokens: int = 10) -> Pool:
    return Pool(name, tuple(Sample(score, answer, tokens) for score, answer in rows))


def random_pool(rng: random.Random, size: int) -> Pool:
    answers = [rng.choice(["7", "7", "8", "9", None]) for _ in range(size)]
    return pool(*((float(answer == "7"), answer) for answer in answers))


def vote_by_hand(samples: tuple[Sample, ...]) -> float:
    votes = Counter(s.answer for s in samples if s.answer is not None)
    top = [answer for answer, count in votes.items() if count == max(votes.values())]
    return sum(answer == "7" for answer in top) / len(top) if top else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_pass_and_vote_equal_the_mean_over_every_subset(seed: int) -> None:
    rng = random.Random(seed)
    drawn = random_pool(rng, 9)
    for k in range(1, 10):
        subsets = list(itertools.combinations(drawn.samples, k))
        any_right = sum(any(s.score == 1 for s in subset) for subset in subsets) / len(subsets)
        assert pass_at([drawn], k)[0] == pytest.approx(any_right, abs=1e-12)
        voted = sum(map(vote_by_hand, subsets)) / len(subsets)
        assert maj_at([drawn], k)[0] == pytest.approx(voted, abs=1e-10)


def test_best_of_k_equals_the_mean_over_every_subset_with_ties_and_unscored_samples() -> None:
    scores = [0.9, 0.5, 0.5, 0.5, 0.2, None, None]
    right = [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    samples = tuple(Sample(r, str(r), 3, judged=s, judge_tokens=4) for s, r in zip(scores, right, strict=True))

    def chosen(subset: tuple[Sample, ...]) -> float:
        rank = [-1.0 if s.judged is None else s.judged for s in subset]
        top = [s.score or 0.0 for s, value in zip(subset, rank, strict=True) if value == max(rank)]
        return sum(top) / len(top)

    for k in range(1, 8):
        subsets = list(itertools.combinations(samples, k))
        by_hand = sum(map(chosen, subsets)) / len(subsets)
        assert best_at([Pool("p", samples)], k)[0] == pytest.approx(by_hand, abs=1e-12)
    assert judged_tokens_at([Pool("p", samples)], 2)[0] == 14


def test_a_vote_over_several_right_spellings_counts_each_of_them() -> None:
    drawn = pool((1, "1/2"), (1, "1/2"), (1, "0.5"), (0, "3"))
    assert maj_at([drawn], 4)[0] == 1.0
    assert maj_at([drawn], 1)[0] == pytest.approx(0.75)


def test_samples_without_an_answer_do_not_vote() -> None:
    drawn = pool((1, "7"), (0, None), (0, None), (0, None))
    assert maj_at([drawn], 4)[0] == 1.0
    assert maj_at([pool((0, None), (0, None))], 2)[0] == 0.0


def test_a_vote_too_large_to_count_is_drawn_and_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    case = (12, (4, 9, 11), 6, 15)
    plurality.cache_clear()
    counted = plurality(*case)
    monkeypatch.setattr(plurality_module, "WORK", 0)
    plurality.cache_clear()
    drawn = plurality(*case)
    plurality.cache_clear()
    assert drawn != counted
    assert drawn == pytest.approx(counted, abs=0.03)


def test_a_large_pool_keeps_its_precision() -> None:
    assert plurality(300, (200, 200), 300, 1) == pytest.approx(0.3, abs=1e-9)
    assert plurality(300, (300,), 0, 301) == pytest.approx(0.5, abs=1e-9)
    with pytest.raises(ValueError, match="k is 5"):
        plurality(2, (1,), 1, 5)


def test_what_could_not_be_judged_is_left_out_and_counted() -> None:
    drawn = pool((1, "7"), (None, "8"), (None, "8"), (0, "9"))
    assert pass_at([drawn], 1)[0] == 0.5
    assert np.isnan(pass_at([drawn], 3)[0])
    assert unjudged([drawn]) == 2
    assert tokens_at([drawn], 2)[0] == 20
    nothing = pool((None, None), name="q")
    assert estimate(pass_at([drawn, nothing], 1)).n == 1
    with pytest.raises(ValueError, match="none of 1 problems has enough judged samples"):
        estimate(pass_at([nothing], 1))


def test_a_partial_score_is_not_right() -> None:
    assert pass_at([pool((0.5, "7"), (1.0, "7"))], 1)[0] == 0.5


def test_usable_ks_need_nine_problems_in_ten() -> None:
    whole = [pool(*[(1, "7")] * 4, name=str(i)) for i in range(9)]
    assert usable([*whole, pool((1, "7"), (None, None), name="x")], (4, 1, 2, 8)) == (1, 2, 4)
    assert usable([*whole[:8], pool((1, "7"), name="x")], (1, 4)) == (1,)
    with pytest.raises(ValueError, match="k is 0"):
        pass_at(whole, 0)


def test_guessing_is_what_other_problems_answers_would_score() -> None:
    same = [pool((1, "7"), (0, "8"), name=str(i)) for i in range(3)]
    assert guess_at(same, 1) == pytest.approx([0.5] * 3)
    apart = [pool((1, str(i)), (0, "x"), name=str(i)) for i in range(3)]
    assert guess_at(apart, 2) == pytest.approx([0.0] * 3)
    with pytest.raises(ValueError, match="1 problem"):
        guess_at(same[:1], 1)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        found = estimate(rng.beta(0.5, 1.0, size=60), resamples=400, seed=trial)
        hits += found.low <= 1 / 3 <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_the_interval_of_a_mean_matches_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(0.0, 1.0, size=400)
    found = estimate(values)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)
    assert estimate(values) == found
    assert estimate(values, seed=1) != found


def test_a_paired_gain_sees_what_unpaired_intervals_cannot() -> None:
    rng = random.Random(3)
    before, after = [], []
    for i in range(100):
        c = rng.choice([0, 2, 4, 6, 8])
        before.append(pool(*[(float(j < c), "7") for j in range(10)], name=str(i)))
        after.append(pool(*[(float(j < c + 1), "7") for j in range(10)], name=str(i)))
    one = partial(pass_at, k=1)
    assert estimate(one(before)).high > estimate(one(after)).low
    found = gain(before, list(reversed(after)), one)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.clear
    assert not gain(before, before, one).clear
    vote = gain(after, after, partial(maj_at, k=10), over=one)
    assert vote.value == pytest.approx(estimate(maj_at(after, 10)).value - estimate(one(after)).value)


def test_a_gain_over_other_problems_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 stand in only one, e\.g\. 'a'"):
        gain([pool((1, "7"), name="a")], [pool((1, "7"), name="b")], partial(pass_at, k=1))


def trace(problem: Problem, *steps: Step, score: float | None = 1.0, answer: str | None = "7") -> Trace:
    judges = {"grade": Verdict(score, answer=answer), "orm": Verdict(0.25, cost=9)}
    return Trace(problem.id, problem.messages, steps, "tiny@0", verdicts=judges)


def test_gather_counts_the_tokens_the_model_drew_and_no_others() -> None:
    problem = Problem("add/0", ({"role": "system", "content": "think"}, *user("3 + 4?")), "7", {"level": 2})
    forced = Step("Wait", tokens=(5, 6), sampled=False)
    full = trace(problem, Step("3", (1,), stop="stop"), forced, Step("7", (2, 3), stop="length"))
    silent = trace(problem, Step("7"), score=None, answer=None)
    told = trace(problem, Step("7", logprobs=(-0.1, -0.2)))  # a server that tells log-probabilities and no ids
    assert gather([told])[0].samples[0].tokens == 2
    (found,) = gather([full, silent], [problem], judge="orm")
    assert (found.question, found.gold, found.level) == ("3 + 4?", "7", "2")
    assert found.samples[0] == Sample(1.0, "7", 3, "length", "3Wait7", 0.25, 9)
    assert found.samples[1].tokens is None
    assert np.isnan(tokens_at([found], 1)[0])
    assert stops([found]) == {"length": 1, "end": 1}
    ungraded = Trace("add/0", problem.messages, (), "tiny@0")
    assert gather([ungraded])[0].samples == (Sample(None, None, 0, "error"),)


def test_the_table_tells_accuracy_cost_and_what_went_wrong() -> None:
    drawn = [pool((1, "7"), (0, "8"), (1, "7"), (0, None), name=str(i)) for i in range(10)]
    drawn[0] = pool((1, "7"), (None, "8"), (1, "7"), (0, None), name="0")
    text = table(Stage("cold start", tuple(drawn), seconds=75, note="one epoch"), (1, 2, 4, 8))
    rows = [line.split() for line in text.splitlines()]
    assert ["1", "51.7", "[50.0,", "55.0]", "51.7", "[50.0,", "55.0]", "10"] in rows
    assert [row[0] for row in rows if row and row[0].isdigit()] == ["1", "2", "4"]
    assert "could not judge: 1 (left out, not counted as wrong)" in text
    assert "time: 1 min 15 s" in text
    assert "samples ended by: end 40" in text
    with pytest.raises(ValueError, match="at most 4 judged samples a problem"):
        table(Stage("cold start", tuple(drawn)), (8,))


def test_flops_follow_six_and_two_per_parameter_and_attention() -> None:
    assert training_flops(1_000, 10) == 60_000
    assert training_flops(1_000, 10, recompute=True) == 80_000
    assert training_flops(1_000, 10, frozen=900) == 60_000 - 2 * 900 * 10
    assert inference_flops(1_000, 10) == 20_000
    assert inference_flops(1_000, 10, layers=2, width=8, context=100) == 20_000 + 10 * 4 * 2 * 8 * 100
    assert training_flops(1_000, 10, layers=2, width=8, context=100) == 60_000 + 10 * 12 * 2 * 8 * 100
    with pytest.raises(ValueError, match="parameters is 0"):
        inference_flops(0, 1)
    with pytest.raises(ValueError, match="tokens is -1"):
        training_flops(1, -1)
    with pytest.raises(ValueError, match="frozen is 2"):
        training_flops(1, 1, frozen=2)
