"""Recipes that train adapters: what samples, what is kept and what goes on is the model they make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forethought.engines.local.load import load_model
from forethought.engines.local.tiny import TinyConfig, build
from forethought.engines.open import open_engine
from forethought.problems import Task, open_task
from forethought.recipes import grpo, sft, star
from forethought.scaling.stages import load_report
from forethought.train import checkpoint
from forethought.train.adapters import adapted, plain
from forethought.train.learner import Learner
from forethought.train.metrics import read
from forethought.types import Problem, Trace, Verdict


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A small checkpoint to adapt."""
    folder = tmp_path / "base"
    model, tokenizer = build(TinyConfig(layers=1, width=32, context=64))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def lottery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thoughts that differ earn different rewards, so that even an untrained model has something to reinforce."""

    def grade(problem: Problem, trace: Trace) -> Verdict:
        return Verdict(float(sum(trace.steps[-1].tokens) % 2))

    def opened(spec: str, **columns: str) -> Task:
        return replace(open_task(spec, **columns), grade=grade, labels=None)

    monkeypatch.setattr(grpo, "open_task", opened)
    monkeypatch.setattr(star, "open_task", opened)


def asked(base: str, out: Path, **options: Any) -> grpo.Config:
    common: dict[str, Any] = {
        "steps": 2, "prompts": 3, "group": 4, "lr": 1e-2, "warmup": 0, "max_tokens": 10, "eval_problems": 0,
        "save_every": 1, "dtype": "fp32", "lora_rank": 4,
    }  # fmt: skip
    return grpo.Config(model=base, out=str(out), **{**common, **options})


def course(folder: Path) -> list[dict[str, Any]]:
    """What was logged, less the clock."""
    return [{k: v for k, v in row.items() if k != "time" and "seconds" not in k} for row in read(folder)]


def files(folder: Path, step: int = 2) -> dict[str, torch.Tensor]:
    """Weights and adapters of a checkpoint."""
    place = folder / "checkpoints" / f"step-{step:06d}"
    return {**load_file(place / "model.safetensors"), **load_file(place / "adapter" / "adapter_model.safetensors")}


def stop_and_go_on(recipe: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the run at its first checkpoint and resume it, as another process would, with other random states."""
    save = checkpoint.save

    def stopping(*args: Any, **options: Any) -> Path:
        save(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        recipe.main(config)
    monkeypatch.setattr(checkpoint, "save", save)
    torch.manual_seed(77)
    recipe.main(config, Path(config.out))


@pytest.mark.parametrize("updates", [1, 2])
def test_two_steps_are_one_and_another_after_a_resume(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates: int
) -> None:
    """With one rollout for each step, and with the stop in the middle of one; the KL needs the model below."""
    whole = grpo.main(asked(base, tmp_path / "whole", updates=updates, kl=0.05))
    stop_and_go_on(grpo, asked(base, tmp_path / "part", updates=updates, kl=0.05), monkeypatch)
    ours, theirs = files(whole), files(tmp_path / "part")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert course(whole) == course(tmp_path / "part")
    first, second = (row["kl_reference"] for row in course(whole))
    assert abs(first) < 1e-9 < second


def test_star_puts_fresh_adapters_on_its_base_each_iteration_and_goes_on(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = star.Config(
        model=base, problems="addition:digits=1", iterations=2, fresh=8, steps=2, restart=True, lr=1e-2, batch=4,
        warmup=0, cold_steps=0, max_tokens=30, eval_problems=4, lora_rank=4, out=str(tmp_path / "whole"),
    )  # fmt: skip
    whole = star.main(config)
    assert all(row["kept"] > 0 for row in course(whole))
    assert [stage.name for stage in load_report(whole).stages] == ["base", "iteration 1", "iteration 2"]
    unmoved = load_file(Path(base) / "model.safetensors")
    assert all(torch.equal(value, unmoved[name]) for name, value in load_file(whole / "base/model.safetensors").items())
    stop_and_go_on(star, replace(config, out=str(tmp_path / "part")), monkeypatch)
    assert course(whole) == course(tmp_path / "part")
    assert all(torch.equal(value, files(tmp_path / "part")[name]) for name, value in files(whole).items())


def test_the_engine_samples_from_what_the_learner_trains(base: str, tmp_path: Path) -> None:
    """In the second step the adapters are no longer nothing, and the sampler's numbers are still the learner's."""
    folder = grpo.main(asked(base, tmp_path / "run"))
    assert max(row["sampler_gap_max"] for row in course(folder)) <= 1e-4
    before, after = load_file(Path(base) / "model.safetensors"), files(folder, 1)
    moved = {name: (after[name] - before[name]).abs().max().item() for name in before}
    assert moved["model.layers.0.self_attn.q_proj.weight"] > 1e-3
    assert moved["model.embed_tokens.weight"] == 0


def test_sft_learns_by_adapters_and_leaves_an_ordinary_model(base: str, tmp_path: Path) -> None:
    config = sft.Config(
        model=base, problems="sums:terms=2,most=3", examples=8, batch=8, steps=8, lr=1e-2, warmup=0, lora_rank=8,
        eval_problems=5, eval_samples=2, max_tokens=20, out=str(tmp_path / "run"),
    )  # fmt: skip
    folder = sft.main(config)
    losses = [row["loss"] for row in course(folder)]
    assert losses[-1] < losses[0] - 0.1
    place = folder / "checkpoints" / "step-000008"
    ordinary, _ = load_model(str(place))  # by transformers, which would take an adapter of the folder for its own
    trained, _ = load_model(base)
    learner = Learner(adapted(trained, 8, seed=5), lr=1.0)
    checkpoint.load(place, learner)
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(ordinary(tokens).logits, learner.model(tokens).logits, atol=1e-5, rtol=0)
    assert open_engine(str(folder)).name == "run@8"
    with pytest.raises(ValueError, match="holds another model"):
        checkpoint.load(place, Learner(load_model(base)[0], lr=1.0))
    learned = load_report(folder).stages[1]
    total = sum(parameter.numel() for parameter in learner.model.parameters())
    frozen = sum(parameter.numel() for parameter in ordinary.parameters())
    assert learned.train_flops == (6 * total - 2 * frozen) * learned.training_tokens > 0


def test_folding_leaves_what_is_trained_as_it_is(base: str) -> None:
    model = adapted(load_model(base)[0], 4, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = plain(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert folded.state_dict().keys() == load_model(base)[0].state_dict().keys()
    assert plain(folded) is folded


def test_adapters_depend_on_the_seed_alone(base: str) -> None:
    state = torch.get_rng_state()
    one, same, other = (adapted(load_model(base)[0], 4, seed).state_dict() for seed in (1, 1, 2))
    name = next(name for name in one if "lora_A" in name)
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rank_that_cannot_be_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="lora_rank is -1; it must be at least 0"):
        sft.Config(lora_rank=-1)
    monkeypatch.setattr("forethought.recipes.run.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"LoRA needs peft: pip install 'forethought\[lora\]'"):
        sft.Config(lora_rank=8)
    assert sft.Config().lora_rank == 0
