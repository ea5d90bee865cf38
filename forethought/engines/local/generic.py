"""Any other Hugging Face causal language model, through its own forward pass over our slot cache.

Holds for decoders with one key-value cache of the same shape in every layer. A model with a sliding window is served up
to that window; one that keeps another kind of state (Mamba and its kin) is refused.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache

from forethought.engines.local.cache import SlotCache


class _Slots(Cache):  # type: ignore[misc]  # transformers is untyped
    """Our slots in the shape that a transformers attention layer asks for: it writes there and reads all it may see."""

    def __init__(self, cache: SlotCache, lengths_B: torch.Tensor, longest: int) -> None:
        super().__init__(layers=[])
        self._cache, self._lengths_B, self._longest = cache, lengths_B, longest
        self._rows_B = torch.arange(len(lengths_B), device=lengths_B.device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._cache.kv_LRHTD[2 * layer_idx], self._cache.kv_LRHTD[2 * layer_idx + 1]
        keys[self._rows_B, :, self._lengths_B] = key_states.squeeze(2)
        values[self._rows_B, :, self._lengths_B] = value_states.squeeze(2)
        batch = len(self._rows_B)
        return keys[:batch, :, : self._longest], values[:batch, :, : self._longest]

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return self._longest - 1


class GenericDecoder:
    """One checkpoint behind the same four calls as `llama.LlamaDecoder`."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype) -> None:
        config: Any = model.config
        window = getattr(config, "sliding_window", None)
        context = getattr(config, "max_position_embeddings", None) or 2048
        self.context: int = min(context, window) if window else context
        self.dtype = dtype
        self.load(model)

    @torch.no_grad()
    def load(self, model: Any) -> None:
        """Take over the weights of `model`, a checkpoint of the same shape."""
        if not hasattr(self, "_model"):
            self._model = copy.deepcopy(model).to(self.dtype).eval()
            self._model.requires_grad_(False)
        else:
            self._model.load_state_dict(model.state_dict())
        self.device = next(self._model.parameters()).device

    def new_cache(self) -> SlotCache:
        """An empty cache of this model's shape, learned from one token run through it."""
        token_11 = torch.zeros((1, 1), dtype=torch.long, device=self.device)
        _, kv = self.prefill(token_11, keep=True)
        assert kv is not None
        return SlotCache(kv.shape[0] // 2, kv.shape[2], kv.shape[4], self.dtype, self.device)

    @torch.inference_mode()
    def prefill(self, tokens_BT: torch.Tensor, *, keep: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Last hidden states (B, T, D) of right-padded rows, and with `keep` their keys and values."""
        held = DynamicCache() if keep else None
        hidden = self._model.base_model(input_ids=tokens_BT, past_key_values=held, use_cache=keep).last_hidden_state
        if held is None:
            return hidden, None
        layers = [(layer.keys, layer.values) for layer in held.layers]
        shapes = {tuple(part.shape) for pair in layers for part in pair}
        if len(shapes) != 1:
            raise ValueError(
                f"{self._model.config.model_type} keeps another state than one key-value cache of the same shape in "
                "every layer; serve it behind an OpenAI-compatible server and give its URL as the model"
            )
        return hidden, torch.stack([part for pair in layers for part in pair])

    @torch.inference_mode()
    def decode(self, tokens_B: torch.Tensor, lengths_B: torch.Tensor, cache: SlotCache) -> torch.Tensor:
        """Logits (B, V) after one more token in each of the cache's first B rows, `lengths_B` tokens long so far."""
        longest = int(lengths_B.max()) + 1
        held_BT = torch.arange(longest, device=self.device) <= lengths_B.unsqueeze(1)
        mask_B11T = torch.zeros((len(tokens_B), 1, 1, longest), dtype=self.dtype, device=self.device)
        mask_B11T.masked_fill_(~held_BT[:, None, None], torch.finfo(self.dtype).min)
        out = self._model.base_model(
            input_ids=tokens_B.unsqueeze(1),
            position_ids=lengths_B.unsqueeze(1),
            attention_mask=mask_B11T,
            past_key_values=_Slots(cache, lengths_B, longest),
            use_cache=True,
        )
        return self.logits(out.last_hidden_state.squeeze(1))

    @torch.inference_mode()
    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) of last hidden states (N, D)."""
        head = self._model.get_output_embeddings()
        logits: torch.Tensor = head(hidden_ND)
        scale = getattr(self._model.config, "logits_scaling", None) or 1.0
        soft = getattr(self._model.config, "final_logit_softcapping", None)
        logits = logits / scale
        return torch.tanh(logits / soft) * soft if soft else logits
