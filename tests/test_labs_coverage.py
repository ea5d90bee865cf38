"""The labs on coverage and on allocation: hand-made thoughts give the tables that they must, a tiny run its pages."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from forethought.labs import allocation, chains, coverage
from forethought.scaling.bank import Drawn
from forethought.scaling.measure import Pool, Sample
from forethought.search.choose import Thought
from forethought.types import Step


def pool(number: int, chance: float, size: int = 200) -> Pool:
    """Right by chance, half of those soundly; answers are the problem's number, or one of five others."""
    rng = random.Random(number)
    samples = []
    for _ in range(size):
        right = rng.random() < chance
        answer = str(number) if right else str(-rng.randrange(1, 6))
        samples.append(Sample(float(right), answer, 10, judged=float(right and rng.random() < 0.5)))
    return Pool(f"p/{number}", tuple(samples), gold=str(number))


# Chances spread as Beta(1/3, 1) has them.
POOLS = [pool(number, ((number + 0.5) / 40) ** 3) for number in range(40)]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "RESAMPLES", 20)


def test_a_forecast_from_the_first_thoughts_is_near_what_all_of_them_show() -> None:
    law, spread = coverage.forecasts(POOLS, fitted=50)
    assert (law.name, spread.name) == ("power law", "spread")
    for told in (law, spread):
        assert told.error.low <= told.error.value <= told.error.high
        assert len(told.curve) == len([k for k in coverage.KS if k <= 200])
        assert told.worst < 0.1
    assert abs(spread.error.value) < 0.05


def test_sound_thoughts_are_fewer_than_right_ones_and_other_problems_answers_never_fit() -> None:
    lines = coverage.table("here", POOLS, coverage.Config(fitted=50)).splitlines()
    first = [float(cell) for cell in lines[2].replace("[", " ").replace("]", " ").replace(",", " ").split()]
    assert first[1] == pytest.approx(2 * first[4], rel=0.15)
    assert lines[8].startswith("  100")
    assert lines[8].endswith("0.0 [0.0, 0.0]")
    assert [line.split(" of ")[0] for line in lines[10:]] == [
        "right, power law", "right, spread", "sound, power law", "sound, spread"
    ]  # fmt: skip


def test_a_forecast_needs_thoughts_beyond_what_it_is_from() -> None:
    with pytest.raises(ValueError, match="samples is 100, fitted 100"):
        coverage.Config(samples=100)


def drawn(number: int, agreement: float, sound: bool) -> Drawn:
    """64 thoughts of ten tokens, the share `agreement` of them with one answer, no two others alike; no judge."""
    rng = random.Random(number)
    answers = ["yes" if rng.random() < agreement else str(place) for place in range(64)]
    thoughts = tuple(Thought(p, (Step("x", logprobs=(-1.0,) * 10),), answer, 0.5) for p, answer in enumerate(answers))
    right = tuple((answer == "yes") is sound for answer in answers)
    return Drawn(f"p/{number}", thoughts, right, (10,) * 64, (0,) * 64, 3)


BANK = [drawn(number, 0.9 if number % 3 else 0.35, True) for number in range(12)]


def test_every_rule_is_held_against_the_vote_of_all() -> None:
    found = allocation.stopped(BANK, 1)
    whole = found["vote of 40"]
    assert (whole[1] == 40).all()
    assert (whole[2] == 400).all()
    for name, (right, thoughts, tokens) in found.items():
        assert (tokens == 10 * thoughts).all(), name  # no thought is given up: all are as sure
        assert (thoughts <= 40).all()
        assert right.mean() > 0.9, name
    assert found["adaptive consistency, beta"][1].mean() < 15
    # It asks for more than one rival; remembering what the same votes came to changes nothing.
    assert (found["adaptive consistency, Dirichlet"][1] >= found["adaptive consistency, beta"][1]).all()
    lines = allocation.stopping_table("here", [found, found]).splitlines()
    assert lines[2].split()[-2:] == ["0", "%"]
    assert len(lines) == 2 + len(found)


def test_an_average_is_kept_within_the_share_and_the_oracle_beside_it() -> None:
    config = allocation.Config(orders=1)
    found = allocation.allocated(BANK, config)
    whole = next(iter(found.values()))
    assert (whole[1] == 643).all()
    for share in allocation.SHARES:
        for arm in ("fixed", "average", "oracle"):
            if (told := found.get(f"{arm}, {share:.4g}")) is not None:
                assert told[1].mean() <= 1.25 * share * 643, arm  # the halves differ
    assert found["average, 0.25"][0].mean() >= whole[0].mean() - 0.02
    lines = allocation.allocation_table("here", [found]).splitlines()
    assert lines[2].split()[:3] == ["best-of-n", "of", "64"]
    assert lines[2].endswith("100.0 %")


def test_problems_of_mixed_lengths_come_by_turns_and_once() -> None:
    problems = chains.mixed((2, 3), 5, "test", 20, 0)
    assert [problem.meta["level"] for problem in problems] == [2, 3] * 10
    assert len({problem.messages[0]["content"] for problem in problems}) == 20
    with pytest.raises(ValueError, match="ask for no more"):
        chains.mixed((1,), 3, "test", 100, 0)


def tiny(out: Path) -> coverage.Config:
    return coverage.Config(
        seeds=(0,),
        stages=2,
        steps=2,
        examples=40,
        levels=(2, 3),
        problems=2,
        samples=4,
        fitted=2,
        out=str(out / "coverage"),
    )


def test_a_tiny_run_is_gone_on_with_and_other_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tmp_path)
    coverage.main(config)
    said = capsys.readouterr().out
    assert "seed 0, 2 steps: 2 problems" in said
    assert "seed 0, 4 steps: 2 problems" in said
    assert (tmp_path / "coverage" / "coverage.html").read_text().count("<svg") == 2

    def never(*args: object) -> None:
        raise AssertionError("what is there is not drawn again")

    monkeypatch.setattr(coverage, "_draw", never)
    coverage.main(config)
    assert capsys.readouterr().out.endswith(said[said.index("seed 0, 2 steps") :])
    with pytest.raises(ValueError, match="problems was 2"):
        coverage.main(replace(config, problems=3))


def test_an_allocation_is_drawn_judged_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(allocation, "SIZES", (1, 2, 4))
    # A policy of two steps is never right, and a verifier cannot be made of that.
    monkeypatch.setattr(allocation, "_judge", lambda *_: "confidence")
    config = allocation.Config(
        seeds=(0,), stages=1, steps=2, examples=40, levels=(2, 3), problems=2, probe=2, bins=2, orders=2,
        taught=str(tmp_path / "taught"), out=str(tmp_path / "out"),
    )  # fmt: skip
    allocation.main(config)
    said = capsys.readouterr().out
    assert "best-of-n of 4" in said
    assert "vote of 4" in said
    assert (tmp_path / "out" / "allocation.html").read_text().count("<svg") == 2
    assert {"bank.jsonl", "store"} == {path.name for path in (tmp_path / "out" / "bank-0" / "chain").iterdir()}
