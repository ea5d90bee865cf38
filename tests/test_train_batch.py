"""Trie packing, the loss over targets alone, and the learner's sums against the sequences one by one."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from forethought.train import attention
from forethought.train import forward as forward_module
from forethought.train.batch import pack
from forethought.train.forward import forward, parts
from forethought.train.losses import nll
from forethought.types import Datum

torch.set_num_threads(1)


def tiny(tied: bool = False, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def row(tokens: list[int], prompt: int, seed: int = 0) -> Datum:
    draw = random.Random(f"{seed}/{tokens}")
    mask = [place >= prompt for place in range(len(tokens))]
    weights = [draw.uniform(-1, 1) if target else 0.0 for target in mask]
    return Datum(tuple(tokens), tuple(mask), tuple(weights))


def tree(seed: int = 1) -> list[Datum]:
    """Two prompts, branches that split inside the thought, a prefix of another, a repeat, and a lone sequence."""
    draw = random.Random(seed)
    a, b = [[draw.randrange(64) for _ in range(6)] for _ in range(2)]
    middle = [draw.randrange(64) for _ in range(3)]
    tails = [[draw.randrange(64) for _ in range(n)] for n in (2, 5, 4, 7, 3)]
    return [
        row(a + middle + tails[0], 6), row(b + tails[1], 6), row(a + middle + tails[2], 6), row(a + tails[3], 6),
        row(a + middle, 6), row(b + tails[4], 6), row(a + middle + tails[0], 6, seed=2), row(tails[3][::-1], 1),
    ]  # fmt: skip


Result = tuple[list[list[float]], Tensor]


def one_by_one(model: LlamaForCausalLM, data: list[Datum], temperature: float = 1.0) -> Result:
    """Log-probabilities of every target and the summed loss, by the model's own forward."""
    loss = torch.zeros(())
    rows = []
    for datum in data:
        tokens = torch.tensor(datum.tokens)
        logits = model(input_ids=tokens[None]).logits[0, :-1].float() / temperature
        logprobs = logits.log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
        mask, weights = torch.tensor(datum.mask[1:]), torch.tensor(datum.weights[1:])
        loss = loss - (logprobs * weights)[mask].sum()
        rows.append(logprobs[mask].tolist())
    return rows, loss


def gradients(model: LlamaForCausalLM) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def packed(
    model: LlamaForCausalLM, data: list[Datum], max_tokens: int, share: bool, temperature: float = 1.0
) -> Result:
    rows: list[list[float]] = [[] for _ in data]
    total = torch.zeros(())
    for piece in pack(data, max_tokens, share=share):
        outputs = forward(model, piece, temperature=temperature)
        total = total + nll(piece, outputs)[0]
        for number, value in zip(piece.datum_M.tolist(), outputs.logprobs_M.tolist(), strict=True):
            rows[number].append(value)
    return rows, total


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("max_tokens", "share"), [(400, True), (400, False), (20, True), (20, False)])
def test_packed_equals_one_by_one(tied: bool, max_tokens: int, share: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_module, "CHUNK", 7)  # several chunks, the last one ragged
    monkeypatch.setattr(attention, "BLOCK", 4)  # several blocks of queries, cut at branches and within runs
    model, data = tiny(tied), tree()
    expected, loss = one_by_one(model, data, 0.7)
    loss.backward()
    wanted = gradients(model)
    found, total = packed(model, data, max_tokens, share, 0.7)
    total.backward()
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(left), torch.tensor(right), atol=1e-5, rtol=0)
    torch.testing.assert_close(total, loss, atol=1e-4, rtol=0)
    for name, gradient in gradients(model).items():
        scale = wanted[name].abs().max()
        assert (gradient - wanted[name]).abs().max() <= 1e-5 * scale, name


def test_batch_of_eight_equals_eight_batches_of_one() -> None:
    model, data = tiny(), tree()
    together, _ = packed(model, data, 400, True)
    alone = [packed(model, [datum], 400, True)[0][0] for datum in data]
    for left, right in zip(together, alone, strict=True):
        torch.testing.assert_close(torch.tensor(left), torch.tensor(right), atol=1e-5, rtol=0)


