"""A scalar head over the last hidden states: the data that teach it, and its losses.

A target here is a token at which the head is read, the last of a step; `Datum.labels` has what it should say there. The
learner trains the head together with the trunk, or alone where the trunk needs no gradient:

    head = fresh(model)
    learner = Learner(model, head=head, lr=1e-4)
    learner.step([marked(tokenizer, trace, (1.0, 1.0, 0.0))], cross_entropy)

What the head says is a logit for `cross_entropy` and `squared_error`, a reward for `bradley_terry`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from forethought.thought.tokens import Tokenizer, render
from forethought.train.batch import Pack
from forethought.train.forward import Outputs, parts
from forethought.train.losses import Metrics
from forethought.types import Datum, Trace


def fresh(model: nn.Module) -> nn.Linear:
    """A head that says 0 everywhere, as wide as the model and on its device, in float32."""
    vocabulary = parts(model)[1]
    head = nn.Linear(vocabulary.in_features, 1, device=vocabulary.weight.device)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head


def marked(
    tokenizer: Tokenizer, trace: Trace, labels: Sequence[float | None], *, pair: int | None = None
) -> Datum | None:
    """The trace as a datum whose targets are the last tokens of its labelled steps; `None` where no step is labelled.

    Args:
        labels: one for each step; `None` is no target, and neither is a step without a token.
        pair: the number that it shares with the traces it is compared with.

    Raises:
        ValueError: not as many labels as steps, or one that is not finite.
    """
    if len(labels) != len(trace.steps):
        raise ValueError(f"a trace of {trace.problem_id} has {len(trace.steps)} steps and {len(labels)} labels")
    if bad := [label for label in labels if label is not None and not math.isfinite(label)]:
        raise ValueError(f"a step of {trace.problem_id} is labelled {bad[0]}; a label is a finite number or None")
    tokens, spans = render(tokenizer, trace.messages, trace.steps)
    targets = {
        end - 1: label for label, (start, end) in zip(labels, spans, strict=True) if label is not None and end > start
    }
    if not targets:
        return None
    return Datum(
        tokens=tokens,
        mask=tuple(place in targets for place in range(len(tokens))),
        weights=tuple(float(place in targets) for place in range(len(tokens))),
        labels=tuple(targets.get(place, 0.0) for place in range(len(tokens))),
        pair=pair,
    )


def compared(data: Sequence[Datum]) -> list[Datum]:
    """Those data that a comparison can learn from: their `pair` has different labels."""
    seen: dict[int | None, set[float]] = {}
    for datum in data:
        seen.setdefault(datum.pair, set()).update(_targets(datum))
    return [datum for datum in data if datum.pair is not None and len(seen[datum.pair]) > 1]


def odds(data: Sequence[Datum]) -> float:
    """What to multiply the loss of "right" with so that right and wrong weigh the same: (1 - labels) over labels.

    A head trained so says the logit of a world with even odds; less log(odds), that of the data as they are.

    Raises:
        ValueError: all labels are 1, or all are 0.
    """
    labels = [label for datum in data for label in _targets(datum)]
    right = math.fsum(labels)
    if not 0 < right < len(labels):
        raise ValueError(f"all {len(labels)} labels are {'wrong' if not right else 'right'}; a verifier needs both")
    return (len(labels) - right) / right


def _targets(datum: Datum) -> list[float]:
    return [label for label, target in zip(datum.labels, datum.mask, strict=True) if target]


def cross_entropy(pack: Pack, outputs: Outputs, *, right: float = 1.0) -> tuple[Tensor, Metrics]:
    """Binary cross-entropy with labels from 0 to 1, hard or soft: outcome and process reward models (arXiv 2110.14168,
    section 4.1; arXiv 2305.20050, section 2.6; arXiv 2312.08935, equation 2).

    Args:
        right: weight of the part that pulls towards 1 (`odds`).
    """
    values_M, label_M = _read(pack, outputs)
    each_M = -(right * label_M * logsigmoid(values_M) + (1 - label_M) * logsigmoid(-values_M))
    return (pack.weight_M * each_M).sum(), {"cross_entropy": _mean(each_M), **_agreement(values_M, label_M)}


def squared_error(pack: Pack, outputs: Outputs) -> tuple[Tensor, Metrics]:
    """Squared error between the probability that the head says and the label, a return in [0, 1]: a value head."""
    values_M, label_M = _read(pack, outputs)
    each_M = (values_M.sigmoid() - label_M) ** 2
    return (pack.weight_M * each_M).sum(), {"squared_error": _mean(each_M), **_agreement(values_M, label_M)}


def bradley_terry(pack: Pack, outputs: Outputs, *, margin: float = 0.0) -> tuple[Tensor, Metrics]:
    """-log sigmoid of the difference between a better thought's reward and a worse one's, for all two of a `pair` whose
    labels differ; the mean over each pair's comparisons (InstructGPT, arXiv 2203.02155, equation 1).

    Divide by the number of pairs: `normaliser=len({datum.pair for datum in data})`.

    Args:
        margin: how much larger than 0 the difference should be for labels that are 1 apart (Llama 2, equation 2).
    """
    values_M, label_M = _read(pack, outputs)
    assert pack.pair_M is not None
    same_MM = (pack.pair_M[:, None] == pack.pair_M[None, :]) & (pack.pair_M[:, None] >= 0)
    better_C, worse_C = torch.nonzero(same_MM & (label_M[:, None] > label_M[None, :]), as_tuple=True)
    difference_C = values_M[better_C] - values_M[worse_C]
    each_C = -logsigmoid(difference_C - margin * (label_M[better_C] - label_M[worse_C]))
    _, place_C, count_N = torch.unique(pack.pair_M[better_C], return_inverse=True, return_counts=True)
    metrics = {"bradley_terry": _mean(each_C), "accuracy": _mean((difference_C > 0).float())}
    return (each_C / count_N[place_C]).sum(), metrics


def _read(pack: Pack, outputs: Outputs) -> tuple[Tensor, Tensor]:
    if pack.label_M is None or bool(pack.label_M.isnan().any()):
        raise ValueError("a datum with targets has no labels for the head; make it with heads.marked")
    if outputs.values_M is None:
        raise ValueError("the learner has no scalar head; give it one: Learner(model, head=fresh(model), ...)")
    return outputs.values_M, pack.label_M


def _agreement(values_M: Tensor, label_M: Tensor) -> Metrics:
    """Where the label leans to one side: does the head?"""
    clear_M = label_M != 0.5
    return {"accuracy": _mean(((values_M > 0) == (label_M > 0.5))[clear_M].float())}


def _mean(each: Tensor) -> tuple[Tensor, Tensor]:
    each = each.detach()
    return each.sum(), torch.tensor(float(each.numel()), device=each.device)
