"""Our own forward pass for the Llama family: q, k, v in one product, gate and up in one, a slot cache, no autograd.

Serves checkpoints whose layers are RMSNorm, rotary grouped-query attention and a gated SiLU: Llama, SmolLM, Mistral
without a sliding window, Qwen2 (with its q, k, v biases). Everything else goes through `generic`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from forethought.engines.local.cache import SlotCache


def supports(config: Any) -> bool:
    """Whether this module computes exactly what transformers does for such a checkpoint."""
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in ("llama", "mistral", "qwen2")
        and config.hidden_act == "silu"
        and not getattr(config, "mlp_bias", False)
        and not getattr(config, "use_sliding_window", False)
        and not (config.model_type == "mistral" and getattr(config, "sliding_window", None))
        and rope.get("rope_type", "default") in ("default", "linear", "llama3")
    )


class LlamaDecoder:
    """The weights of one checkpoint, fused and in the engine's own number format."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype) -> None:
        config: Any = model.config
        self.dtype = dtype
        self.layers: int = config.num_hidden_layers
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.eps: float = config.rms_norm_eps
        self.context: int = config.max_position_embeddings
        self._rotary: Any = model.model.rotary_emb  # type: ignore[union-attr]
        self._cos_TD = self._sin_TD = torch.empty((0, self.width))
        self.load(model)

    @torch.no_grad()
    def load(self, model: Any) -> None:
        """Take over the weights of `model`, a checkpoint of the same shape."""

        def own(*weights: torch.Tensor) -> torch.Tensor:
            return torch.cat([weight.detach() for weight in weights]).to(self.dtype).contiguous()

        inner = model.model
        self.embed_VD = own(inner.embed_tokens.weight)
        self.norm_D = own(inner.norm.weight)
        tied = model.lm_head.weight.data_ptr() == inner.embed_tokens.weight.data_ptr()
        self.head_VD = self.embed_VD if tied else own(model.lm_head.weight)
        self.device = self.embed_VD.device
        self.blocks = []
        for layer in inner.layers:
            a, m = layer.self_attn, layer.mlp
            bias = own(a.q_proj.bias, a.k_proj.bias, a.v_proj.bias) if a.q_proj.bias is not None else None
            out_bias = own(a.o_proj.bias) if a.o_proj.bias is not None else None
            self.blocks.append(
                (
                    own(layer.input_layernorm.weight),
                    own(a.q_proj.weight, a.k_proj.weight, a.v_proj.weight),
                    bias,
                    own(a.o_proj.weight),
                    out_bias,
                    own(layer.post_attention_layernorm.weight),
                    own(m.gate_proj.weight, m.up_proj.weight),
                    own(m.down_proj.weight),
                )
            )

    def new_cache(self) -> SlotCache:
        """An empty cache of this model's shape."""
        return SlotCache(self.layers, self.kv_heads, self.width, self.dtype, self.device)

    @torch.inference_mode()
    def prefill(self, tokens_BT: torch.Tensor, *, keep: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Last hidden states (B, T, D) of right-padded rows that start at position 0.

        With `keep`, also their keys and values, (2 × layers, B, heads, T, width).
        """
        batch, length = tokens_BT.shape
        positions_BT = torch.arange(length, device=self.device).expand(batch, length)
        shape = (2 * self.layers, batch, self.kv_heads, length, self.width)
        kv = torch.empty(shape, dtype=self.dtype, device=self.device) if keep else None

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            if kv is not None:
                kv[2 * layer], kv[2 * layer + 1] = k, v
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        return self._forward(tokens_BT, positions_BT, attend), kv

    @torch.inference_mode()
    def decode(self, tokens_B: torch.Tensor, lengths_B: torch.Tensor, cache: SlotCache) -> torch.Tensor:
        """Logits (B, V) after one more token in each of the cache's first B rows, `lengths_B` tokens long so far."""
        batch = len(tokens_B)
        longest, capacity = int(lengths_B.max()) + 1, cache.kv_LRHTD.shape[3]
        # A product over a part of each row copies that part first, so up to twice the positions are cheaper whole.
        span = capacity if capacity <= 2 * longest else longest
        rows_B = torch.arange(batch, device=self.device)
        held_BT = torch.arange(span, device=self.device) <= lengths_B.unsqueeze(1)
        bias_B11T = torch.zeros((batch, 1, 1, span), dtype=self.dtype, device=self.device)
        bias_B11T.masked_fill_(~held_BT[:, None, None], float("-inf"))
        scale = self.width**-0.5

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = cache.kv_LRHTD[2 * layer], cache.kv_LRHTD[2 * layer + 1]
            keys[rows_B, :, lengths_B] = k.squeeze(2)
            values[rows_B, :, lengths_B] = v.squeeze(2)
            # One product per key-value head, its queries as rows: nothing is repeated.
            q_NGD = q.reshape(batch * self.kv_heads, -1, self.width) * scale
            k_NTD = keys.flatten(0, 1)[: batch * self.kv_heads, :span]
            v_NTD = values.flatten(0, 1)[: batch * self.kv_heads, :span]
            scores = torch.bmm(q_NGD, k_NTD.transpose(1, 2)).view(batch, self.heads, 1, span) + bias_B11T
            out = torch.bmm(scores.softmax(dim=-1).view(batch * self.kv_heads, -1, span), v_NTD)
            return out.view(batch, self.heads, 1, self.width)

        hidden_B1D = self._forward(tokens_B.unsqueeze(1), lengths_B.unsqueeze(1), attend)
        return self.logits(hidden_B1D.squeeze(1))

    @torch.inference_mode()
    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) of last hidden states (N, D)."""
        return F.linear(hidden_ND, self.head_VD)

    def _forward(self, tokens_BT: torch.Tensor, positions_BT: torch.Tensor, attend: Any) -> torch.Tensor:
        batch, length = tokens_BT.shape
        cos, sin = self._angles(positions_BT)
        queries, total = self.heads, self.heads + 2 * self.kv_heads
        x = F.embedding(tokens_BT, self.embed_VD)
        for index, (norm, qkv_w, qkv_b, out_w, out_b, norm_2, gate_up_w, down_w) in enumerate(self.blocks):
            h = self._norm(x, norm)
            qkv = F.linear(h, qkv_w, qkv_b).view(batch, length, total, self.width).transpose(1, 2)
            turned = qkv[:, : queries + self.kv_heads]
            half_1, half_2 = turned.chunk(2, dim=-1)
            turned = turned * cos + torch.cat((-half_2, half_1), dim=-1) * sin
            out = attend(index, turned[:, :queries], turned[:, queries:], qkv[:, queries + self.kv_heads :])
            x = x + F.linear(out.transpose(1, 2).reshape(batch, length, -1), out_w, out_b)
            gate, up = F.linear(self._norm(x, norm_2), gate_up_w).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, down_w)
        return self._norm(x, self.norm_D)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)

    def _angles(self, positions_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        needed = int(positions_BT.max()) + 1
        if needed > len(self._cos_TD):
            table = torch.arange(max(256, 2 * needed), device=self.device).unsqueeze(0)
            cos, sin = self._rotary(self.embed_VD.new_zeros(1, dtype=torch.float32), table)
            self._cos_TD, self._sin_TD = cos[0].to(self.dtype), sin[0].to(self.dtype)
        return self._cos_TD[positions_BT].unsqueeze(1), self._sin_TD[positions_BT].unsqueeze(1)
