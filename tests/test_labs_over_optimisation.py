"""The lab of over-optimisation: its estimator, its fit, its arms, and a small run from end to end."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from forethought.labs import over_optimisation as lab
from forethought.labs.runs import check, kept
from forethought.problems import open_task
from forethought.recipes import verifier
from forethought.recipes.run import write_config
from forethought.store import open_store
from forethought.types import Problem, Step, Trace


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_best_of_n_is_its_mean_over_all_subsets(n: int) -> None:
    rng = np.random.default_rng(n)
    values, rewards = rng.normal(size=5), rng.normal(size=5)
    each = [values[max(chosen, key=lambda at: rewards[at])] for chosen in combinations(range(5), n)]
    assert lab.best_of(values, rewards, n) == pytest.approx(fmean(each))


def test_equal_rewards_are_chosen_among_by_lot() -> None:
    values = np.array([1.0, 2.0, 6.0])
    assert lab.best_of(values, np.zeros(3), 3) == pytest.approx(3.0)
    assert lab.best_of(values, np.array([0.0, 1.0, 1.0]), 3) == pytest.approx(4.0)


def test_the_fit_finds_what_a_curve_was_made_of() -> None:
    ns = [2**power for power in range(10)]
    d = np.sqrt([lab.kl(n) for n in ns])
    assert lab.kl(1) == 0
    assert lab.kl(1024) == pytest.approx(math.log(1024) - 1023 / 1024)
    assert lab.fit(ns, d * (0.9 - 0.25 * d)) == pytest.approx((0.9, 0.25))


def test_gold_is_right_lines_less_wrong_ones() -> None:
    task = open_task("chain:steps=2,modulus=5")
    (problem,) = task.load("train", count=1)
    assert task.worked is not None
    right = task.worked(problem)

    def scored(text: str) -> float:
        return lab.gold(problem, Trace(problem.id, problem.messages, (Step(text),), "p"), task)

    assert scored("nothing") == 0
    assert scored("1=2\n3=4\n") == -1  # one step is as good as its worst line

    def by_line(text: str) -> float:
        steps = tuple(Step(line) for line in text.splitlines(keepends=True))
        return lab.gold(problem, Trace(problem.id, problem.messages, steps, "p"), task)

    assert by_line(right) == 3
    assert by_line(f"{right}\n1=2\n3=4\n") == 1


def test_a_proxy_that_loves_one_bad_sample_rises_then_falls_and_the_gold_score_itself_does_not() -> None:
    """All but the bad samples are ranked by their gold; the bad ones are rare, and the proxy's favourites."""
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(12, 256))
    fooled = gold.copy()
    gold[:, :4], fooled[:, :4] = -3.0, 9.0
    banks: list[dict[str, Any]] = [{lab.GOLD: gold.tolist(), "fooled": fooled.tolist()}]
    own, proxy = lab.curves(banks)
    assert own.ns == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert own.accuracy == 1.0
    assert np.allclose(own.gold_PN[:, 0], 0.0)
    assert (np.diff(own.gold_PN.mean(axis=0)) > 0).all()
    assert np.allclose(own.gold_PN.mean(axis=0), own.proxy_N)
    curve = proxy.gold_PN.mean(axis=0)
    assert 0 < int(curve.argmax()) < 8
    assert curve[-1] == pytest.approx((-3.0 - gold.mean()) / (gold - gold.mean(axis=1, keepdims=True)).std(), rel=0.05)
    assert (np.diff(proxy.proxy_N) > 0).all()
    rows = lab.report(banks, resamples=50).splitlines()
    assert rows[2].split()[:3] == ["gold", "100", "%"]
    assert rows[3].endswith("best at n = 256, 0.00 [0.00, 0.00] lost")
    assert rows[4].split()[0] == "fooled"
    assert float(rows[4].rpartition(",")[2]) < lab.kl(256)
    assert f"best at n = {own.ns[int(curve.argmax())]}, " in rows[5]


