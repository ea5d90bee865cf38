"""How sure a policy is by its whole next-token distribution, which no engine tells: weights in this process read the
thought again.

`confidence` measures the same from the log-probabilities that came with a thought, for nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any, Literal, get_args

import torch

from forethought.engines.local.threads import COMPUTE
from forethought.engines.usage import Bill, Usage
from forethought.thought.tokens import Tokenizer, render
from forethought.types import Messages, Step, Verdict
from forethought.verify.confidence import Measure, check, measured
from forethought.verify.verdict import Verify, judged
from forethought.verify.vote import answer_of

Of = Literal["uniform", "top"]
CANDIDATES = 20
"""Likeliest tokens that DeepConf averages."""
BLOCK = 256
"""Positions whose distributions are held at one time."""


def certainty(
    model: Any,
    tokenizer: Tokenizer,
    of: Of = "uniform",
    *,
    measure: Measure = "mean",
    window: int = 2048,
    answer: Callable[[str], str | None] = answer_of,
) -> Verify:
    """`uniform` is self-certainty (arXiv 2502.18581, section 3): at each token KL(uniform || p), in nats, 0 or more.
    `top` is DeepConf's confidence (arXiv 2508.15260, section 3): the mean of -log p over the 20 likeliest candidates.

    Both are higher where the model is surer. `measure` and `window` make one number c of a thought's tokens as
    `confidence` does; `parts["certainty"]` is c, `steps` and `score` are 1 - exp(-c), which keeps the order. `model` is
    a causal language model of transformers. Each verdict runs the whole thought through it: for finished thoughts.
    """
    if of not in get_args(Of):
        raise ValueError(f"of is {of!r}; certainty knows {', '.join(get_args(Of))}")
    check(measure, window)
    usage = Usage()

    async def judge(messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        tokens, spans = render(tokenizer, messages, steps)
        context = getattr(model.config, "max_position_embeddings", None) or math.inf
        if len(tokens) > context:
            raise ValueError(f"the thought takes {len(tokens)} tokens and the model holds {context}; cut it")
        bill = Bill.open(usage)
        told = await asyncio.get_running_loop().run_in_executor(COMPUTE, partial(_read, model, tokens, spans[0][0], of))
        bill.book(Usage(scored=len(tokens), requests=1))
        first = spans[0][0]
        rows = [
            told[start - first : end - first] if step.sampled else []
            for step, (start, end) in zip(steps, spans, strict=True)
        ]
        if not any(rows):
            return Verdict(None, note="no token of this thought was sampled")
        total = measured([one for row in rows for one in row], measure, window)
        by_step = tuple(-math.expm1(-fmean(row)) if row else None for row in rows)
        return Verdict(-math.expm1(-total), by_step, parts={"certainty": total})

    return judged(judge, answer=answer)


@torch.inference_mode()
def _read(model: Any, tokens: tuple[int, ...], first: int, of: Of) -> list[float]:
    """The certainty with which each token from `first` on was predicted."""
    ids_BT = torch.tensor([tokens], device=next(model.parameters()).device)
    logits_TV = model(ids_BT).logits[0, first - 1 : -1]
    told: list[float] = []
    for block_TV in logits_TV.split(BLOCK):
        logprobs_TV = block_TV.float().log_softmax(-1)
        if of == "uniform":
            told += (-logprobs_TV.mean(-1) - math.log(logprobs_TV.shape[-1])).tolist()
        else:
            told += (-logprobs_TV.topk(min(CANDIDATES, logprobs_TV.shape[-1])).values.mean(-1)).tolist()
    return told
