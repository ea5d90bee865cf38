"""Any other Hugging Face causal language model, through its own forward pass over our cache: slower, and right.

Holds for decoders with one key-value cache of the same shape in every layer. A model with a sliding window is served up
to that window; one that keeps another kind of state (Mamba and its kin) is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache


class _Rows(Cache):  # type: ignore[misc]  # transformers is untyped
    """Our rows in the shape that a transformers attention layer asks for: it writes there and reads all it may see."""

    def __init__(self, kv_LRHTD: torch.Tensor, position_RS: torch.Tensor, length: int) -> None:
        super().__init__(layers=[])
        self._kv_LRHTD, self._position_RS, self._length = kv_LRHTD, position_RS, length
        self._row_R1 = torch.arange(len(position_RS), device=position_RS.device).unsqueeze(1)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._kv_LRHTD[2 * layer_idx], self._kv_LRHTD[2 * layer_idx + 1]
        keys[self._row_R1, :, self._position_RS] = key_states.transpose(1, 2)
        values[self._row_R1, :, self._position_RS] = value_states.transpose(1, 2)
        rows = len(self._row_R1)
        return keys[:rows, :, : self._length], values[:rows, :, : self._length]

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return self._length - self._position_RS.shape[1]


@dataclass(slots=True)
class DecodePlan:
    """The first B rows of a cache and how long they are."""

    length_B: torch.Tensor
    kv_LRHTD: torch.Tensor


class GenericDecoder:
    """One checkpoint behind the same calls as `llama.LlamaDecoder`."""

    shares = records = False

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype) -> None:
        config: Any = model.config
        window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
        context = getattr(config, "max_position_embeddings", None) or 2048
        self.context: int = min(context, window) if window else context
        self.dtype = dtype
        self.hidden: int = config.hidden_size
        self.load(model)
        self.layers, self.kv_heads, self.width = self._shape()
        self.heads: int = config.num_attention_heads
        self._check()

    @torch.no_grad()
    def load(self, model: Any) -> None:
        """Take over the weights of `model`, a checkpoint of the same shape."""
        if not hasattr(self, "_model"):
            self._model = copy.deepcopy(model).to(self.dtype).eval()
            self._model.requires_grad_(False)
        else:
            self._model.load_state_dict(model.state_dict())
        self.device = next(self._model.parameters()).device
        table = self._model.get_input_embeddings().weight
        tied = table is self._model.get_output_embeddings().weight
        self.weights = sum(p.numel() for p in self._model.parameters()) - (0 if tied else table.numel())

    @torch.inference_mode()
    def prefill(
        self, tokens: Sequence[Sequence[int]], starts: Sequence[int], kv_LRHTD: torch.Tensor
    ) -> list[torch.Tensor]:
        """Run each row's new tokens, which stand behind `starts` tokens that the cache holds already.

        Writes their keys and values into `kv_LRHTD` (2 × layers, rows, key-value heads, positions, width), zero where
        nothing is held; returns each row's last hidden states (its T, D). Rows are padded to the longest.
        """
        most = max(map(len, tokens))
        token_RS = torch.zeros((len(tokens), most), dtype=torch.long)
        for row, line in enumerate(tokens):
            token_RS[row, : len(line)] = torch.tensor(line)
        start_R = torch.tensor(starts, device=self.device)
        short = int(start_R.max()) + most - kv_LRHTD.shape[3]
        if short > 0:  # padding behind the last position has nowhere to go
            spare = kv_LRHTD.new_zeros((*kv_LRHTD.shape[:3], kv_LRHTD.shape[3] + short, kv_LRHTD.shape[4]))
            spare[:, :, :, :-short] = kv_LRHTD
            hidden_RSD = self._extend(token_RS.to(self.device), start_R, spare)
            kv_LRHTD.copy_(spare[:, :, :, :-short])
        else:
            hidden_RSD = self._extend(token_RS.to(self.device), start_R, kv_LRHTD)
        return [hidden_RSD[row, : len(line)] for row, line in enumerate(tokens)]

    def plan(self, position_B: torch.Tensor, length_B: torch.Tensor, kv_LRHTD: torch.Tensor, _: None) -> DecodePlan:
        """How the first B rows of this cache go on, which holds all of their `length_B` tokens."""
        return DecodePlan(length_B.clone(), kv_LRHTD)

    @torch.inference_mode()
    def decode(self, token_B: torch.Tensor, plan: DecodePlan) -> torch.Tensor:
        """Last hidden states (B, D) of one more token in each of the plan's rows, which are a token longer then."""
        hidden_BD = self._extend(token_B.unsqueeze(1), plan.length_B, plan.kv_LRHTD).squeeze(1)
        plan.length_B += 1
        return hidden_BD

    @torch.inference_mode()
    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) of last hidden states."""
        head = self._model.get_output_embeddings()
        logits: torch.Tensor = head(hidden_ND)
        scale = getattr(self._model.config, "logits_scaling", None) or 1.0
        soft = getattr(self._model.config, "final_logit_softcapping", None)
        logits = logits * (getattr(self._model.config, "logit_scale", None) or 1.0) / scale
        return torch.tanh(logits / soft) * soft if soft else logits

    def normed(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Last hidden states as transformers gives them."""
        return hidden_ND

    def _extend(self, token_RS: torch.Tensor, start_R: torch.Tensor, kv_LRHTD: torch.Tensor) -> torch.Tensor:
        position_RS = start_R.unsqueeze(1) + torch.arange(token_RS.shape[1], device=self.device)
        length = int(position_RS.max()) + 1
        seen_RST = torch.arange(length, device=self.device) <= position_RS.unsqueeze(2)
        mask_R1ST = torch.zeros(seen_RST.shape, dtype=self.dtype, device=self.device)
        mask_R1ST = mask_R1ST.masked_fill_(~seen_RST, torch.finfo(self.dtype).min).unsqueeze(1)
        out = self._model.base_model(
            input_ids=token_RS,
            position_ids=position_RS,
            attention_mask=mask_R1ST,
            past_key_values=_Rows(kv_LRHTD, position_RS, length),
            use_cache=True,
        )
        hidden: torch.Tensor = out.last_hidden_state
        return hidden

    def _shape(self) -> tuple[int, int, int]:
        """Layers, key-value heads and their width, learned from one token run through the model."""
        token_11 = torch.zeros((1, 1), dtype=torch.long, device=self.device)
        held = DynamicCache()
        with torch.inference_mode():
            self._model.base_model(input_ids=token_11, past_key_values=held, use_cache=True)
        shapes = {tuple(part.shape) for layer in held.layers for part in (layer.keys, layer.values)}
        if len(shapes) != 1:
            raise self._refusal("keeps another state than one key-value cache of the same shape in every layer")
        _, heads, _, width = shapes.pop()
        return len(held.layers), heads, width

    def _check(self) -> None:
        """Compare a few logits with the model's own: a variant we do not know of must not go wrong in silence."""
        token_1T = torch.arange(8, device=self.device).unsqueeze(0)
        kv_LRHTD = torch.zeros((2 * self.layers, 1, self.kv_heads, 8, self.width), dtype=self.dtype, device=self.device)
        with torch.inference_mode():
            expected_TV = self._model(input_ids=token_1T, use_cache=False).logits[0].float()
            try:
                self.prefill([token_1T[0, :5].tolist()], [0], kv_LRHTD)
                (hidden_TD,) = self.prefill([token_1T[0, 5:].tolist()], [5], kv_LRHTD)
            except (TypeError, ValueError, IndexError) as fault:
                raise self._refusal("takes no mask and cache of ours") from fault
        gap = float((self.logits(hidden_TD).float() - expected_TV[5:]).abs().max() / expected_TV.abs().max())
        if not gap < (1e-3 if self.dtype == torch.float32 else 0.1):
            raise self._refusal(f"has other logits than its hidden states and head give, by {gap:.0%}")

    def _refusal(self, why: str) -> ValueError:
        name = self._model.config.model_type
        return ValueError(f"{name} {why}; serve it behind an OpenAI-compatible server and give its URL as the model")