def small(out: Path, **options: Any) -> lab.Config:
    return replace(
        lab.Config(
            seeds=(0,), problems="chain:steps=1,modulus=5", pairs=(8, 12), epochs=1, prompts=2, samples=8,
            policy_steps=1, noise=0.5, out=str(out),
        ),
        **options,
    )  # fmt: skip


def test_a_small_run_has_every_arm_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def some(problem: Problem, trace: Trace, task: object) -> float:  # a model that learned nothing is never right
        return float(len(trace.text) + sum(map(ord, trace.text)) % 7)

    monkeypatch.setattr(lab, "gold", some)
    asked = small(tmp_path)
    lab.main(asked)
    first = capsys.readouterr().out.splitlines()
    arms = ("gold", "8 pairs", "12 pairs", "12 noisy", "12 head")
    table = first[-2 * len(arms) :]
    assert [line[:14].strip() for line in table[::2]] == list(arms)
    lengths = {
        name: [t.verdicts[lab.GOLD].score for t in open_store(tmp_path / "pairs-0").traces(run=name)]
        for name in ("8 pairs", "12 pairs", "12 noisy")
    }
    assert [len(scores) for scores in lengths.values()] == [16, 24, 24]
    assert lengths["12 pairs"][:16] == lengths["8 pairs"]
    pairs, noisy = (list(zip(scores[::2], scores[1::2], strict=True)) for scores in list(lengths.values())[1:])
    assert all(one != two for one, two in pairs)
    flipped = [theirs == ours[::-1] for ours, theirs in zip(pairs, noisy, strict=True)]
    assert 0 < sum(flipped) < 12
    assert all(flip or ours == theirs for flip, ours, theirs in zip(flipped, pairs, noisy, strict=True))
    monkeypatch.setattr(lab, "bank", print)  # which nothing calls: nothing is measured again
    lab.main(asked)
    assert capsys.readouterr().out.splitlines()[-2 * len(arms) :] == table
    with pytest.raises(ValueError, match=r"bank-0.json was measured with .*'prompts': 2.*, not with .*'prompts': 3"):
        lab.main(small(tmp_path, prompts=3))


def test_other_settings_are_refused_before_anything_runs(tmp_path: Path) -> None:
    _, proxies = lab.plan(small(tmp_path), 0)
    last = [*proxies.values()][-1]
    assert last.freeze
    write_config(Path(last.out), "verifier", replace(last, steps=99), resume=False)
    with pytest.raises(ValueError, match="12-head-0 was begun with other settings: steps was 99"):
        lab.main(small(tmp_path))
    assert [folder.name for folder in tmp_path.iterdir()] == ["12-head-0"]
    check([replace(last, out=str(tmp_path / "none"))])


def test_bad_settings_are_named(tmp_path: Path) -> None:
    for options, said in (
        ({"pairs": (4,)}, r"pairs \(4,\)"),
        ({"noise": 0.7}, "noise is 0.7"),
        ({"samples": 4}, "samples is 4"),
    ):
        with pytest.raises(ValueError, match=said):
            small(tmp_path, **options)


def test_what_was_measured_is_read_again(tmp_path: Path) -> None:
    measured = [(1, 2.5)]
    assert kept(tmp_path / "found.json", {"n": (1,)}, lambda: measured) == [[1, 2.5]]
    assert kept(tmp_path / "found.json", {"n": (1,)}, measured.pop) == [[1, 2.5]]
    assert len(measured) == 1


def test_a_proxy_learns_the_labels_of_its_own_run(tmp_path: Path) -> None:
    _, proxies = lab.plan(small(tmp_path), 0)
    runs = {arm: (proxy.run, proxy.steps, proxy.freeze) for arm, proxy in proxies.items()}
    assert runs == {
        "8 pairs": ("8 pairs", 2, False),
        "12 pairs": ("12 pairs", 2, False),
        "12 noisy": ("12 noisy", 2, False),
        "12 head": ("12 pairs", 2, True),
    }
    assert all(isinstance(proxy, verifier.Config) and proxy.judge == lab.GOLD for proxy in proxies.values())
