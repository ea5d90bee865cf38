"""The learner: what a step does to the weights, whatever the packing, the precision or the adapters."""

from __future__ import annotations

import copy
import random
from functools import partial
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from forethought.train.learner import Learner, adapters_off, lora
from forethought.train.losses import nll, policy_gradient
from forethought.types import Datum

torch.set_num_threads(1)


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.1,
        )
    )  # fmt: skip


def samples(groups: int = 3, seed: int = 0) -> list[Datum]:
    """Groups of four sequences below one prompt, with weights and a sampler's log-probabilities."""
    draw = random.Random(seed)
    data = []
    for _ in range(groups):
        prompt = [draw.randrange(64) for _ in range(5)]
        for _ in range(4):
            tail = [draw.randrange(64) for _ in range(draw.randrange(2, 9))]
            mask = [False] * 5 + [True] * len(tail)
            data.append(
                Datum(
                    tokens=(*prompt, *tail),
                    mask=tuple(mask),
                    weights=tuple(draw.uniform(-1, 1) if m else 0.0 for m in mask),
                    logprobs=tuple(-4.0 if m else 0.0 for m in mask),
                )
            )
    return data


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def furthest(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.mark.parametrize("normaliser", ["tokens", "sequences", 7.0])
def test_packing_does_not_change_the_step(normaliser: Any) -> None:
    """Gradients and metrics are those of the whole step, however it is cut, shared or computed again."""
    found = []
    settings: list[dict[str, Any]] = [
        {"max_tokens": 500}, {"max_tokens": 14}, {"max_tokens": 500, "share": False}, {"recompute": True},
    ]  # fmt: skip
    for setting in settings:
        learner = Learner(tiny(), lr=1e-3, **setting)
        metrics = learner.step(samples(), policy_gradient, normaliser=normaliser)
        gradient = {name: p.grad.clone() for name, p in learner.model.named_parameters() if p.grad is not None}
        found.append((gradient, metrics))
    assert [metrics["packs"] for _, metrics in found] == [1, 10, 1, 1]
    assert found[0][1]["computed"] < found[2][1]["computed"] == found[2][1]["naive"]
    same = ("loss", "grad_norm", "entropy", "sampler_gap", "sampler_gap_max", "sampler_kl", "targets", "naive")
    for gradient, metrics in found[1:]:
        assert furthest(gradient, found[0][0]) < 1e-6
        assert {name: metrics[name] for name in same} == pytest.approx(
            {name: found[0][1][name] for name in same}, rel=1e-4, abs=1e-6
        )


def test_recompute_keeps_less() -> None:
    """Bytes alive between the forward and the backward pass, the weights' own aside; that the gradients are the same
    is above."""
    kept = {}
    for recompute in (False, True):
        learner = Learner(tiny(), lr=1e-3, recompute=recompute)
        own = {p.untyped_storage().data_ptr() for p in learner.parameters}
        held: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor, own: set[int] = own, held: dict[int, Any] = held) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                held[storage.data_ptr()] = storage  # held, so that no address is used again
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            learner.step(samples(), policy_gradient)
        kept[recompute] = sum(storage.nbytes() for storage in held.values())
    assert kept[True] < 0.5 * kept[False]


def test_normaliser_divides_the_sum() -> None:
    data = samples()
    losses = {}
    for normaliser in ("tokens", "sequences", 1.0):
        losses[normaliser] = Learner(tiny(), lr=1e-3).step(data, nll, normaliser=normaliser)["loss"]
    assert losses["tokens"] == pytest.approx(losses[1.0] / sum(sum(d.mask) for d in data), rel=1e-5)
    assert losses["sequences"] == pytest.approx(losses[1.0] / len(data), rel=1e-5)


def test_learns() -> None:
    learner, data = Learner(tiny(), lr=3e-3), [Datum(d.tokens, d.mask, tuple(map(float, d.mask))) for d in samples(1)]
    first = learner.step(data, nll)["nll"]
    for _ in range(15):
        last = learner.step(data, nll)["nll"]
    assert last < 0.5 * first


