"""The data builders: which tokens are targets, which traces are kept, and what they weigh."""

from __future__ import annotations

import math
from typing import Any

import pytest

from forethought.train.data import advantages, datum, grouped, grpo, star, supervised
from forethought.types import Step, Stop, Trace, Verdict, user


class Letters:
    """A tokenizer of one token a character; 0 ends."""

    chat_template = None
    eos_token_id = 0

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:
        raise AssertionError("there is no chat template")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
        return "".join(chr(token) for token in token_ids)


LETTERS = Letters()


def thought(text: str, reward: float | None, problem: str = "p", stop: Stop = "end", tree: str | None = None) -> Trace:
    tokens = tuple(ord(letter) for letter in text)
    step = Step(text=text, tokens=tokens, logprobs=tuple(-0.5 for _ in tokens), stop=stop)
    return Trace(problem, user(f"Q{problem}"), (step,), "tiny@0", tree=tree, verdicts={"grade": Verdict(reward)})


def test_only_sampled_tokens_are_targets() -> None:
    steps = (
        Step("ab", (97, 98), (-0.1, -0.2)),
        Step("Wait", sampled=False),
        Step("c", (99, 0), (-0.3, -0.4)),
    )
    found = datum(LETTERS, user("Q"), steps, weight=2.0)
    assert LETTERS.decode(found.tokens) == "Q\nabWaitc\0"
    assert found.mask == (False,) * 2 + (True,) * 2 + (False,) * 4 + (True,) * 2
    assert found.weights == (0.0,) * 2 + (2.0,) * 2 + (0.0,) * 4 + (2.0,) * 2
    assert found.logprobs == (0.0, 0.0, -0.1, -0.2, 0.0, 0.0, 0.0, 0.0, -0.3, -0.4)


def test_logprobs_are_left_out_where_one_step_has_none() -> None:
    assert datum(LETTERS, user("Q"), (Step("ab", (97, 98), (-0.1, -0.2)), Step("c", (99,)))).logprobs == ()


def test_supervised_trains_the_completion_and_its_end() -> None:
    (found,) = supervised([(user("Q"), "ok")], LETTERS)
    assert found.tokens == (ord("Q"), ord("\n"), ord("o"), ord("k"), 0)
    assert found.mask == (False, False, True, True, True)
    assert found.logprobs == ()


def test_groups_are_searches() -> None:
    traces = [thought("a", 1, "p", tree="t"), thought("b", 1, "q"), thought("c", 0, "p", tree="t"), thought("d", 0)]
    assert [[trace.text for trace in group] for group in grouped(traces)] == [["a", "c"], ["b"], ["d"]]


def test_star_keeps_finished_correct_distinct_thoughts() -> None:
    group = [
        thought("right", 1), thought("right", 1), thought("wrong", 0), thought("half", 0.5), thought("other", 1.0),
        thought("cut", 1, stop="length"), thought("spent", 1, stop="budget"), thought("unjudged", None),
    ]  # fmt: skip
    data, stats = star([group, [thought("no", 0, "q")]], LETTERS)
    assert [LETTERS.decode(d.tokens).partition("\n")[2] for d in data] == ["right", "other"]
    assert stats == {"problems": 2, "solved": 1, "correct": 3, "kept": 2}
    assert len(star([group], LETTERS, distinct=False)[0]) == 3


def test_star_caps_each_problem_alike_in_any_order() -> None:
    groups = [[thought(letter, 1, problem) for letter in "abcdefgh"] for problem in "pq"]
    data, _ = star(groups, LETTERS, per_problem=3, seed=5)
    turned, _ = star(groups[::-1], LETTERS, per_problem=3, seed=5)
    assert len(data) == 6
    assert {d.tokens for d in data} == {d.tokens for d in turned}
    picks = {tuple(d.tokens[-1] for d in star(groups[:1], LETTERS, per_problem=3, seed=s)[0]) for s in range(8)}
    assert len(picks) > 1
    with pytest.raises(ValueError, match="per_problem is 0"):
        star(groups, LETTERS, per_problem=0)


def test_star_trains_a_hinted_thought_under_the_plain_prompt() -> None:
    data, _ = star([[thought("r", 1)]], LETTERS, prompts={"p": user("plain")})
    assert LETTERS.decode(data[0].tokens) == "plain\nr"
    assert data[0].mask == (False,) * 6 + (True,)


