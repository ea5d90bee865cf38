"""What training and thinking cost, in floating-point operations (one multiply-add is two)."""

from __future__ import annotations


def training_flops(
    parameters: int,
    tokens: int,
    *,
    layers: int = 0,
    width: int = 0,
    context: float = 0.0,
    recompute: bool = False,
    frozen: int = 0,
) -> float:
    """`6 N D` for the weights plus `12 L d c` per token for attention: forward 2 and 4, backward twice that.

    Args:
        parameters: N, those that multiply: without the embedding table, with the output head counted once.
        tokens: D, every token of the sequences, prompts included, times the epochs.
        layers: L.
        width: d, the heads' widths together.
        context: c, positions a token attends to on average; half the length of a causal sequence.
        recompute: activation checkpointing runs the forward pass twice.
        frozen: those of N that are not trained (under adapters): 2 less per token each, a gradient nobody needs.
    """
    _check(parameters, tokens)
    if not 0 <= frozen <= parameters:
        raise ValueError(f"frozen is {frozen}; it must be from 0 to the {parameters} parameters")
    forward = inference_flops(parameters, tokens, layers=layers, width=width, context=context)
    return (4 if recompute else 3) * forward - 2.0 * frozen * tokens


def inference_flops(parameters: int, tokens: int, *, layers: int = 0, width: int = 0, context: float = 0.0) -> float:
    """`2 N` per token plus `4 L d c` for attention over c positions on average.

    `tokens` are the drawn ones and the prompt's, a prompt that several samples share counted once.
    """
    _check(parameters, tokens)
    return float(tokens) * (2.0 * parameters + 4.0 * layers * width * context)


def _check(parameters: int, tokens: int) -> None:
    if parameters < 1:
        raise ValueError(f"parameters is {parameters}; give the model's count, at least 1")
    if tokens < 0:
        raise ValueError(f"tokens is {tokens}; it must be 0 or more")