def test_logprobs_serve_as_proximal_and_as_reference() -> None:
    learner, data = Learner(tiny(), lr=1e-2), samples()
    before = learner.logprobs(data)
    assert [len(row) for row in before] == [len(d.tokens) for d in data]
    assert all(
        value == 0 for row, d in zip(before, data, strict=True) for value, m in zip(row, d.mask, strict=True) if not m
    )
    loss = partial(policy_gradient, kl=0.1)
    first = learner.step(data, loss, proximal=before, reference=before)
    second = learner.step(data, loss, proximal=before, reference=before)
    assert first["ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert first["kl_reference"] == pytest.approx(0.0, abs=1e-6)
    assert second["kl_reference"] > 1e-4
    assert second["ratio_max"] > 1.01
    assert learner.counts["scored"] == learner.counts["computed"] / 2


def test_temperature_is_the_samplers() -> None:
    model, data = tiny(), samples(1)
    tokens = torch.tensor(data[0].tokens)
    expected = (model(input_ids=tokens[None]).logits[0] / 0.6).log_softmax(-1)
    found = Learner(model, lr=1e-3, temperature=0.6).logprobs(data)[0]
    assert found[5] == pytest.approx(expected[4, tokens[5]].item(), abs=1e-5)


def test_a_non_finite_gradient_changes_nothing() -> None:
    learner = Learner(tiny(), lr=1e-2)
    learner.step(samples(), nll)
    before, state = weights(learner.model), copy.deepcopy(learner.state_dict())
    bad = samples()
    bad[3] = Datum(bad[3].tokens, bad[3].mask, tuple(float("inf") if m else 0.0 for m in bad[3].mask))
    with pytest.raises(FloatingPointError, match="gradient norm of step 2 is"):
        learner.step(bad, nll)
    assert furthest(weights(learner.model), before) == 0
    assert learner.steps == 1
    for left, right in zip(state["optimizer"]["state"].values(), learner.optimizer.state.values(), strict=True):
        assert torch.equal(left["exp_avg"], right["exp_avg"])


def test_rate_warms_up_and_decays() -> None:
    def rates(**settings: Any) -> list[float]:
        learner = Learner(tiny(), lr=1.0, **settings)
        found = []
        for step in range(6):
            learner.steps = step
            found.append(round(learner.rate(), 4))
        return found

    assert rates(warmup=2) == [0.5, 1, 1, 1, 1, 1]
    assert rates(warmup=2, decay="linear", total=6) == [0.5, 1, 1, 0.75, 0.5, 0.25]
    assert rates(decay="cosine", total=4) == [1, 0.8536, 0.5, 0.1464, 0, 0]
    assert Learner(tiny(), lr=0.5, warmup=10).step(samples(), nll)["lr"] == pytest.approx(0.05)


def test_norms_and_biases_are_not_decayed() -> None:
    learner = Learner(tiny(), lr=1e-2, weight_decay=10.0)
    before = weights(learner.model)
    still = [Datum(d.tokens, d.mask, (0.0,) * len(d.tokens)) for d in samples()]
    learner.step(still, nll)  # zero gradients: what moves is decay alone
    for name, now in weights(learner.model).items():
        expected = before[name] * (1.0 if now.ndim < 2 else 0.9)
        torch.testing.assert_close(now, expected)


def test_lora_changes_its_adapters_only() -> None:
    model = lora(tiny(), rank=4)
    learner, data = Learner(model, lr=1e-2), samples()
    reference = learner.logprobs(data)
    before = weights(model)
    for _ in range(2):
        learner.step(data, policy_gradient)
    moved = {name for name, now in weights(model).items() if not torch.equal(now, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    assert learner.logprobs(data) != reference
    with adapters_off(model):
        assert learner.logprobs(data) == reference
    with pytest.raises(ValueError, match="no adapters"), adapters_off(tiny()):
        pass


def test_lora_without_peft_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"forethought\[lora\]"):
        lora(tiny())


def test_bf16_keeps_float32_weights_and_stays_near() -> None:
    single, half = Learner(tiny(), lr=1e-3), Learner(tiny(), lr=1e-3, autocast="bf16", max_tokens=20)
    left, right = single.step(samples(), policy_gradient), half.step(samples(), policy_gradient)
    assert right["packs"] > 1
    assert right["grad_norm"] == pytest.approx(left["grad_norm"], rel=0.02)
    assert right["loss"] == pytest.approx(left["loss"], rel=0.02, abs=1e-3)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"decay": "cosine"}, "needs total steps above warmup=0; total is None"),
        ({"decay": "square"}, "decay is 'square'"),
        ({"autocast": "fp8"}, "autocast is 'fp8'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"max_tokens": 1}, "max_tokens is 1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Learner(tiny(), **{"lr": 1e-3, **settings})


def test_bad_models_and_data() -> None:
    with pytest.raises(ValueError, match=r"is torch\.bfloat16"):
        Learner(tiny().to(torch.bfloat16), lr=1e-3)
    with pytest.raises(ValueError, match="nothing to train"):
        Learner(tiny().requires_grad_(False), lr=1e-3)
    learner = Learner(tiny(), lr=1e-3)
    with pytest.raises(ValueError, match="none of the 1 data has a target"):
        learner.step([Datum((1, 2), (False, False), (0.0, 0.0))], nll)
    with pytest.raises(ValueError, match="normaliser is 0"):
        learner.step(samples(), nll, normaliser=0)
