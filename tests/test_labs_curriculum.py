"""The lab of curricula: three arms from one policy that spend the same, measured on the same problems."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from forethought.labs import curriculum as lab
from forethought.labs.runs import finish
from forethought.recipes import grpo
from forethought.recipes.run import Settings, write_config
from forethought.scaling.measure import Pool, Sample
from forethought.scaling.stages import Report, Stage, save_report
from forethought.train.metrics import MetricsLog


def test_arms_differ_in_their_curriculum_alone() -> None:
    config = lab.Config()
    plans = [lab.plan(config, arm, 3) for arm in lab.ARMS]
    assert [plan.curriculum for plan in plans] == ["", "0.2-0.9", "learnability"]
    assert len({replace(plan, curriculum="", out="") for plan in plans}) == 1
    assert {plan.tokens for plan in plans} == {config.tokens}
    assert {plan.model for plan in plans} == {lab.policy(config, 3).out}


def test_the_lab_runs_its_arms_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "MAX_TOKENS", 12)
    config = lab.Config(seeds=(3,), cold_steps=2, tokens=4000, problems=8, out=str(tmp_path / "lab"))
    lines = lab.main(config)
    assert [line.split()[:2] for line in lines[1:4]] == [[arm, "3"] for arm in lab.ARMS]
    asked: list[Settings] = []

    def again(run: Settings) -> Path:
        asked.append(run)
        return finish(run)

    monkeypatch.setattr(lab, "finish", again)
    monkeypatch.setattr(grpo, "main", lambda *_: pytest.fail("run again"))
    assert lab.main(config) == lines
    assert len(asked) == 4


def test_other_settings_are_refused_before_anything_runs(tmp_path: Path) -> None:
    config = lab.Config(seeds=(0,), out=str(tmp_path))
    last = lab.plan(config, "learnability", 0)
    write_config(Path(last.out), "grpo", replace(last, lr=0.5), resume=False)
    with pytest.raises(ValueError, match=r"lr was 0\.5 and is 0\.0001"):
        lab.main(config)
    assert [folder.name for folder in tmp_path.iterdir()] == ["learnability-0"]


def test_the_table_has_gains_over_the_plain_arm_and_accuracy_by_length(tmp_path: Path) -> None:
    def run(arm: str, *right: float) -> Path:
        def pools(scores: tuple[float, ...]) -> tuple[Pool, ...]:
            return tuple(Pool(str(at), (Sample(score),), level=str(1 + at // 2)) for at, score in enumerate(scores))

        folder = tmp_path / arm
        save_report(folder, Report("x", "m", (Stage("before", pools((0, 0, 0, 0))), Stage("after", pools(right)))))
        with MetricsLog(folder) as metrics:
            for step, dead in enumerate((0.25, 0.75)):
                metrics.log(step + 1, {"dead": dead})
        return folder

    found = {("weights", 0): run("weights", 1, 0, 0, 0), ("bounds", 0): run("bounds", 1, 1, 1, 0)}
    _, plain, bounds, _, *below = (" ".join(line.split()) for line in lab.table(found))
    assert plain.startswith("weights 0 0.0 [0.0, 0.0] 25.0 [0.0, ")
    assert plain.endswith("2 50%")
    assert "75.0 [" in bounds
    assert "+50.0 [" in bounds
    assert below == ["weights 0 before 1: 0 2: 0", "weights 0 after 1: 50 2: 0", "bounds 0 after 1: 100 2: 50"]