def test_layout_by_hand() -> None:
    data = [row([1, 2, 3, 4], 2), row([9, 8], 1), row([1, 2, 5], 2), row([1, 2, 3], 2)]
    (piece,) = pack(data, 50)
    # The prefix 1 2 3 stands before what extends it; 9 8 keeps its place after the tree it was met in.
    assert piece.tokens_T.tolist() == [1, 2, 3, 4, 5, 9, 8]
    assert piece.positions_T.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert piece.end_T.tolist() == [5, 5, 4, 4, 5, 7, 7]
    entries = zip(*(t.tolist() for t in (piece.datum_M, piece.place_M, piece.at_M, piece.target_M)), strict=True)
    assert sorted(entries) == [(0, 2, 1, 3), (0, 3, 2, 4), (1, 1, 5, 8), (2, 2, 1, 5), (3, 2, 1, 3)]
    assert (piece.computed, piece.naive) == (7, 12)
    visible = piece.visible().tolist()
    assert [j for j in range(7) if visible[4][j]] == [0, 1, 4]
    assert [j for j in range(7) if visible[6][j]] == [5, 6]


def test_packs_are_filled_and_data_with_a_prefix_stay_together() -> None:
    a, b = [1, 2, 3, 4], [5, 6, 7, 8]
    data = [row([*a, 10], 4), row([*b, 11], 4), row([*a, 12], 4), row([*b, 13], 4)]
    packs = pack(data, 6)
    assert [sorted(set(piece.datum_M.tolist())) for piece in packs] == [[0, 2], [1, 3]]
    assert sum(piece.computed for piece in packs) == 12
    # A tree larger than a pack goes on in the next one, its prefix computed again.
    assert [piece.computed for piece in pack([row([*a, t], 4) for t in range(10, 15)], 6)] == [6, 6, 5]
    assert [piece.computed for piece in pack(data, 10, share=False)] == [10, 10]


def test_data_without_targets_pack_to_no_target() -> None:
    (piece,) = pack([Datum((1, 2), (False, False), (0.0, 0.0))], 10)
    assert len(piece.at_M) == 0


def test_missing_sampler_logprobs_are_nan() -> None:
    known = Datum((1, 2), (False, True), (0.0, 1.0), (0.0, -0.5))
    (piece,) = pack([known, row([3, 4], 1)], 10)
    assert piece.sampler_M[0].item() == -0.5
    assert piece.sampler_M[1].isnan()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="datum 1 has 5 tokens and a pack holds 4"):
        pack([row([1, 2], 1), row([1, 2, 3, 4, 5], 1)], 4)
    with pytest.raises(ValueError, match="first token of datum 0 is a target"):
        pack([row([1, 2], 0)], 4)
    with pytest.raises(ValueError, match="reference must have a value for each token"):
        pack([row([1, 2], 1)], 4, reference=[(0.0,)])


