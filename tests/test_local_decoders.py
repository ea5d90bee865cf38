"""Both forward passes against transformers: random small models of every family, at logits that a slip would move."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from forethought.engines.local.generic import GenericDecoder
from forethought.engines.local.llama import LlamaDecoder, supports

VOCAB, LENGTH, ROWS = 103, 24, 3
IDS: dict[str, Any] = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
SHAPE: dict[str, Any] = {
    **IDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def randomise(model: Any, seed: int) -> Any:
    """Logits of size 1, and norms and biases that are not the ones and zeros of a fresh model."""
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=draw)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, generator=draw)
        else:
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=draw)
    return model.eval()


def random_rope(draw: random.Random) -> dict[str, Any]:
    kind = draw.choice(["default", "linear", "llama3", "yarn"])
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": draw.choice([1e2, 1e4])}
    if kind != "default":
        rope["factor"] = draw.choice([2.0, 4.0])
    if kind in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = 16
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind == "yarn" and draw.random() < 0.5:
        rope["attention_factor"] = draw.choice([0.5, 2.0])
    return rope


def random_shape(draw: random.Random) -> dict[str, Any]:
    kv_heads = draw.choice([1, 2, 3])
    heads = kv_heads * draw.choice([1, 2, 4])
    return {
        **IDS,
        "hidden_size": heads * draw.choice([8, 16]),
        "intermediate_size": draw.choice([40, 96]),
        "num_hidden_layers": draw.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": draw.choice([1e-6, 1e-2]),
        "tie_word_embeddings": draw.random() < 0.5,
        "max_position_embeddings": 64,
        "rope_parameters": random_rope(draw),
    }


def llama(draw: random.Random) -> Any:
    switches = {"attention_bias": draw.random() < 0.5, "mlp_bias": draw.random() < 0.5}
    config = transformers.LlamaConfig(**random_shape(draw), **switches, head_dim=draw.choice([None, 8, 20]))
    return transformers.LlamaForCausalLM(config)


def mistral(draw: random.Random) -> Any:
    shape = {**random_shape(draw), "head_dim": draw.choice([None, 8, 20])}
    return transformers.MistralForCausalLM(
        transformers.MistralConfig(**shape, sliding_window=draw.choice([None, LENGTH]))
    )


def qwen2(draw: random.Random) -> Any:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**random_shape(draw)))


def qwen3(draw: random.Random) -> Any:
    config = transformers.Qwen3Config(
        **random_shape(draw), head_dim=draw.choice([8, 20]), attention_bias=draw.random() < 0.5
    )
    return transformers.Qwen3ForCausalLM(config)


def smollm3(draw: random.Random) -> Any:
    shape = random_shape(draw)
    rotates = [draw.randrange(2) for _ in range(shape["num_hidden_layers"])]
    config = transformers.SmolLM3Config(**shape, no_rope_layers=rotates, attention_bias=draw.random() < 0.5)
    return transformers.SmolLM3ForCausalLM(config)


NATIVE: list[Callable[[random.Random], Any]] = [llama, mistral, qwen2, qwen3, smollm3]


def largest_gap(model: Any, decoder: Any, seed: int) -> float:
    """How far the logits are from transformers': rows of different lengths, some with a part held, then ten decodes.

    The longest ends where the cache does; with a window, where the first token is about to leave it.
    """
    draw = random.Random(seed)
    ids_BT = torch.randint(2, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected_BTV = model(ids_BT, use_cache=False).logits
    kv_LRHTD = torch.zeros((2 * decoder.layers, ROWS, decoder.kv_heads, LENGTH, decoder.width))
    starts = [LENGTH - 10, *(draw.randrange(5, LENGTH - 10) for _ in range(ROWS - 1))]
    cuts = [draw.randrange(1, start) for start in starts]
    cuts[draw.randrange(ROWS)] = 0
    gaps: list[torch.Tensor] = []
    for row, cut in enumerate(cuts):
        if cut:
            (hidden_TD,) = decoder.prefill([ids_BT[row, :cut].tolist()], [0], kv_LRHTD[:, row : row + 1])
            gaps.append(decoder.logits(hidden_TD) - expected_BTV[row, :cut])
    rest = [ids_BT[row, cut:start].tolist() for row, (cut, start) in enumerate(zip(cuts, starts, strict=True))]
    for row, hidden_TD in enumerate(decoder.prefill(rest, cuts, kv_LRHTD)):
        gaps.append(decoder.logits(hidden_TD) - expected_BTV[row, cuts[row] : starts[row]])
    rows_B, at_B = torch.arange(ROWS), torch.tensor(starts)
    plan = decoder.plan(at_B, at_B, kv_LRHTD, None)
    for _ in range(10):
        hidden_BD = decoder.decode(ids_BT[rows_B, at_B], plan)
        gaps.append(decoder.logits(hidden_BD) - expected_BTV[rows_B, at_B])
        at_B = at_B + 1
    return max(float(gap.abs().max()) for gap in gaps)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("family", NATIVE, ids=lambda family: family.__name__)
def test_random_models_of_every_native_family_have_the_logits_of_transformers(family: Any, seed: int) -> None:
    model = randomise(family(random.Random(seed)), seed)
    assert supports(model.config)
    assert largest_gap(model, LlamaDecoder(model, torch.float32), seed) < 1e-4


@pytest.mark.parametrize("family", NATIVE, ids=lambda family: family.__name__)
def test_the_draws_reach_every_variant_of_a_family(family: Any) -> None:
    """What the seeds of the test above leave out would pass it unseen."""
    configs = [family(random.Random(seed)).config for seed in range(8)]
    assert {config.tie_word_embeddings for config in configs} == {True, False}
    assert {config.rope_parameters["rope_type"] for config in configs} >= {"linear", "llama3", "yarn"}
    assert {config.num_key_value_heads for config in configs} >= {1, 2}
    if family in (llama, qwen3, smollm3):
        assert {config.attention_bias for config in configs} == {True, False}
    if family in (llama, mistral, qwen3):
        assert any(config.head_dim * config.num_attention_heads != config.hidden_size for config in configs)
    if family is llama:
        assert {config.mlp_bias for config in configs} == {True, False}
    if family is mistral:
        assert {config.sliding_window for config in configs} == {None, LENGTH}
    if family is smollm3:
        assert {bool(rotates) for config in configs for rotates in config.no_rope_layers} == {True, False}


def test_a_window_is_the_context() -> None:
    window = transformers.MistralForCausalLM(transformers.MistralConfig(**SHAPE, sliding_window=LENGTH))
    assert LlamaDecoder(window, torch.float32).context == LENGTH
    assert GenericDecoder(window, torch.float32).context == LENGTH


OTHERS: dict[str, Callable[[], Any]] = {
    "gemma2": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SHAPE, head_dim=16)),
    "cohere": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**SHAPE, logit_scale=0.25)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4, **IDS)),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            **IDS, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
        )
    ),
    "granite": lambda: transformers.GraniteForCausalLM(
        transformers.GraniteConfig(**SHAPE, logits_scaling=3.0, residual_multiplier=0.5, embedding_multiplier=2.0)
    ),
    "mixtral": lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(**SHAPE, num_local_experts=4)),
    "llama, dynamic rope": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_model_has_them_through_its_own_forward(name: str) -> None:
    model = randomise(OTHERS[name](), 0)
    assert not supports(model.config)
    assert largest_gap(model, GenericDecoder(model, torch.float32), 0) < 1e-4


def test_both_passes_agree_on_a_model_that_both_can_run() -> None:
    model = randomise(qwen3(random.Random(1)), 1)
    assert largest_gap(model, GenericDecoder(model, torch.float32), 1) < 1e-4


@pytest.mark.parametrize(
    "config",
    [
        transformers.GPT2Config(**IDS),
        transformers.LlamaConfig(**SHAPE, hidden_act="gelu"),
        transformers.Qwen2Config(**SHAPE, use_sliding_window=True),
    ],
    ids=["gpt2", "gelu", "sliding window"],
)
def test_what_the_native_pass_cannot_do_exactly_it_leaves_to_the_other(config: Any) -> None:
    assert not supports(config)


def test_new_weights_take_the_place_of_the_old() -> None:
    for family, decoder_of in ((llama, LlamaDecoder), (qwen3, LlamaDecoder), (llama, GenericDecoder)):
        model = randomise(family(random.Random(2)), 2)
        decoder = decoder_of(model, torch.float32)
        other = randomise(family(random.Random(2)), 3)
        assert largest_gap(other, decoder, 3) > 0.1
        decoder.load(other)
        assert largest_gap(other, decoder, 3) < 1e-4


def test_a_model_without_a_plain_cache_is_refused() -> None:
    shape = {**SHAPE, "num_key_value_heads": 4, "first_k_dense_replace": 2, "n_routed_experts": 4, "q_lora_rank": 16}
    ranks = {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
    model = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**shape, **ranks))
    with pytest.raises(ValueError, match="deepseek_v3 keeps another state"):
        GenericDecoder(model, torch.float32)
