"""Our own forward pass for the Llama family: fused and packed products, a cache of our own, no autograd.

Serves checkpoints whose layers are RMSNorm, rotary grouped-query attention and a gated SiLU: Llama, SmolLM, Mistral,
Qwen2 (with its q, k, v biases), Qwen3 (with its norms of q and k) and SmolLM3 (some layers without rotation).
Everything else goes through `generic`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from forethought.engines.local.contexts import SharedAttention
from forethought.engines.local.elementwise import elementwise
from forethought.engines.local.product import Product

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, q (N, heads, width), k and v (N, key-value heads, width)) to the attention's output (N, heads × width)."""

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
ROPES = ("default", "linear", "llama3", "yarn")
"""Scalings whose angles do not change with the length of the text."""


def supports(config: Any) -> bool:
    """Whether this module computes exactly what transformers does for such a checkpoint."""
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in FAMILIES
        and config.hidden_act == "silu"
        and not getattr(config, "use_sliding_window", False)
        and rope.get("rope_type", "default") in ROPES
        and rope.get("partial_rotary_factor", 1.0) == 1.0
    )


@dataclass(slots=True)
class _Layer:
    qkv: Product
    q_norm: torch.Tensor | None
    """Of each head, its weight; Qwen3's."""
    k_norm: torch.Tensor | None
    rotates: bool
    out: Product
    gate_up: Product
    down: Product


class DecodePlan:
    """Where each of B rows writes and what it sees, kept from token to token: made anew, it costs a small model as much
    as a layer."""

    def __init__(
        self,
        position_B: torch.Tensor,
        length_B: torch.Tensor,
        kv_LRHTD: torch.Tensor,
        shared: SharedAttention | None,
        span: int | None = None,
    ) -> None:
        batch, (_, _, heads, room, width) = len(length_B), kv_LRHTD.shape
        rows, span = batch * heads, span or room
        self.position_B, self.shared = position_B.clone(), shared
        self.moves = span == room
        """Part of the cache is for one step alone."""
        # The rows of a product are pairs of row and key-value head.
        self.write_M = torch.arange(rows, device=length_B.device) * room + length_B.repeat_interleave(heads)
        unseen_MT = torch.arange(span, device=length_B.device) > length_B.repeat_interleave(heads).unsqueeze(1)
        self.bias_M1T = torch.zeros((rows, 1, span), dtype=kv_LRHTD.dtype, device=length_B.device)
        self.bias_M1T.masked_fill_(unseen_MT.unsqueeze(1), float("-inf"))
        self.layers: list[tuple[torch.Tensor, ...]] = []
        for keys, values in zip(kv_LRHTD[::2], kv_LRHTD[1::2], strict=True):
            k_MTW, v_MTW = (part.flatten(0, 1)[:rows, :span] for part in (keys, values))
            self.layers.append((keys.view(-1, width), values.view(-1, width), k_MTW.transpose(1, 2), v_MTW))

    def advance(self) -> None:
        """One token more in each row; the caller sees to it that there is room."""
        self.position_B += 1
        self.write_M += 1
        # What a row writes next it sees from then on. At the cache's end the row's plan is made anew before it is used.
        self.bias_M1T.view(-1).index_fill_(0, self.write_M.clamp(max=self.bias_M1T.numel() - 1), 0.0)


