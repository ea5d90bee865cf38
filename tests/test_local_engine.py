"""The embedded engine: exact against transformers, the same whatever shares its batch, every stop its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from forethought.engines.local import LocalEngine, TinyConfig
from forethought.engines.local.generic import GenericDecoder
from forethought.engines.local.llama import LlamaDecoder, supports
from forethought.engines.local.load import load_model
from forethought.engines.local.sampling import draw, uniforms
from forethought.engines.local.tiny import build, build_tokenizer
from forethought.thought.marks import compose
from forethought.thought.steps import split
from forethought.thought.tokens import prompt_tokens
from forethought.train.data import datum
from forethought.train.learner import Learner
from forethought.types import Datum, Sampling, Step, user

T = TypeVar("T")
SHAPE: dict[str, Any] = {
    "vocab_size": 103,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return build(TinyConfig(layers=2, width=64, context=128))


@pytest.fixture
def engine(tiny: tuple[Any, Any]) -> LocalEngine:
    return LocalEngine(*tiny, name="tiny")


def models() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return [
        LlamaForCausalLM(LlamaConfig(**SHAPE)),
        LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True, attention_bias=True)),
        LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters={**rope, "original_max_position_embeddings": 16})),
        Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
        Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
        Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=16)),
        GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=103, bos_token_id=1, eos_token_id=1)),
    ]


@pytest.mark.parametrize("model", models(), ids=lambda model: type(model).__name__)
def test_decoding_from_the_cache_gives_the_logits_of_transformers(model: Any) -> None:
    model.eval()
    ids_BT = torch.randint(2, 103, (3, 24))
    with torch.no_grad():
        expected_BTV = model(ids_BT).logits
    decoders: list[Any] = [GenericDecoder(model, torch.float32)]
    if supports(model.config):
        decoders.append(LlamaDecoder(model, torch.float32))
    for decoder in decoders:
        kv_LRHTD = torch.zeros((2 * decoder.layers, 3, decoder.kv_heads, 32, decoder.width))
        starts = [10, 12, 7]  # rows of different lengths share the batch
        cuts = [0, 4, 6]  # and some have a part of theirs already
        heads = decoder.prefill(
            [ids_BT[row, :cut].tolist() or [2] for row, cut in enumerate(cuts)], [0, 0, 0], kv_LRHTD
        )
        del heads
        hidden = decoder.prefill(
            [ids_BT[row, cuts[row] : start].tolist() for row, start in enumerate(starts)], cuts, kv_LRHTD
        )
        for row, start in enumerate(starts):
            expected_TV = expected_BTV[row, cuts[row] : start]
            torch.testing.assert_close(decoder.logits(hidden[row]), expected_TV, atol=1e-4, rtol=0)
        for move in range(10):
            at_B = torch.tensor(starts) + move
            hidden_BD = decoder.decode(ids_BT[torch.arange(3), at_B], at_B, kv_LRHTD)
            torch.testing.assert_close(
                decoder.logits(hidden_BD), expected_BTV[torch.arange(3), at_B], atol=1e-4, rtol=0
            )


def test_what_the_llama_path_cannot_do_exactly_goes_through_the_generic_one() -> None:
    assert not supports(GPT2Config())
    assert not supports(LlamaConfig(**SHAPE, hidden_act="gelu"))
    assert not supports(
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    )
    assert supports(LlamaConfig(**SHAPE, mlp_bias=True))
    assert supports(Qwen3Config(**SHAPE))


def test_sampler_and_trainer_agree_on_a_thousand_tokens(tiny: tuple[Any, Any], engine: LocalEngine) -> None:
    """Largest difference at most 1e-4 in fp32, and scoring by the engine agrees too."""
    model, tokenizer = tiny
    questions = [user(f"{number} + 5 = ?") for number in range(7)]

    async def samples() -> tuple[list[Step], list[tuple[tuple[float, ...], ...]]]:
        jobs = [engine.sample(questions[i % 7], (), Sampling(max_tokens=10 + i % 40, seed=i)) for i in range(48)]
        steps = list(await asyncio.gather(*jobs))
        scored = [engine.logprobs(questions[i % 7], (step,)) for i, step in enumerate(steps)]
        return steps, list(await asyncio.gather(*scored))

    steps, scored = run(samples())
    data = [datum(tokenizer, questions[i % 7], (step,)) for i, step in enumerate(steps)]
    rows = Learner(model, lr=1e-3).logprobs(data)
    gaps = [
        abs(ours - theirs)
        for d, row in zip(data, rows, strict=True)
        for ours, theirs in zip(d.logprobs, row, strict=True)
    ]
    assert sum(len(step.tokens) for step in steps) >= 1000
    assert max(gaps) <= 1e-4
    for step, (again,) in zip(steps, scored, strict=True):
        assert step.logprobs == pytest.approx(again, abs=1e-4)


def test_a_batch_of_8_is_8_batches_of_1(engine: LocalEngine) -> None:
    jobs = [(user(f"{'9' * i} + 1 = ?"), Sampling(max_tokens=24, temperature=0.8, top_p=0.9, seed=i)) for i in range(8)]

    async def together() -> list[Step]:
        return list(await asyncio.gather(*(engine.sample(messages, (), sampling) for messages, sampling in jobs)))

    batch = run(together())
    alone = [run(engine.sample(messages, (), sampling)) for messages, sampling in jobs]
    assert [step.tokens for step in batch] == [step.tokens for step in alone]
    for one, other in zip(batch, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_rows_join_and_leave_without_touching_the_others(tiny: tuple[Any, Any]) -> None:
    narrow = LocalEngine(*tiny, name="tiny", max_rows=3)  # 20 requests of different lengths through 3 rows
    wide = LocalEngine(*tiny, name="tiny")

    async def all_of(engine: LocalEngine) -> list[Step]:
        jobs = [
            engine.sample(user(f"{i % 4} = ?"), (), Sampling(max_tokens=3 + 5 * (i % 6), seed=i)) for i in range(20)
        ]
        return list(await asyncio.gather(*jobs))

    assert [step.tokens for step in run(all_of(narrow))] == [step.tokens for step in run(all_of(wide))]


def test_a_shared_prompt_is_computed_once(engine: LocalEngine) -> None:
    async def branches() -> None:
        await asyncio.gather(*(engine.sample(user("1 + 1 = ?"), (), Sampling(max_tokens=2, seed=i)) for i in range(6)))

    length = len(prompt_tokens(engine.tokenizer, user("1 + 1 = ?")))
    run(branches())
    assert (engine.usage.prefilled, engine.usage.reused) == (length, 5 * length)


def test_one_seed_one_draw_and_another_seed_another(engine: LocalEngine) -> None:
    def once(seed: int | None) -> Step:
        return run(engine.sample(user("go"), (), Sampling(max_tokens=20, seed=seed)))

    assert once(5).tokens == once(5).tokens
    assert once(5).tokens != once(6).tokens
    assert once(None).tokens != once(None).tokens


def test_every_stop_is_its_own(tiny: tuple[Any, Any], engine: LocalEngine) -> None:
    free = run(engine.sample(user("go"), (), Sampling(max_tokens=40, seed=1)))
    assert free.stop == "length"
    assert len(free.tokens) == 40
    mark = free.text[10:13]
    stopped = run(engine.sample(user("go"), (), Sampling(max_tokens=40, seed=1, stop=(mark,))))
    assert stopped.stop == "stop"
    assert stopped.text == free.text[: free.text.index(mark) + 3]
    assert stopped.tokens == free.tokens[: len(stopped.tokens)]
    model, tokenizer = tiny
    ending = LocalEngine(model, tokenizer, name="tiny")
    ending._loop.ends = frozenset({free.tokens[5]})
    ended = run(ending.sample(user("go"), (), Sampling(max_tokens=40, seed=1)))
    assert ended.stop == "end"
    assert ended.tokens == free.tokens[:6]  # the end token is part of what was sampled


def test_greedy_takes_the_likeliest_token(tiny: tuple[Any, Any], engine: LocalEngine) -> None:
    model, tokenizer = tiny
    step = run(engine.sample(user("2 + 2 = ?"), (), Sampling(max_tokens=8, temperature=0)))
    ids = torch.tensor([[*prompt_tokens(tokenizer, user("2 + 2 = ?")), *step.tokens]])
    with torch.no_grad():
        best = model(ids).logits[0].argmax(-1)[-9:-1]
    assert step.tokens == tuple(best.tolist())


def test_a_prefix_is_continued_and_what_we_wrote_is_context(engine: LocalEngine) -> None:
    whole = run(engine.sample(user("go"), (), Sampling(max_tokens=12, temperature=0)))
    head = Step(text=engine.decode(whole.tokens[:5]), tokens=whole.tokens[:5])
    rest = run(engine.sample(user("go"), (head,), Sampling(max_tokens=7, temperature=0)))
    assert head.tokens + rest.tokens == whole.tokens
    ours = run(engine.sample(user("go"), (Step(text="Wait", sampled=False),), Sampling(max_tokens=4, temperature=0)))
    assert ours.tokens != whole.tokens[:4]


def test_a_prompt_longer_than_the_context_is_refused_and_a_long_thought_is_cut(engine: LocalEngine) -> None:
    with pytest.raises(ValueError, match=r"take 20\d tokens and tiny holds 128"):
        run(engine.sample(user("9" * 200), (), Sampling()))
    near = run(engine.sample(user("9" * 110), (), Sampling(max_tokens=50, seed=0)))
    assert near.stop == "length"
    assert len(near.tokens) == 128 - 112


def test_a_cancelled_request_frees_its_row(engine: LocalEngine) -> None:
    async def go() -> Step:
        long = asyncio.create_task(engine.sample(user("go"), (), Sampling(max_tokens=100, seed=1)))
        short = asyncio.create_task(engine.sample(user("go"), (), Sampling(max_tokens=30, seed=2)))
        while not engine._loop.rows:
            await asyncio.sleep(0.001)
        long.cancel()
        return await short

    alone = run(engine.sample(user("go"), (), Sampling(max_tokens=30, seed=2)))
    before = engine.usage.sampled
    assert run(go()).tokens == alone.tokens
    assert engine.usage.sampled - before < 30 + 100


def test_a_bug_in_the_model_reaches_whoever_waits(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(engine._decoder, "decode", broken)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        run(engine.sample(user("go"), (), Sampling(max_tokens=5)))
    monkeypatch.undo()
    assert run(engine.sample(user("go"), (), Sampling(max_tokens=5, seed=0))).stop == "length"


def test_new_weights_are_taken_over_in_memory_and_named(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = build(TinyConfig(layers=2, width=64, context=128, seed=1))
    engine = LocalEngine(*tiny, name="tiny")
    other = LocalEngine(model, tokenizer, name="tiny")
    sampling = Sampling(max_tokens=20, seed=3)
    assert run(engine.sample(user("go"), (), sampling)) != run(other.sample(user("go"), (), sampling))
    engine.update(model, 7)
    assert engine.name == "tiny@7"
    again, fresh = run(engine.sample(user("go"), (), sampling)), run(other.sample(user("go"), (), sampling))
    assert again.tokens == fresh.tokens
    assert again.logprobs == pytest.approx(fresh.logprobs, abs=1e-5)


def test_draws_follow_the_distribution_and_the_nucleus_is_cut() -> None:
    logits_V = torch.randn(700, generator=torch.Generator().manual_seed(0)) * 2
    count = 20_000
    rows_BV = logits_V.expand(count, -1)
    uniform_B = torch.from_numpy(uniforms(np.arange(count, dtype=np.uint64), np.zeros(count)))
    ones_B = torch.ones(count)
    tokens_B, logprobs_B = draw(rows_BV, ones_B, ones_B, uniform_B)
    expected_V = logits_V.log_softmax(0)
    torch.testing.assert_close(logprobs_B, expected_V[tokens_B], atol=1e-4, rtol=0)
    top = expected_V.exp().topk(20)
    shares = torch.bincount(tokens_B, minlength=700)[top.indices] / count
    assert float((shares - top.values).abs().max()) < 5 * (float(top.values.max()) / count) ** 0.5
    cut_B, _ = draw(rows_BV, ones_B, torch.full((count,), 0.3), uniform_B)
    sorted_V = expected_V.exp().sort(descending=True)
    kept = int((sorted_V.values.cumsum(0) < 0.3).sum()) + 1
    assert set(cut_B.tolist()) == set(sorted_V.indices[:kept].tolist())
    cold_B, cold_logprobs_B = draw(rows_BV, ones_B * 0.5, ones_B, uniform_B)
    torch.testing.assert_close(cold_logprobs_B, (logits_V / 0.5).log_softmax(0)[cold_B], atol=1e-4, rtol=0)


def test_uniforms_are_spread_and_do_not_depend_on_the_batch() -> None:
    many = uniforms(np.arange(4096, dtype=np.uint64), np.full(4096, 3))
    assert 0 <= many.min() < 0.01 < 0.99 < many.max() < 1
    assert abs(float(many.mean()) - 0.5) < 0.02
    assert abs(float(np.corrcoef(many[:-1], many[1:])[0, 1])) < 0.06
    two, one = np.array([17, 5], dtype=np.uint64), np.array([5], dtype=np.uint64)
    assert uniforms(two, np.array([3, 9]))[1] == uniforms(one, np.array([9]))[0]


def test_tiny_reads_and_writes_its_own_alphabet(tmp_path: Any) -> None:
    tokenizer = build_tokenizer()
    text = compose("7 + 12 = 19\n~!@", "19")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text) - len("<think>") - len("</think>") - len("\\boxed{") + 3
    assert tokenizer.decode(tokenizer.encode("é", add_special_tokens=False)) == "?"
    model, _ = build(TinyConfig(layers=1, width=32))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, reread = load_model(str(tmp_path))
    assert reread.encode(text, add_special_tokens=False) == ids
    assert reread.chat_template == tokenizer.chat_template
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_tiny_config_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="width is 100"):
        TinyConfig(width=100)
    with pytest.raises(ValueError, match="0 layers"):
        TinyConfig(layers=0)


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="does not load as a causal language model"):
        load_model(str(tmp_path))
    with pytest.raises(ValueError, match="is a server"):
        load_model("http://127.0.0.1:1/v1#model")


def test_a_sampled_thought_splits_into_its_exact_tokens(engine: LocalEngine) -> None:
    step = run(engine.sample(user("go"), (), Sampling(max_tokens=60, seed=9)))
    moves = split(step, engine.decode)
    assert tuple(token for move in moves for token in move.tokens) == step.tokens
    assert "".join(move.text for move in moves) == step.text


def test_requests_may_arrive_while_others_are_admitted(tiny: tuple[Any, Any]) -> None:
    engine = LocalEngine(*tiny, name="tiny", max_rows=8)

    async def stream() -> list[Step]:
        jobs: list[asyncio.Task[Step]] = []
        for number in range(300):
            sampling = Sampling(max_tokens=1 + number % 3, seed=number)
            jobs.append(asyncio.create_task(engine.sample(user(f"{number} = ?"), (), sampling)))
            await asyncio.sleep(0)
        return list(await asyncio.gather(*jobs))

    steps = run(stream())
    assert len(steps) == 300
    assert all(len(s.tokens) == 1 + n % 3 or (s.stop == "end" and s.tokens) for n, s in enumerate(steps))


def test_a_search_that_is_given_up_leaves_the_engine_whole(engine: LocalEngine) -> None:
    async def given_up() -> None:
        long = asyncio.create_task(engine.sample(user("go"), (), Sampling(max_tokens=100, seed=1)))
        while not engine._loop.rows:
            await asyncio.sleep(0.001)
        raise RuntimeError(f"gave up on {long}")

    alone = run(engine.sample(user("go"), (), Sampling(max_tokens=30, seed=2)))
    for _ in range(5):
        with pytest.raises(RuntimeError, match="gave up"):
            run(given_up())
        assert run(engine.sample(user("go"), (), Sampling(max_tokens=30, seed=2))).tokens == alone.tokens


@pytest.mark.smollm2
def test_the_embedded_model_answers() -> None:
    model, tokenizer = load_model("smollm2-135m")
    engine = LocalEngine(model, tokenizer, name="smollm2-135m")
    question = user("What is the capital of France?")
    step = run(engine.sample(question, (), Sampling(max_tokens=32, temperature=0)))
    assert "Paris" in step.text
    assert step.stop == "end"
    data: list[Datum] = [datum(tokenizer, question, (step,))]
    exact = LocalEngine(model, tokenizer, name="smollm2-135m", dtype="fp32")
    (row,) = run(exact.logprobs(question, (step,)))
    (ours,) = Learner(model, lr=1e-3).logprobs(data)
    assert [value for value in ours if value] == pytest.approx(row, abs=1e-4)
