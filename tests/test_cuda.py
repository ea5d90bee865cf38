"""The engine and the learner on a GPU: `pytest -m gpu`."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from local_engines import Request, tiny, together

from forethought.engines.local import LocalEngine
from forethought.engines.local.graphs import Graphs
from forethought.engines.local.llama import LlamaDecoder
from forethought.train import attention
from forethought.train.learner import Learner
from forethought.train.losses import nll
from forethought.types import Datum, Sampling, Step, user

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


def engine(*, recorded: bool = True, **options: Any) -> LocalEngine:
    model, tokenizer = tiny()
    made = LocalEngine(copy.deepcopy(model).to("cuda"), tokenizer, name="tiny", dtype="fp32", **options)
    if not recorded:
        made._loop.graphs = None
    return made


def requests(count: int, longest: int = 60) -> list[Request]:
    """Prompts, lengths and ways to draw of every kind, a seed each."""
    draw = random.Random(0)
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"temperature": 1.3, "top_p": 0.5},
    ]
    return [
        (
            user("".join(draw.choices("0123456789+ ", k=draw.randint(1, 40)))),
            (),
            Sampling(draw.randint(1, longest), seed=seed, **draw.choice(kinds)),
        )
        for seed in range(count)
    ]


def texts(made: LocalEngine, asked: Sequence[Request]) -> list[tuple[int, ...]]:
    return [step.tokens for step in together(made, asked)]


def test_recorded_steps_draw_what_single_launches_draw() -> None:
    asked = requests(96)
    assert texts(engine(), asked) == texts(engine(recorded=False), asked)


def test_a_gpu_draws_what_the_cpu_draws() -> None:
    asked = requests(64)
    model, tokenizer = tiny()
    here = together(LocalEngine(model, tokenizer, name="tiny", dtype="fp32"), asked)
    there = together(engine(), asked)
    alike = [a.tokens == b.tokens for a, b in zip(here, there, strict=True)]
    # A draw at the border of two tokens may fall to either side: sums are rounded in another order.
    assert sum(alike) >= 0.95 * len(alike)
    for a, b, same in zip(here, there, alike, strict=True):
        if same:
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_rows_that_come_and_go_leave_no_trace_in_the_others() -> None:
    asked = requests(150)
    alone = engine(max_rows=1)
    assert texts(engine(max_rows=24), asked) == texts(alone, asked)


def test_rows_outgrow_a_page_and_new_weights_reach_the_graphs() -> None:
    model, tokenizer = tiny(context=1024)
    made = LocalEngine(copy.deepcopy(model).to("cuda"), tokenizer, name="tiny", dtype="fp32")
    asked = [(user("1 + 1 = ?"), (), Sampling(700, seed=seed)) for seed in range(3)]
    before = texts(made, asked)
    other = copy.deepcopy(model).to("cuda")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    made.update(other, 1)
    after = texts(made, asked)
    assert before != after
    fresh = LocalEngine(other, tokenizer, name="tiny", dtype="fp32")
    fresh._loop.graphs = None
    assert after == texts(fresh, asked)


def test_values_of_drawn_tokens_are_those_of_given_ones() -> None:
    weight_D = torch.randn(64, generator=torch.Generator().manual_seed(1))
    messages = user("12 + 7 = ?")

    async def ask(drawn: LocalEngine, read: LocalEngine) -> tuple[tuple[float, ...], tuple[float, ...]]:
        step = await drawn.sample(messages, (), Sampling(40, seed=3))
        return await drawn.values(messages, (step,)), await read.values(messages, (step,))

    drawn, read = engine(), engine(recorded=False)
    drawn.attach(weight_D)
    read.attach(weight_D)
    ours, theirs = asyncio.run(ask(drawn, read))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_recorded_step_reads_no_memory_that_was_given_back() -> None:
    weight_D = torch.randn(64, generator=torch.Generator().manual_seed(1))

    async def ask(drawn: LocalEngine, read: LocalEngine) -> None:
        async def four(seed: int) -> list[Step]:
            prompts = [user(f"{number} + 7 = ?") for number in range(4)]
            calls = [drawn.sample(prompt, (), Sampling(40, seed=seed)) for prompt in prompts]
            return list(await asyncio.gather(*calls))

        await four(1)
        others = [torch.zeros(4, dtype=torch.int64, device="cuda") for _ in range(256)]
        for number, step in enumerate(await four(2)):
            messages = user(f"{number} + 7 = ?")
            ours, theirs = await drawn.values(messages, (step,)), await read.values(messages, (step,))
            assert ours == pytest.approx(theirs, abs=1e-4)
        assert not any(bool(other.any()) for other in others)

    drawn, read = engine(), engine(recorded=False)
    drawn.attach(weight_D)
    read.attach(weight_D)
    asyncio.run(ask(drawn, read))


def test_graphs_make_way_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forethought.engines.local.graphs.MOST", 2)
    asked = requests(48)
    assert texts(engine(), asked) == texts(engine(recorded=False), asked)


def test_a_cancelled_request_frees_its_row() -> None:
    made = engine()

    async def ask() -> None:
        calls = [asyncio.ensure_future(made.sample(*request)) for request in requests(200)]
        await asyncio.sleep(0.2)
        for call in calls[::3]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(ask())
    assert not made._loop.rows
    assert not made._waiters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_transformers(dtype: torch.dtype) -> None:
    config = transformers.LlamaConfig(
        vocab_size=307, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval().to("cuda")
    decoder = LlamaDecoder(model, dtype)
    tokens = torch.randint(307, (2, 48)).tolist()
    kv = torch.zeros((6, 2, 2, 64, 16), dtype=dtype, device="cuda")
    hidden = decoder.prefill(tokens, [0, 0], kv)
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor(tokens, device="cuda")).logits
    bound = 1e-4 if dtype == torch.float32 else 0.1
    for row in range(2):
        assert float((decoder.logits(hidden[row]).float() - theirs[row]).abs().max()) < bound


def test_the_learner_takes_the_step_it_takes_on_a_cpu() -> None:
    draw = random.Random(0)
    data = []
    for length in (20, 33, 50):
        tokens = tuple(draw.randrange(20) for _ in range(length))
        data.append(Datum(tokens, (False,) + (True,) * (length - 1), (1.0,) * length))
    here, there = copy.deepcopy(tiny()[0]), copy.deepcopy(tiny()[0]).to("cuda")
    for _ in range(3):
        ours = Learner(here, lr=1e-3).step(data, nll)
        theirs = Learner(there, lr=1e-3).step(data, nll)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


def test_graphs_are_recorded_once_for_a_shape() -> None:
    model, _ = tiny()
    made = engine()
    texts(made, requests(8))
    graphs = made._loop.graphs
    assert isinstance(graphs, Graphs)
    known = dict(graphs._known)
    assert known
    made.update(copy.deepcopy(model).to("cuda"), 1)  # into the same memory
    texts(made, requests(8))
    assert graphs._known == known


def test_the_fused_attention_learns_what_the_blocks_learn() -> None:
    draw = random.Random(0)
    prompt = tuple(draw.randrange(20) for _ in range(30))
    data = []
    for length in (5, 90, 200, 17, 60):
        tokens = prompt + tuple(draw.randrange(20) for _ in range(length))
        data.append(Datum(tokens, (False,) * 30 + (True,) * length, (1.0,) * len(tokens)))
    model = copy.deepcopy(tiny(context=256)[0]).to("cuda")
    assert attention.fuses(model.config, torch.device("cuda"))
    fused, blocks = Learner(copy.deepcopy(model), lr=1e-3), Learner(model, lr=1e-3)
    ours = fused.step(data, nll)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forethought.train.forward.fuses", lambda *_: False)
        theirs = blocks.step(data, nll)
    assert ours["computed"] < ours["naive"]
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    for one, other in zip(fused.parameters, blocks.parameters, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert float((one.grad - other.grad).abs().max()) <= 1e-3 * float(other.grad.abs().max())