@pytest.mark.parametrize("block", [1, 3, 64])
def test_blocks_see_what_the_mask_says_and_nothing_else(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", block)
    (piece,) = pack(tree(), 400)
    plan = attention.plan(piece)
    edges = [0, *torch.tensor(plan.sizes).cumsum(0).tolist()]
    seen = torch.zeros(piece.computed, piece.computed, dtype=torch.bool)
    ends = [0]
    for part in plan.blocks:
        assert part.start == ends[-1]
        ends.append(part.end)
        keys = [key for number in part.pieces for key in range(edges[number], edges[number + 1])]
        seen[part.start : part.end, keys] = part.bias_QK == 0
    assert ends[-1] == edges[-1] == piece.computed
    assert torch.equal(seen, piece.visible())
    assert max(part.end - part.start for part in plan.blocks) <= 2 * block
    assert plan.depth == max(len(datum.tokens) for datum in tree())


def test_a_block_skips_the_branches_beside_it() -> None:
    draw = random.Random(0)
    prompt = [draw.randrange(64) for _ in range(70)]
    data = [row([*prompt, *(draw.randrange(64) for _ in range(60))], 70) for _ in range(8)]
    (piece,) = pack(data, 1000)
    scores = sum(part.bias_QK.numel() for part in attention.plan(piece).blocks)
    assert scores < 0.3 * piece.computed**2


def test_attention_is_given_back() -> None:
    model = tiny()
    before = model.config._attn_implementation
    long = torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(TypeError, match="trie"), attention.attending(model.model):
        model.model(input_ids=long)  # no plan was given
    assert model.config._attn_implementation == before


def test_a_sequence_beyond_the_sliding_window_is_refused() -> None:
    config = MistralConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=4,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    short, long = pack([row([1, 2, 3, 4], 2)], 10)[0], pack([row([1, 2, 3, 4, 5], 2)], 10)[0]
    assert forward(model, short).logprobs_M.isfinite().all()
    with pytest.raises(ValueError, match="5 tokens and the model's attention slides over 4"):
        forward(model, long)


@pytest.mark.parametrize("keys", [0, 512])  # the fused kernel, and plain products
def test_bf16_is_near_and_so_is_its_gradient(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "KEYS", keys)
    model, data = tiny(), tree()
    expected, total = packed(model, data, 400, True)
    total.backward()
    wanted = gradients(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, total = packed(model, data, 400, True)
        total.backward()
    worst = max(
        abs(a - b) for left, right in zip(found, expected, strict=True) for a, b in zip(left, right, strict=True)
    )
    assert 0 < worst < 0.2
    for name, gradient in gradients(model).items():
        assert gradient.dtype == torch.float32
        assert (gradient - wanted[name]).norm() < 0.05 * wanted[name].norm(), name


def test_entropy_is_that_of_the_distribution() -> None:
    model = tiny()
    (piece,) = pack([row([1, 2, 3], 1)], 10)
    logits = model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, :-1] / 0.5
    expected = torch.distributions.Categorical(logits=logits).entropy()
    found = forward(model, piece, temperature=0.5).entropy_M
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not found.requires_grad


def test_a_head_the_learner_cannot_read_is_refused() -> None:
    model = tiny()
    model.config.logits_scaling = 8.0
    with pytest.raises(ValueError, match=r"logits_scaling=8\.0"):
        parts(model)
    with pytest.raises(ValueError, match="plain linear vocabulary head"):
        parts(tiny().model)
    model = tiny()
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match=r"cannot be packed \(linear_attention\)"):
        parts(model)


class Widest(TorchDispatchMode):
    """Sees every tensor that is made: the most rows of those as wide as the vocabulary, the head's weight aside."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.columns, self.width = model.lm_head.weight.shape
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            shape = tensor.shape if isinstance(tensor, Tensor) else (0,)
            if shape[-1:] == (self.columns,) and shape != (self.width, self.columns):
                self.rows = max(self.rows, tensor.numel() // self.columns)
        return made


@pytest.mark.parametrize("tied", [False, True])
def test_the_whole_vocabulary_tensor_is_never_made(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the forward nor in the backward pass; 61 columns, which no other tensor of this model has."""
    monkeypatch.setattr(forward_module, "CHUNK", 7)
    model, data = tiny(tied), tree()
    model.resize_token_embeddings(61)
    data = [replace(datum, tokens=tuple(token % 61 for token in datum.tokens)) for datum in data]
    (piece,) = pack(data, 400)
    assert len(piece.at_M.unique()) > 3 * 7
    with Widest(model) as seen:
        nll(piece, forward(model, piece))[0].backward()
    assert seen.rows == 7
    with Widest(model) as seen:
        model(input_ids=piece.tokens_T[None]).logits.sum()
    assert seen.rows == piece.computed


def test_gradient_of_the_head_alone() -> None:
    """`_Head` against autograd of the plain log-softmax: many targets on one row, a bias, and a temperature."""
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((5, 8), (11, 8), (11,)))
    at, target, upstream = torch.tensor([0, 0, 3, 4, 3]), torch.tensor([2, 7, 1, 10, 1]), torch.randn(5)
    plain = (torch.nn.functional.linear(hidden, weight, bias) / 1.3).log_softmax(-1)[at, target]
    wanted = torch.autograd.grad(plain @ upstream, (hidden, weight, bias))
    apply = partial(forward_module._Head.apply, hidden, weight, bias)
    logprobs, _ = apply(at, target, 1.3)
    torch.testing.assert_close(logprobs, plain)
    for left, right in zip(torch.autograd.grad(logprobs @ upstream, (hidden, weight, bias)), wanted, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)
