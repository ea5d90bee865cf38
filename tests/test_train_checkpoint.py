"""A run that stops and goes on is the run that never stopped, to the bit."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from forethought.train import checkpoint
from forethought.train.checkpoint import latest, load, save
from forethought.train.learner import Learner, lora
from forethought.train.losses import policy_gradient
from forethought.types import Datum

torch.set_num_threads(1)


def tiny(seed: int = 0, width: int = 64, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64, hidden_size=width, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.1, tie_word_embeddings=tied, attention_dropout=0.1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def learner(model: torch.nn.Module) -> Learner:
    return Learner(model, lr=1e-3, warmup=3, decay="cosine", total=12, weight_decay=0.01)


def drawn(draw: random.Random, count: int = 4) -> list[Datum]:
    data = []
    for _ in range(count):
        tokens = tuple(draw.randrange(64) for _ in range(8))
        mask = (False,) * 3 + (True,) * 5
        weights = tuple(draw.uniform(-1, 1) if m else 0.0 for m in mask)
        data.append(Datum(tokens, mask, weights, tuple(-4.0 if m else 0.0 for m in mask)))
    return data


def walk(trainer: Learner, draw: random.Random, buffer: list[Datum], steps: int) -> list[dict[str, float]]:
    """Rollouts of eight data, taken three at a time, so that a stop can fall within a buffer."""
    found = []
    for _ in range(steps):
        if len(buffer) < 3:
            buffer += drawn(draw, 8)
        batch, buffer[:] = buffer[:3], buffer[3:]
        found.append(trainer.step(batch, policy_gradient))
    return found


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    pairs = zip(left.state_dict().items(), right.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("kind", ["full", "tied", "lora"])
@pytest.mark.parametrize("stop", [1, 6])
def test_twelve_steps_are_some_and_the_rest_after_a_resume(kind: str, stop: int, tmp_path: Path) -> None:
    def fresh(seed: int) -> Learner:
        model = tiny(seed if kind != "lora" else 0, tied=kind == "tied")
        torch.manual_seed(seed)
        return learner(lora(model, 4) if kind == "lora" else model)

    torch.manual_seed(5)
    straight, draw, buffer = fresh(1), random.Random(3), list[Datum]()
    torch.manual_seed(7)
    first = walk(straight, draw, buffer, stop)
    folder = save(tmp_path, stop, straight, state={"taken": 3 * stop}, data=buffer, rng={"rollout": draw})
    rest = walk(straight, draw, buffer, 12 - stop)

    resumed, again = fresh(2), random.Random(99)
    assert not same(resumed.model, straight.model)
    saved = load(folder, resumed, rng={"rollout": again})
    assert (saved.step, saved.state) == (stop, {"taken": 3 * stop})
    assert walk(resumed, again, saved.data, 12 - stop) == rest
    assert same(resumed.model, straight.model)
    assert resumed.counts == straight.counts
    assert saved.data == buffer
    assert len(first) == stop


def test_every_random_state_comes_back(tmp_path: Path) -> None:
    trainer = learner(tiny())
    own: dict[str, Any] = {
        "python": random.Random(1), "numpy": np.random.default_rng(2), "mt": np.random.Generator(np.random.MT19937(3)),
        "torch": torch.Generator().manual_seed(4),
    }  # fmt: skip

    def draw() -> list[float]:
        return [
            random.random(), float(np.random.rand()), torch.rand(()).item(), own["python"].gauss(), own["mt"].random(),
            own["numpy"].integers(5, dtype=np.uint32).item(), torch.rand((), generator=own["torch"]).item(),
        ]  # fmt: skip

    draw()  # so that half-used state (a spare gaussian, a spare 32-bit half) is kept too
    folder = save(tmp_path, 1, trainer, state={}, rng=own)
    expected = [draw() for _ in range(2)]
    load(folder, trainer, rng=own)
    assert [draw() for _ in range(2)] == expected
    with pytest.raises(ValueError, match="no random state called other"):
        load(folder, trainer, rng={"other": random.Random()})


def test_data_come_back_exactly(tmp_path: Path) -> None:
    data = [
        Datum((1, 2), (False, True), (0.0, 0.1), (0.0, -1 / 3), (0.5, float("-inf")), pair=3),
        Datum((4,), (False,), (0.0,)),
        Datum((), (), ()),
    ]
    trainer = learner(tiny())
    assert load(save(tmp_path, 0, trainer, state={}, data=data), trainer).data == data
    assert load(save(tmp_path, 1, trainer, state={}), trainer).data == []


def test_the_folder_is_an_ordinary_checkpoint(tmp_path: Path) -> None:
    trainer = learner(tiny())
    folder = save(tmp_path, 1, trainer, state={})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert same(model, trainer.model)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    trainer = learner(tiny())
    assert latest(tmp_path) is None
    for step in (9, 10, 11):
        save(tmp_path, step, trainer, state={}, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000010", "step-000011"]
    assert latest(tmp_path) == tmp_path / "checkpoints" / "step-000011"
    save(tmp_path, 11, trainer, state={"again": True}, keep=1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000011"]
    assert load(tmp_path / "checkpoints" / "step-000011", trainer).state == {"again": True}
    with pytest.raises(ValueError, match="keep is 0"):
        save(tmp_path, 12, trainer, state={}, keep=0)


def test_leftovers_of_a_killed_run_are_no_checkpoint(tmp_path: Path) -> None:
    trainer = learner(tiny())
    save(tmp_path, 1, trainer, state={})
    (tmp_path / "checkpoints" / ".step-000002.part").mkdir()
    (tmp_path / "checkpoints" / "step-000003").mkdir()
    found = latest(tmp_path)
    assert found is not None
    assert found.name == "step-000001"
    assert save(tmp_path, 2, trainer, state={}) == latest(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, learner(tiny()), state={})
    other = learner(tiny(width=32))
    before = {name: p.detach().clone() for name, p in other.model.named_parameters()}
    with pytest.raises(ValueError, match=r"2 layers, width 64, .*this run's is llama of 2 layers, width 32"):
        load(folder, other)
    assert all(torch.equal(p, before[name]) for name, p in other.model.named_parameters())
    with pytest.raises(ValueError, match="another model"):
        load(folder, learner(lora(tiny(), 4)))
    with pytest.raises(ValueError, match=r"no checkpoint of ours: it has no state\.json"):
        load(tmp_path, other)


@contextmanager
def full_disk(limit: int = 60_000) -> Iterator[None]:
    """No file may grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("where", ["weights", "trainer", "flush"])
def test_a_full_disk_leaves_the_earlier_checkpoint(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = learner(tiny())
    trainer.step(drawn(random.Random(0)), policy_gradient)
    folder = save(tmp_path, 1, trainer, state={"n": 1})
    with monkeypatch.context() as patch:
        if where == "trainer":
            patch.setattr(trainer.model, "save_pretrained", lambda part: None)
        if where == "flush":

            def fail(path: Path) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(checkpoint, "flush", fail)
        for step in (1, 2):
            with full_disk(10**9 if where == "flush" else 60_000), pytest.raises(OSError, match=str(folder.parent)):
                save(tmp_path, step, trainer, state={"n": 2})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert load(folder, trainer).state == {"n": 1}


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "run"
    blocked.write_text("a file where the run's folder should be")
    with pytest.raises(OSError, match=r"step 1 could not be written to .*run"):
        save(blocked, 1, learner(tiny()), state={})


def test_state_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be JSON values: Object of type set"):
        save(tmp_path, 1, learner(tiny()), state={"seen": {1}})
    assert not os.listdir(tmp_path)
