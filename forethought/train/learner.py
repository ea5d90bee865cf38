"""The learner: one model, AdamW, one optimizer step for each call. It knows no method; the loss is handed to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from forethought.train.attention import attending
from forethought.train.batch import Rows, pack
from forethought.train.forward import forward, parts
from forethought.train.losses import Loss, Metrics, entropy, gap
from forethought.types import Datum


class Learner:
    """Trains one causal language model on packs of data.

    Weights and optimizer state are float32; `autocast="bf16"` computes in bfloat16 (CPU with AMX or AVX-512 bf16, or
    CUDA). Matrices are decayed, norms and biases are not.

    Args:
        model: a Hugging Face causal language model, or one wrapped by `lora`; parameters that need no gradient stay.
        lr: the peak learning rate.
        warmup: steps over which the rate rises linearly to `lr`.
        decay: how it falls to 0 from there to `total`; `constant` does not.
        total: steps of the whole run; needed by `linear` and `cosine`.
        grad_clip: largest gradient norm; `None` leaves it.
        max_tokens: unique tokens computed at once. Memory and the cost of attention grow with it, the result does not.
            By default 2,048 on a CPU, on a GPU about what a quarter of its free memory holds.
        temperature: of the log-probabilities; the sampling temperature, so that sampler and learner agree.
        share: compute a prefix that data have in common once.
        recompute: activation checkpointing: keep only each layer's input of the forward pass and compute the rest again
            in the backward pass; less memory, a third more work.
        head: a scalar head over the last hidden states (`heads.fresh`), trained with what of the model needs a
            gradient; its losses are in `heads`. It is kept in `state_dict`.

    Raises:
        ValueError: a setting outside its range, trainable parameters that are not float32, or a model whose head the
            learner cannot read.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        warmup: int = 0,
        decay: Literal["constant", "linear", "cosine"] = "constant",
        total: int | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        grad_clip: float | None = 1.0,
        autocast: Literal["fp32", "bf16"] = "fp32",
        max_tokens: int | None = None,
        temperature: float = 1.0,
        share: bool = True,
        recompute: bool = False,
        head: nn.Linear | None = None,
    ) -> None:
        if lr <= 0:
            raise ValueError(f"lr is {lr}; it must be above 0")
        if decay not in _DECAYS:
            raise ValueError(f"decay is {decay!r}; choose from {', '.join(_DECAYS)}")
        if decay != "constant" and (total is None or total <= warmup):
            raise ValueError(f"decay={decay!r} needs total steps above warmup={warmup}; total is {total}")
        if autocast not in ("fp32", "bf16"):
            raise ValueError(f"autocast is {autocast!r}; choose fp32 or bf16")
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; the learner's must be above 0 (1 for greedy samples)")
        if max_tokens is not None and max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}; a pack needs at least 2 tokens to hold a target")
        named = [*model.named_parameters(), *(head.named_parameters("scalar head") if head else ())]
        trained = {name: p for name, p in named if p.requires_grad}
        if not trained:
            raise ValueError("no parameter of the model needs a gradient; there is nothing to train")
        if low := next((name for name, p in trained.items() if p.dtype != torch.float32), None):
            raise ValueError(
                f"{low} is {trained[low].dtype}: updates of a usual learning rate vanish in it; load the model in "
                "float32 and compute with autocast='bf16'"
            )
        parts(model)
        if recompute:
            # transformers renamed it within version 5; the options come first in both.
            newer = hasattr(model, "activation_checkpointing_enable")
            enable: Any = getattr(
                model, "activation_checkpointing_enable" if newer else "gradient_checkpointing_enable"
            )
            enable({"use_reentrant": False})
        self.model, self.head = model, head
        self.max_tokens = max_tokens or _room(model)
        self.temperature, self.share = temperature, share
        self.autocast, self.grad_clip, self.recompute = autocast, grad_clip, recompute
        self.lr, self.warmup, self.decay, self.total = lr, warmup, decay, total
        self.parameters = list(trained.values())
        self.device = self.parameters[0].device
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)
        self.steps = 0
        """Optimizer steps taken."""
        self.counts = {"targets": 0, "computed": 0, "naive": 0, "scored": 0}
        """Tokens so far: trained on, through forward and backward, what that would have been one by one, and through
        the forward pass alone (`logprobs`)."""

    def rate(self) -> float:
        """The learning rate of the next step."""
        if self.steps < self.warmup:
            return self.lr * (self.steps + 1) / self.warmup
        if self.total is None:
            return self.lr
        done = min(1.0, (self.steps - self.warmup) / (self.total - self.warmup))
        return self.lr * _DECAYS[self.decay](done)

    def step(
        self,
        data: Sequence[Datum],
        loss: Loss,
        *,
        normaliser: Literal["tokens", "sequences"] | float = "tokens",
        proximal: Rows | None = None,
        reference: Rows | None = None,
    ) -> dict[str, float]:
        """One optimizer step on all of `data`, in as many packs as it takes.

        Args:
            normaliser: what the summed loss is divided by: the step's targets, its data, or a number.
            proximal, reference: log-probabilities of the data under the weights they were sampled from, and under the
                reference model, as `logprobs` returns them.

        Returns:
            The loss's metrics, `loss`, `grad_norm` (before clipping), `lr`, `entropy`, the sampler's gap where the data
            have its log-probabilities, and this step's token counts.

        Raises:
            ValueError: no target in the data, a normaliser that is not above 0, or data that cannot be packed.
            FloatingPointError: the gradient is not finite; weights and optimizer are as they were.
        """
        packs = pack(data, self.max_tokens, share=self.share, proximal=proximal, reference=reference)
        targets = sum(len(row.at_M) for row in packs)
        if not targets:
            raise ValueError(f"none of the {len(data)} data has a target; there is nothing to learn from")
        divisor = {"tokens": targets, "sequences": len(data)}[normaliser] if isinstance(normaliser, str) else normaliser
        if not divisor > 0:
            raise ValueError(f"normaliser is {divisor}; it must be above 0")
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        seen: list[Metrics] = []
        # One context for all packs: autocast casts each weight once.
        with self._precision(), attending(parts(self.model)[0]):
            for row in packs:
                if not len(row.at_M):
                    continue
                row = row.to(self.device)
                outputs = forward(self.model, row, temperature=self.temperature, scalar=self.head)
                value, metrics = loss(row, outputs)
                (value / divisor).backward()
                total = {"loss": (value.detach() / divisor, torch.ones(()))}
                seen.append({**metrics, **entropy(row, outputs), **gap(row, outputs), **total})
        norm = nn.utils.clip_grad_norm_(self.parameters, math.inf if self.grad_clip is None else self.grad_clip)
        if not torch.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(
                f"the gradient norm of step {self.steps + 1} is {norm.item()}; no weight was changed. Lower the "
                f"learning rate ({self.rate():.3g}), or look for infinite weights or log-probabilities in the data"
            )
        rate = self.rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.steps += 1
        counts = {
            "targets": targets,
            "computed": sum(row.computed for row in packs),
            "naive": sum(row.naive for row in packs),
        }
        for name, count in counts.items():
            self.counts[name] += count
        return {**_combine(seen), "grad_norm": norm.item(), "lr": rate, **counts, "packs": len(packs)}

    @torch.no_grad()
    def logprobs(self, data: Sequence[Datum]) -> list[tuple[float, ...]]:
        """For each datum its T log-probabilities under the present weights, 0 outside the mask.

        They serve as `proximal`, or as `reference` where the model is the reference one.
        """
        rows = [[0.0] * len(datum.tokens) for datum in data]
        self.model.eval()
        with self._precision():
            for row in pack(data, self.max_tokens, share=self.share):
                values = forward(self.model, row.to(self.device), temperature=self.temperature).logprobs_M.tolist()
                for number, place, value in zip(row.datum_M.tolist(), row.place_M.tolist(), values, strict=True):
                    rows[number][place] = value
                self.counts["scored"] += row.computed
        return [tuple(row) for row in rows]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed learner needs besides the model's weights: optimizer, steps, counts, the scalar head."""
        state = {"optimizer": self.optimizer.state_dict(), "steps": self.steps, "counts": dict(self.counts)}
        return state if self.head is None else {**state, "head": self.head.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s; settings such as the learning rate are this learner's own."""
        betas = [group["betas"] for group in self.optimizer.param_groups]
        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, beta, decay in zip(self.optimizer.param_groups, betas, decays, strict=True):
            group["betas"], group["weight_decay"] = beta, decay
        if self.head is not None:
            self.head.load_state_dict(state["head"])
        self.steps = state["steps"]
        self.counts = dict(state["counts"])

    def _precision(self) -> AbstractContextManager[Any]:
        if self.autocast == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def _room(model: Any) -> int:
    """Tokens that one pack may have."""
    if model.device.type != "cuda":
        return 2048
    config = model.config
    # What a decoder layer keeps for its backward pass, roughly: 20 times its width and 8 times its feed-forward's.
    wide = 20 * config.hidden_size + 8 * getattr(config, "intermediate_size", 4 * config.hidden_size)
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(min(32768, max(2048, free // 4 // (2 * config.num_hidden_layers * wide))))


def lora(
    model: nn.Module, rank: int = 16, *, alpha: float | None = None, targets: str | list[str] = "all-linear"
) -> nn.Module:
    """The model with low-rank adapters (Hu et al. 2021) as its only trainable parameters; alpha is twice the rank.

    Raises:
        ImportError: peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'forethought[lora]'") from error
    config = peft.LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    adapted: nn.Module = peft.get_peft_model(model, config)
    return adapted


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model without its adapters: the reference model of a LoRA run, at no cost in memory."""
    disable: Any = getattr(model, "disable_adapter", None)
    if disable is None:
        raise ValueError(f"{type(model).__name__} has no adapters to turn off; wrap it with lora() first")
    with disable():
        yield


def _combine(seen: Sequence[Metrics]) -> dict[str, float]:
    """Metrics of packs as those of the step; a mean of nothing is left out."""
    combined: dict[str, float] = {}
    for name in dict.fromkeys(name for metrics in seen for name in metrics):
        columns = [metrics[name] for metrics in seen if name in metrics]
        counts = [count.item() for _, count in columns]
        values = [value.item() for (value, _), count in zip(columns, counts, strict=True) if count]
        if not values:
            continue
        if name == "loss":
            combined[name] = sum(values)
        else:
            combined[name] = max(values) if name.endswith("_max") else sum(values) / sum(counts)
    return combined


_DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}
"""Share of the peak rate left when a share of the decay is done."""
