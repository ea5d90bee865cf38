"""Text held to a JSON schema while it is drawn: what may not come next is masked out of the logits (llguidance)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from forethought.thought.tokens import Tokenizer


class Vocabulary:
    """A tokenizer as llguidance knows it: made once for an engine, about a second for 50,000 tokens.

    Raises ValueError where llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, ends: frozenset[int]) -> None:
        try:
            import llguidance.hf
        except ModuleNotFoundError as error:
            raise ValueError("a JSON schema needs llguidance: pip install 'forethought[serve]'") from error
        last = [int(tokenizer.eos_token_id), *sorted(ends - {tokenizer.eos_token_id})]
        try:
            self.known = llguidance.hf.from_tokenizer(tokenizer, eos_token=last)
        except ValueError:  # one that says nothing of bytes: its tokens are what they decode to
            self.known = llguidance.LLTokenizer(_wrapped(tokenizer, last[0]), eos_token=last)

    def grammar(self, schema: str) -> Grammar:
        """For one sample; a ValueError where `schema` is no JSON schema that llguidance can hold."""
        from llguidance import LLMatcher

        try:
            rules = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        except ValueError as error:
            raise ValueError(f"the schema is not JSON: {error}") from None
        if wrong := LLMatcher.validate_grammar(rules, self.known):
            raise ValueError(f"the schema cannot be held: {wrong}")
        return Grammar(LLMatcher(self.known, rules))


class Grammar:
    """Where one sample stands in its schema."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def mask(self, logits_V: torch.Tensor) -> None:
        """Set every token that may not come next to -inf, in place; the end token may where the text is complete."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed_V = torch.from_numpy(np.unpackbits(bits, bitorder="little")).bool()[: len(logits_V)]
        logits_V[: len(allowed_V)].masked_fill_(~allowed_V.to(logits_V.device), -torch.inf)
        logits_V[len(allowed_V) :] = -torch.inf  # a vocabulary padded beyond its tokenizer

    def take(self, token: int) -> str:
        """Go on behind `token`; what went wrong, in words, where the grammar has become too much for its library."""
        return "" if self._matcher.consume_token(token) else str(self._matcher.get_error())


def _wrapped(tokenizer: Any, end: int) -> Any:
    """Any tokenizer in the form that llguidance asks for."""
    from llguidance import TokenizerWrapper

    class Words:
        eos_token_id, bos_token_id = end, None
        special_token_ids = tuple(tokenizer.all_special_ids)
        tokens = tuple(tokenizer.decode([index], skip_special_tokens=False).encode() for index in range(len(tokenizer)))

        def __call__(self, text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False))

    return TokenizerWrapper(Words())