class LlamaDecoder:
    """The weights of one checkpoint, fused, packed and in the engine's own number format."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype) -> None:
        config: Any = model.config
        self.dtype = dtype
        self.layers: int = config.num_hidden_layers
        self.hidden: int = config.hidden_size
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        window = getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
        self.context: int = min(config.max_position_embeddings, window or config.max_position_embeddings)
        self._eps = torch.tensor(float(config.rms_norm_eps))
        self._rotary: Any = model.model.rotary_emb  # type: ignore[union-attr]
        self._turn_TC = torch.empty((0, self.width // 2), dtype=torch.complex64)
        self.device = next(model.parameters()).device
        self.shares = self.device.type == "cpu"
        """Can it read prompts that rows share where they stand (`contexts`)? Graphs know nothing of their places."""
        self.records = self.device.type == "cuda"
        """Can its decode step be recorded as a CUDA graph (`graphs`)?"""
        self.blocks: list[_Layer] = []
        self._parts = elementwise(self.device)
        self.load(model)

    @torch.no_grad()
    def load(self, model: Any) -> None:
        """Take over the weights of `model`, a checkpoint of the same shape; where they may have been recorded, into the
        same memory."""
        before = self._tensors() if self.records and self.blocks else None
        held = self.__dict__.copy()
        inner = model.model
        self.embed_VD = inner.embed_tokens.weight.detach().to(self.device, self.dtype, copy=True)
        self._eps = self._eps.to(self.device)

        def pairs(part: torch.Tensor, rotates: bool) -> torch.Tensor:
            """Heads' rows (or one head's, or their biases) so that what is rotated together stands together."""
            if not rotates:
                return part
            paired: torch.Tensor = part.unflatten(0, (-1, 2, self.width // 2)).transpose(1, 2).flatten(0, 2)
            return paired

        def product(*linears: torch.nn.Linear, norm: Any = None, turned: int = 0) -> Product:
            """The layers' weights as one, the weight of the norm before them multiplied in, the first `turned` of them
            queries and keys that are rotated."""
            weight = torch.cat([pairs(linear.weight.detach(), at < turned) for at, linear in enumerate(linears)])
            if norm is not None:
                weight = weight * norm.weight
            biases = [
                pairs(linear.bias.detach(), at < turned) for at, linear in enumerate(linears) if linear.bias is not None
            ]
            return Product(weight.to(self.dtype), torch.cat(biases).to(self.dtype) if biases else None)

        self.blocks = []
        for layer in inner.layers:
            a, m = layer.self_attn, layer.mlp
            rotates = bool(getattr(a, "use_rope", True))
            q_norm, k_norm = (
                pairs(norm.weight.detach(), rotates).to(self.dtype, copy=True) if norm is not None else None
                for norm in (getattr(a, "q_norm", None), getattr(a, "k_norm", None))
            )
            self.blocks.append(
                _Layer(
                    product(a.q_proj, a.k_proj, a.v_proj, norm=layer.input_layernorm, turned=2 * rotates),
                    q_norm,
                    k_norm,
                    rotates,
                    product(a.o_proj),
                    product(m.gate_proj, m.up_proj, norm=layer.post_attention_layernorm),
                    product(m.down_proj),
                )
            )
        self.head = product(model.lm_head, norm=inner.norm)
        self._norm_D = inner.norm.weight.detach().to(self.dtype, copy=True)
        self.weights = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
        if model.lm_head.weight is inner.embed_tokens.weight:
            self.weights += self.embed_VD.numel()
        if before is not None:
            for kept, new in zip(before, self._tensors(), strict=True):
                kept.copy_(new)
            self.__dict__.update(held)

    def _tensors(self) -> list[torch.Tensor]:
        """Every weight that a step reads."""
        found = [self.embed_VD, self._norm_D, *self.head.tensors]
        for layer in self.blocks:
            for product in (layer.qkv, layer.out, layer.gate_up, layer.down):
                found += product.tensors
            found += [norm for norm in (layer.q_norm, layer.k_norm) if norm is not None]
        return found

    @torch.inference_mode()
    def prefill(
        self, tokens: Sequence[Sequence[int]], starts: Sequence[int], kv_LRHTD: torch.Tensor
    ) -> list[torch.Tensor]:
        """Run each row's new tokens, which stand behind `starts` tokens that the cache holds already.

        Writes their keys and values into `kv_LRHTD` (2 × layers, rows, key-value heads, positions, width), zero where
        nothing is held; returns each row's last hidden states (its T, D). Products run over the tokens there are, only
        attention is padded.
        """
        rows, most = len(tokens), max(map(len, tokens))
        counts = torch.tensor([len(row) for row in tokens])
        row_N = torch.arange(rows).repeat_interleave(counts)
        offset_N = torch.cat([torch.arange(len(row)) for row in tokens])
        position_N = offset_N + torch.tensor(starts)[row_N]
        length = int(position_N.max()) + 1
        capacity = kv_LRHTD.shape[3]
        token_N = torch.tensor([token for row in tokens for token in row])
        heads = torch.arange(self.kv_heads)
        write_M = (((row_N * self.kv_heads).unsqueeze(1) + heads) * capacity + position_N.unsqueeze(1)).flatten()
        # Each query sees the positions up to its own; padding sees at least the first, so that no row is empty.
        last_RS = torch.tensor(starts).unsqueeze(1) + torch.arange(most)
        seen_RST = torch.arange(length) <= last_RS.unsqueeze(2)
        groups = self.heads // self.kv_heads
        seen_R1ST = seen_RST.repeat(1, groups, 1).unsqueeze(1).to(self.device)
        token_N, write_M = token_N.to(self.device), write_M.to(self.device)
        place_N = (row_N * most + offset_N).to(self.device)
        ragged = len(token_N) != rows * most

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = kv_LRHTD[2 * layer], kv_LRHTD[2 * layer + 1]
            keys.view(-1, self.width).index_copy_(0, write_M, k.reshape(-1, self.width))
            values.view(-1, self.width).index_copy_(0, write_M, v.reshape(-1, self.width))
            if ragged:
                q = q.new_zeros((rows * most, self.heads, self.width)).index_copy_(0, place_N, q)
            q = q.view(rows, most, self.kv_heads, groups, self.width).permute(0, 2, 3, 1, 4)
            q = q.reshape(rows, self.kv_heads, groups * most, self.width)
            out = F.scaled_dot_product_attention(q, keys[:, :, :length], values[:, :, :length], seen_R1ST)
            out = out.view(rows, self.kv_heads, groups, most, self.width).permute(0, 3, 1, 2, 4)
            out = out.reshape(rows * most, self.heads * self.width)
            return out[place_N] if ragged else out

        self._reach(length)
        hidden_ND = self._forward(token_N, position_N.to(self.device), attend)
        return list(hidden_ND.split(counts.tolist()))

    def plan(
        self,
        position_B: torch.Tensor,
        length_B: torch.Tensor,
        kv_LRHTD: torch.Tensor,
        shared: SharedAttention | None = None,
        span: int | None = None,
    ) -> DecodePlan:
        """How the first B rows of this cache go on: their next token's position in the text, and how many tokens of
        each the cache holds; the others are in `shared`.

        They see its first `span` positions, by default all; until one has filled them the plan can be advanced.
        """
        if not self.records:
            self._reach(int((position_B - length_B).max()) + kv_LRHTD.shape[3])
        return DecodePlan(position_B, length_B, kv_LRHTD, shared, span)

    @torch.inference_mode()
    def decode(self, token_B: torch.Tensor, plan: DecodePlan) -> torch.Tensor:
        """Last hidden states (B, D) of one more token in each of the plan's rows, which are a token longer then."""
        batch, groups, shared = len(token_B), self.heads // self.kv_heads, plan.shared
        scale = self.width**-0.5

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values, k_MWT, v_MTW = plan.layers[layer]
            keys.index_copy_(0, plan.write_M, k.reshape(-1, self.width))
            values.index_copy_(0, plan.write_M, v.reshape(-1, self.width))
            # One product per key-value head, its queries as rows: nothing is repeated.
            scores_MGT = torch.baddbmm(plan.bias_M1T, q.reshape(-1, groups, self.width), k_MWT, alpha=scale)
            if shared is None:
                return torch.bmm(scores_MGT.softmax(dim=-1), v_MTW).view(batch, -1)
            theirs_BHGT = shared.scores(layer, q.reshape(batch, self.kv_heads, groups, self.width), scale)
            scores_MGT = torch.cat((theirs_BHGT.flatten(0, 1), scores_MGT), dim=-1).softmax(dim=-1)
            theirs_MGT, own_MGT = scores_MGT.split((shared.length, scores_MGT.shape[-1] - shared.length), dim=-1)
            out = shared.mix(layer, theirs_MGT.unflatten(0, (batch, -1))).flatten(0, 1)
            return torch.baddbmm(out, own_MGT, v_MTW).view(batch, -1)

        hidden_BD = self._forward(token_B, plan.position_B, attend)
        if plan.moves:
            plan.advance()
        return hidden_BD

    @torch.inference_mode()
    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) of last hidden states."""
        return self.head(hidden_ND)

    def normed(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Last hidden states as transformers gives them: the final norm's weight is multiplied into our head."""
        normed: torch.Tensor = hidden_ND * self._norm_D
        return normed

    def _forward(self, token_N: torch.Tensor, position_N: torch.Tensor, attend: Attend) -> torch.Tensor:
        turn_N1C = self._turn_TC[position_N].unsqueeze(1)  # (N, 1, width / 2) complex numbers
        count, turned = len(token_N), self.heads + self.kv_heads
        x = F.embedding(token_N, self.embed_VD)
        for index, layer in enumerate(self.blocks):
            qkv = layer.qkv(self._norm(x)).view(count, turned + self.kv_heads, self.width)
            qk, v = qkv[:, :turned], qkv[:, turned:]
            if layer.q_norm is not None and layer.k_norm is not None:
                q, k = qk[:, : self.heads], qk[:, self.heads :]
                qk = torch.cat((self._norm(q) * layer.q_norm, self._norm(k) * layer.k_norm), dim=1)
            if layer.rotates:
                qk = self._parts.rotate(qk, turn_N1C)
            x = layer.out(attend(index, qk[:, : self.heads], qk[:, self.heads :], v), x)
            x = layer.down(self._parts.gate(layer.gate_up(self._norm(x))), x)
        return self._norm(x)

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        return self._parts.norm(x, self._eps)

    def _reach(self, length: int) -> None:
        """See to it that the rotations of the first `length` positions are known."""
        if length <= len(self._turn_TC):
            return
        # A graph reads the table where it stood when it was recorded: on a GPU there is one for good.
        count = max(self.context, length) if self.records else max(256, 2 * length)
        cos, sin = self._rotary(
            self.embed_VD.new_zeros(1, dtype=torch.float32), torch.arange(count, device=self.device).unsqueeze(0)
        )
        half = self.width // 2  # transformers gives each angle twice
        self._turn_TC = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())