def test_advantages_by_hand() -> None:
    rewards = [1.0, 0.0, 0.0, 1.0, 0.0]
    mean, spread = 0.4, math.sqrt(0.24)
    assert advantages(rewards, "mean", "none") == pytest.approx([r - mean for r in rewards])
    assert advantages(rewards, "mean", "std") == pytest.approx([(r - mean) / spread for r in rewards])
    others = [(sum(rewards) - r) / 4 for r in rewards]
    assert advantages(rewards, "loo", "none") == pytest.approx([r - o for r, o in zip(rewards, others, strict=True)])
    assert advantages(rewards, "loo", "none") == pytest.approx([5 / 4 * (r - mean) for r in rewards])
    assert advantages([0.1 + 0.2, 0.1 + 0.2], "mean", "std") == [0.0, 0.0]
    assert advantages([1.0], "loo", "none") == [0.0]


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"baseline": "mean", "scale": "std", "length": "sequence"}, [1 / 2, -1 / 4]),  # GRPO: +-1 over 2 and 4 tokens
        ({"baseline": "mean", "scale": "none", "length": "constant", "max_tokens": 10}, [0.05, -0.05]),  # Dr. GRPO
        ({"baseline": "mean", "scale": "std", "length": "token"}, [1.0, -1.0]),  # DAPO
        ({"baseline": "loo", "scale": "none", "length": "token"}, [1.0, -1.0]),  # RLOO: 1 - 0 and 0 - 1
    ],
)
def test_weights_of_the_variants(knobs: dict[str, Any], expected: list[float]) -> None:
    data, _ = grpo([[thought("ab", 1), thought("wxyz", 0)]], LETTERS, **knobs)
    assert [d.weights for d in data] == [
        (0.0,) * 3 + (pytest.approx(expected[0]),) * 2,
        (0.0,) * 3 + (pytest.approx(expected[1]),) * 4,
    ]
    assert data[0].logprobs == (0.0,) * 3 + (-0.5,) * 2


def test_unjudged_and_failed_traces_are_in_no_baseline_and_no_data() -> None:
    failed = Trace("p", user("Qp"), (Step("boom", stop="error", sampled=False),), "tiny@0")
    graded_failure = thought("x", 0, stop="error")
    group = [thought("ab", 1), thought("cd", 0), thought("ef", None), failed, graded_failure]
    data, stats = grpo([group], LETTERS, scale="none", length="token")
    assert [d.weights[-1] for d in data] == [0.5, -0.5]
    assert (stats["unjudged"], stats["sequences"], stats["reward"]) == (3, 2, 0.5)


def test_dead_groups_are_counted_and_dropped_or_kept_at_zero() -> None:
    groups = [[thought("a", 1), thought("bb", 1)], [thought("c", 0), thought("ddd", 1)], [thought("e", None)]]
    data, stats = grpo(groups, LETTERS)
    assert (len(data), stats["groups"], stats["dead"], stats["kept"]) == (2, 3, 0.5, 2)
    assert (stats["length_correct"], stats["length_incorrect"]) == (2.0, 1.0)
    kept, stats = grpo(groups, LETTERS, drop_dead=False)
    assert [d.weights[-1] for d in kept[:2]] == [0.0, 0.0]
    assert [any(d.mask) for d in kept] == [True] * 4
    assert stats["kept"] == stats["sequences"] == 4


def test_overlong_filter_keeps_the_baseline() -> None:
    group = [thought("ab", 1), thought("cd", 0, stop="length"), thought("ef", 0, stop="budget")]
    data, stats = grpo([group], LETTERS, scale="none", length="token", truncated="mask")
    assert [d.weights[-1] for d in data] == [pytest.approx(2 / 3)]
    assert stats["truncated"] == pytest.approx(2 / 3)
    assert len(grpo([group], LETTERS)[0]) == 3


def test_constant_length_needs_its_constant() -> None:
    with pytest.raises(ValueError, match="max_tokens, which is None"):
        grpo([], LETTERS, length="constant")


def test_no_group_gives_no_data_and_says_nan() -> None:
    data, stats = grpo([], LETTERS)
    assert data == []
    assert math.isnan(stats["reward"])
    assert math.isnan(stats["dead"])
