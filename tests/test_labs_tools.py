"""The lab of tools: arms that learn from as much, measured by the same problems under the same budgets."""

from __future__ import annotations

from pathlib import Path

import pytest

from forethought.engines.local.tiny import build_tokenizer
from forethought.labs import tools
from forethought.problems import open_task
from forethought.train.data import supervised

SMALL = tools.Config(seeds=(3,), digits="1", tokens=1500, budgets=(24,), problems=2)


def test_both_arms_learn_from_as_many_tokens() -> None:
    config = tools.Config()
    for arm in tools.ARMS:
        run = tools.plan(config, arm, 0)
        task = open_task(run.problems)
        assert task.worked is not None
        sample = [(problem.messages, task.worked(problem)) for problem in task.load("train", count=300, seed=9)]
        tokens = sum(len(datum.tokens) for datum in supervised(sample, build_tokenizer())) / 300
        assert run.steps * run.batch * tokens == pytest.approx(config.tokens, rel=0.02)


def test_the_lab_measures_both_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = tools.main(SMALL)
    assert [line.split()[:2] for line in lines[1:]] == [["lines", "24"], ["calculator", "24"]]
    assert all(float(line.split()[-2]) <= 24 for line in lines[1:])
    monkeypatch.setattr(tools, "measured", lambda *_: pytest.fail("measured again"))
    assert tools.main(SMALL) == lines
    with pytest.raises(ValueError, match="was measured with"):
        tools.main(tools.Config(**{**vars(SMALL), "problems": 3}))


def test_the_table_has_the_mean_and_each_seed() -> None:
    config = tools.Config(seeds=(0, 1), budgets=(64,))
    rows = {
        (arm, seed): [{"budget": 64, "right": seed / 2, "tokens": 60.0, "calls": 1.0}]
        for arm in tools.ARMS
        for seed in config.seeds
    }
    assert tools.table(config, rows)[1].split() == ["lines", "64", "25.0", "0.0", "50.0", "60", "1.00"]
