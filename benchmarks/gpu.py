"""What one GPU gives: sampling against its memory bandwidth, training against its matrix units.

    python benchmarks/gpu.py --json

Weights are random, of the shape of SmolLM2-135M and of Qwen2.5-1.5B: speed does not depend on them, and nothing is
fetched. A decode step must read every weight and every row's keys and values once; that, over the bandwidth of a large
copy measured in the same run, is the least time it can take. benchmarks/README.md has the rest.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
import tyro
from race import machine, timed
from transformers import LlamaConfig, Qwen2Config

from forethought.engines.local import LocalEngine
from forethought.train.learner import Learner
from forethought.train.losses import nll
from forethought.types import Datum, Sampling, user

SHAPES: dict[str, Callable[[], Any]] = {
    "smollm2-135m": lambda: LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, max_position_embeddings=8192, rope_theta=100_000.0, tie_word_embeddings=True,
        eos_token_id=None,
    ),
    "qwen2.5-1.5b": lambda: Qwen2Config(
        hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
        vocab_size=151936, max_position_embeddings=32768, rope_theta=1_000_000.0, tie_word_embeddings=True,
    ),
}  # fmt: skip
PROMPT, NEW = 74, 256
"""Tokens of the prompt, and of each thought."""
BATCHES = (1, 64, 512)
SEQUENCES, LENGTH = 64, 512
"""Of a training step."""
PEAK = 989e12
"""Dense bf16 FLOP/s of an H100 or H200 by the vendor; MFU is a share of it. Another GPU has another."""


@dataclass(frozen=True)
class Config:
    """Sampling and training on one GPU."""

    model: tuple[str, ...] = tuple(SHAPES)
    """Whose shape."""
    batches: tuple[int, ...] = BATCHES
    """Thoughts drawn together."""
    json: bool = False
    """Print one last line of JSON."""


class Digits:
    """A tokenizer whose tokens are characters and which knows no end: every thought is as long as it may be."""

    chat_template = None
    eos_token_id = None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) for character in text.rstrip()]

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = True) -> str:
        return ""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        raise NotImplementedError


def clock(call: Callable[[], Any], rounds: int = 5) -> float:
    """Median seconds, the GPU's work ended."""

    def whole() -> None:
        call()
        torch.cuda.synchronize()

    whole()
    return statistics.median(timed(whole) for _ in range(rounds))


def ceilings() -> tuple[float, float]:
    """Bytes a second of a large copy, read and written; FLOP/s of a large bf16 product of random numbers."""
    bytes_C = torch.randint(256, (1 << 32,), dtype=torch.uint8, device="cuda")
    copied = 2 * bytes_C.nbytes / clock(partial(torch.empty_like(bytes_C).copy_, bytes_C), 10)
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    return copied, 2 * 8192**3 / clock(partial(torch.mm, a, b), 10)


def fresh(name: str) -> Any:
    """A model of this shape with random weights, float32."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        return transformers.AutoModelForCausalLM.from_config(SHAPES[name](), dtype=torch.float32).eval()


def sampling(name: str, engine: LocalEngine, batches: Sequence[int], bandwidth: float) -> list[dict[str, Any]]:
    """Tokens a second of B thoughts of one prompt, asked for as any caller asks; and the share of the bandwidth."""
    rows = []
    weights = engine._decoder.weights * 2
    slots = engine._loop.slots

    async def draw(batch: int) -> None:
        calls = [engine.sample(user("1" * PROMPT), (), Sampling(NEW, seed=seed)) for seed in range(batch)]
        lengths = [len(step.tokens) for step in await asyncio.gather(*calls)]
        assert lengths == [NEW] * batch

    for batch in batches:
        seconds = clock(partial(lambda batch: asyncio.run(draw(batch)), batch), 3)
        floor = NEW * (weights + batch * (PROMPT + NEW / 2) * slots.bytes_per_token) / bandwidth
        rows.append(
            {
                "name": f"{name}/sampling, B = {batch}",
                "tokens_per_second": batch * NEW / seconds,
                "ms_per_step": 1e3 * seconds / NEW,
                "share_of_bandwidth": floor / seconds,
            }
        )
        r = rows[-1]
        print(f"{r['name']:34}{r['tokens_per_second']:12,.0f} tokens/s{r['ms_per_step']:9.3f} ms a token"
              f"{r['share_of_bandwidth']:9.1%} of the bandwidth", flush=True)  # fmt: skip
    return rows


def training(name: str, model: Any) -> dict[str, Any]:
    """Tokens a second of the learner's step and the model FLOPs that are in them (6 a weight and token, and attention),
    as a share of the vendor's peak."""
    draw = random.Random(0)
    vocabulary, config = model.config.vocab_size, model.config
    data = []
    for _ in range(SEQUENCES):
        tokens = tuple(draw.randrange(vocabulary) for _ in range(LENGTH))
        data.append(Datum(tokens, (False,) + (True,) * (LENGTH - 1), (1.0,) * LENGTH))
    learner = Learner(model, lr=1e-5, autocast="bf16")
    seconds = clock(lambda: learner.step(data, nll), 3)
    weights = sum(p.numel() for p in model.parameters())  # tied: the head's are the embedding's
    attention = 6 * config.num_hidden_layers * config.hidden_size * LENGTH  # causal: half of 12
    flops = SEQUENCES * LENGTH * (6 * weights + attention)
    found = {
        "name": f"{name}/training",
        "tokens_per_second": SEQUENCES * LENGTH / seconds,
        "seconds_per_step": seconds,
        "mfu": flops / seconds / PEAK,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
    print(f"{found['name']:34}{found['tokens_per_second']:12,.0f} tokens/s{seconds * 1e3:9.1f} ms a step "
          f"{found['mfu']:9.1%} MFU, {found['peak_gib']:.1f} GiB at most", flush=True)  # fmt: skip
    return found


def main(config: Config) -> int:
    """Measure and print."""
    if not torch.cuda.is_available():
        print("there is no CUDA device here", file=sys.stderr)
        return 2
    about = {**machine(torch, transformers), "gpu": torch.cuda.get_device_name()}
    bandwidth, products = ceilings()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"copy {bandwidth / 1e12:.2f} TB/s, bf16 product {products / 1e12:.0f} TFLOP/s")
    found: list[dict[str, Any]] = []
    for name in config.model:
        model = fresh(name)
        engine = LocalEngine(model, Digits(), name=name, max_rows=max(config.batches))
        found += sampling(name, engine, config.batches, bandwidth)
        del engine
        torch.cuda.empty_cache()
        found.append(training(name, model))
        del model
        torch.cuda.empty_cache()
    if config.json:
        print(json.dumps({"name": "gpu", "figures": found, "copy": bandwidth, "product": products, "machine": about}))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
