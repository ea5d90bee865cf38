"""Every recipe for a few steps on a small tiny model; a run that is killed anywhere goes on to the bit."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forethought.engines.local.tiny import TinyConfig, build
from forethought.problems import Task, open_task
from forethought.recipes import demo, grpo, sft, star
from forethought.recipes.run import batches, prompts, write_config
from forethought.scaling.stages import load_report
from forethought.store import open_store
from forethought.train import checkpoint
from forethought.train.metrics import read
from forethought.types import Problem, Trace, Verdict

SMALL: dict[str, Any] = {"layers": 1, "width": 32}
STEPS = 12


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small checkpoint to reinforce."""
    folder = tmp_path_factory.mktemp("model") / "thinker"
    model, tokenizer = build(TinyConfig(**SMALL, context=64))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def lottery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thoughts that differ earn different rewards, so that even an untrained model has something to reinforce."""

    def grade(problem: Problem, trace: Trace) -> Verdict:
        return Verdict(float(sum(trace.steps[-1].tokens) % 2))

    def opened(spec: str, **columns: str) -> Task:
        return replace(open_task(spec, **columns), grade=grade)

    monkeypatch.setattr(grpo, "open_task", opened)


def config(thinker: str, out: Path, **options: Any) -> grpo.Config:
    return grpo.Config(
        model=thinker,
        steps=STEPS,
        prompts=3,
        group=4,
        updates=3,
        lr=1e-3,
        max_tokens=10,
        eval_problems=0,
        save_every=1,
        dtype="fp32",
        out=str(out),
        **options,
    )


def weights(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "checkpoints" / f"step-{step:06d}" / "model.safetensors")
    return found


def course(folder: Path) -> list[dict[str, Any]]:
    """What was logged, less the clock."""
    return [{k: v for k, v in row.items() if k != "time" and "seconds" not in k} for row in read(folder)]


@pytest.mark.usefixtures("lottery")
@pytest.mark.parametrize("killed_after", range(1, STEPS))
def test_grpo_killed_after_any_step_goes_on_to_the_bit(
    thinker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    """Three optimizer steps on each rollout, so that most of these places lie in the middle of one."""
    whole = grpo.main(config(thinker, tmp_path / "whole", kl=0.01))
    save = checkpoint.save

    def dying(run: Path, step: int, *args: Any, **options: Any) -> Path:
        found = save(run, step, *args, **options)
        if step == killed_after:
            raise Killed
        return found

    monkeypatch.setattr(checkpoint, "save", dying)
    part = config(thinker, tmp_path / "part", kl=0.01)
    with pytest.raises(Killed):
        grpo.main(part)
    monkeypatch.setattr(checkpoint, "save", save)
    resumed = grpo.main(part, tmp_path / "part")
    ours, theirs = weights(whole), weights(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not all(torch.equal(ours[n], value) for n, value in load_file(Path(thinker) / "model.safetensors").items())
    assert course(whole) == course(resumed)
    assert len(course(whole)) == STEPS
    assert any(row.get("ratio_max", 1) != 1 for row in course(whole))  # the proximal weights mattered


@pytest.mark.usefixtures("lottery")
def test_a_kill_between_two_checkpoints_repeats_what_was_lost(
    thinker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_5 = replace(config(thinker, tmp_path / "whole"), save_every=5)
    whole = grpo.main(every_5)
    roll_out = grpo._roll_out

    def dying(*args: Any) -> Any:
        if args[5] == 9:  # steps 6 to 9 are lost
            raise Killed
        return roll_out(*args)

    monkeypatch.setattr(grpo, "_roll_out", dying)
    part = replace(every_5, out=str(tmp_path / "part"))
    with pytest.raises(Killed):
        grpo.main(part)
    monkeypatch.setattr(grpo, "_roll_out", roll_out)
    grpo.main(part, tmp_path / "part")
    assert course(whole) == course(tmp_path / "part")
    assert [row["step"] for row in course(whole)] == list(range(1, STEPS + 1))
    traces = [sum(1 for _ in open_store(folder / "store").traces()) for folder in (whole, tmp_path / "part")]
    assert traces[0] == traces[1] == 4 * 12  # what was drawn twice is kept once


@pytest.mark.usefixtures("lottery")
@pytest.mark.parametrize("method", list(grpo.METHODS))
def test_every_method_takes_its_steps(thinker: str, tmp_path: Path, method: str) -> None:
    folder = grpo.main(replace(config(thinker, tmp_path / "run", method=method), steps=2, updates=1))
    rows = course(folder)
    assert len(rows) == 2
    if method == "dapo":  # an untrained model never ends a thought, and DAPO learns from no thought that was cut
        assert rows[0]["kept"] == 0
        return
    assert rows[0]["sampler_gap_max"] < 1e-4
    assert {"reward", "dead", "entropy", "loss", "grad_norm"} <= set(rows[0])


@pytest.mark.usefixtures("lottery")
def test_ctrl_c_saves_the_place_and_says_so(
    thinker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    roll_out = grpo._roll_out

    def interrupted(*args: Any) -> Any:
        if args[5] == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return roll_out(*args)

    monkeypatch.setattr(grpo, "_roll_out", interrupted)
    part = replace(config(thinker, tmp_path / "part"), save_every=100)
    with pytest.raises(KeyboardInterrupt):
        grpo.main(part)
    assert "stopping after this step" in capsys.readouterr().out
    assert checkpoint.latest(tmp_path / "part") == tmp_path / "part" / "checkpoints" / "step-000004"
    monkeypatch.setattr(grpo, "_roll_out", roll_out)
    whole = grpo.main(replace(part, out=str(tmp_path / "whole")))
    grpo.main(part, tmp_path / "part")
    assert course(whole) == course(tmp_path / "part")


def test_sft_learns_its_examples_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = sft.Config(
        problems="sums:terms=2,most=3", examples=8, batch=4, steps=6, lr=3e-3, eval_problems=5, eval_samples=2,
        max_tokens=20, save_every=1, out=str(tmp_path / "whole"), **SMALL,
    )  # fmt: skip
    whole = sft.main(asked)
    rows = course(whole)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert [stage.name for stage in load_report(whole).stages] == ["as it is", "worked examples"]
    assert load_report(whole).stages[1].training_tokens > 0
    assert "<html" in (whole / "report.html").read_text(encoding="utf-8")
    save = checkpoint.save

    def dying(run: Path, step: int, *args: Any, **options: Any) -> Path:
        found = save(run, step, *args, **options)
        if step == 3:
            raise Killed
        return found

    monkeypatch.setattr(checkpoint, "save", dying)
    part = replace(asked, out=str(tmp_path / "part"))
    with pytest.raises(Killed):
        sft.main(part)
    monkeypatch.setattr(checkpoint, "save", save)
    sft.main(part, tmp_path / "part")
    assert course(whole) == course(tmp_path / "part")
    assert all(torch.equal(a, weights(tmp_path / "part", 6)[n]) for n, a in weights(whole, 6).items())
    assert len(load_report(tmp_path / "part").stages) == 2


def test_recomputed_activations_change_the_bill_and_not_the_model(thinker: str, tmp_path: Path) -> None:
    config = sft.Config(
        model=thinker, problems="sums:terms=2,most=3", examples=8, batch=8, steps=3, eval_problems=2, eval_samples=1,
        max_tokens=20, out=str(tmp_path / "kept"),
    )  # fmt: skip
    kept = sft.main(config)
    again = sft.main(replace(config, recompute=True, out=str(tmp_path / "recomputed")))
    for name, weight in weights(kept, 3).items():
        torch.testing.assert_close(weight, weights(again, 3)[name], atol=1e-6, rtol=0)
    bills = [load_report(folder).stages[1].train_flops for folder in (kept, again)]
    assert bills[1] == pytest.approx(bills[0] * 4 / 3)


def test_sft_imitates_bare_answers_where_asked(tmp_path: Path) -> None:
    asked = sft.Config(
        problems="sums:terms=2,most=3", examples=4, batch=4, steps=1, direct=True, eval_problems=0,
        out=str(tmp_path / "direct"), **SMALL,
    )  # fmt: skip
    (row,) = course(sft.main(asked))
    assert row["targets"] <= 4 * 5  # \boxed{ digits } end


def test_the_demo_walks_its_road_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = demo.Config(
        model="tiny", problems="sums:terms=2,most=3", examples=24, cold_steps=120, cold_lr=5e-3, rounds=1, fresh=8,
        samples=4, lr=1e-3, batch=8, max_tokens=40, eval_problems=6, eval_samples=4, out=str(tmp_path / "whole"),
        layers=2, width=64,
    )  # fmt: skip
    whole = demo.main(asked)
    assert [stage.name for stage in load_report(whole).stages] == ["as it is", "worked examples", "own thoughts"]
    save = checkpoint.save

    def dying(run: Path, step: int, *args: Any, **options: Any) -> Path:
        found = save(run, step, *args, **options)
        if step == 1:
            raise Killed
        return found

    monkeypatch.setattr(checkpoint, "save", dying)
    part = replace(asked, out=str(tmp_path / "part"))
    with pytest.raises(Killed):
        demo.main(part)
    monkeypatch.setattr(checkpoint, "save", save)
    demo.main(part, tmp_path / "part")
    assert all(torch.equal(a, weights(tmp_path / "part", 2)[n]) for n, a in weights(whole, 2).items())
    pools = [[pool.samples for pool in stage.pools] for stage in load_report(whole).stages]
    assert pools == [[pool.samples for pool in stage.pools] for stage in load_report(tmp_path / "part").stages]


def test_a_run_is_not_mixed_with_another(thinker: str, tmp_path: Path) -> None:
    first = config(thinker, tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"recipe": "sft", "config": {}, "version": "0"}))
    with pytest.raises(ValueError, match="is not empty; give --resume"):
        grpo.main(first)
    with pytest.raises(ValueError, match="is a run of sft, not of grpo"):
        grpo.main(first, tmp_path / "run")
    with pytest.raises(ValueError, match="is no run: it has no readable config"):
        grpo.main(first, tmp_path / "nowhere")


@pytest.mark.usefixtures("lottery")
def test_other_settings_and_other_models_are_refused_on_resumption(thinker: str, tmp_path: Path) -> None:
    first = replace(config(thinker, tmp_path / "run"), steps=1, updates=1)
    grpo.main(first)
    with pytest.raises(ValueError, match=r"lr was 0\.001 and is 0\.5"):
        grpo.main(replace(first, lr=0.5), tmp_path / "run")
    model, tokenizer = build(TinyConfig(layers=2, width=32, context=64))
    model.save_pretrained(thinker + "-other")
    tokenizer.save_pretrained(thinker + "-other")
    other = replace(first, model=thinker + "-other")
    (tmp_path / "run" / "config.json").unlink()
    fresh = tmp_path / "fresh"
    write_config(fresh, "grpo", other, resume=False)
    (tmp_path / "run" / "config.json").write_bytes((fresh / "config.json").read_bytes())
    with pytest.raises(ValueError, match="holds another model"):
        grpo.main(other, tmp_path / "run")


def test_an_unwritable_folder_is_named(thinker: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the run cannot be kept in .*file/run"):
        grpo.main(config(thinker, tmp_path / "file" / "run"))


@pytest.mark.parametrize(
    ("recipe", "options", "words"),
    [
        (grpo, {"model": "tiny", "method": "ppo"}, "method is 'ppo'"),
        (grpo, {"model": "tiny", "group": 1}, "group is 1"),
        (grpo, {"model": "tiny", "temperature": 0.0}, "temperature is 0"),
        (star, {"temperature": 0.0}, "tries is 3 at temperature 0"),
        (star, {"fresh": 0}, "fresh is 0"),
        (sft, {"steps": 0}, "steps is 0"),
    ],
)
def test_bad_settings_are_refused_at_once(recipe: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe.Config(**options)


def test_batches_are_full_and_every_epoch_holds_everything() -> None:
    plan = batches(list(range(7)), size=3, steps=5, seed=1)
    flat = [item for batch in plan for item in batch]
    assert [len(batch) for batch in plan] == [3] * 5
    assert sorted(flat[:7]) == sorted(flat[7:14]) == list(range(7))
    assert flat[:7] != flat[7:14]
    assert plan == batches(list(range(7)), size=3, steps=5, seed=1)
    with pytest.raises(ValueError, match="nothing to train on"):
        batches([], 2, 2, 0)


@pytest.mark.usefixtures("lottery")
def test_the_columns_of_a_file_can_be_named(thinker: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"q": f"{i} = ?", "a": str(i)}) + "\n" for i in range(5)))
    asked = replace(config(thinker, tmp_path / "run"), problems=str(path), steps=1, updates=1)
    with pytest.raises(ValueError, match="question"):
        grpo.main(replace(asked, out=str(tmp_path / "wrong")))
    (row,) = course(grpo.main(replace(asked, question="q", answer="a")))
    assert row["groups"] == 3


def test_prompts_of_a_file_are_shuffled_epochs(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{i}", "answer": str(i)}) + "\n" for i in range(5)))
    task = open_task(str(path))
    drawn = [p.answer for number in range(5) for p in prompts(task, 2, number, seed=0)]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == list("01234")
    assert drawn[:5] != drawn[5:]
    fresh = [p.id for number in range(2) for p in prompts(open_task("sums"), 3, number, seed=0)]
    assert len(set(fresh)) == 6
