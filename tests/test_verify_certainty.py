"""Certainty by the whole distribution: equal to what transformers' own logits give."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from judges import ASKED, ask

from forethought.engines.local import TinyConfig
from forethought.engines.local.tiny import build
from forethought.thought.tokens import render
from forethought.types import Step
from forethought.verify import certainty as module
from forethought.verify.certainty import Of, certainty

STEPS = (Step("<think>\n3 + 4"), Step("Wait", sampled=False), Step("\n</think>\\boxed{7}"))


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return build(TinyConfig(layers=1, width=32, context=96))


def by_hand(tiny: tuple[Any, Any], of: Of) -> list[list[float]]:
    """The certainty of each token of the steps that were sampled."""
    model, tokenizer = tiny
    tokens, spans = render(tokenizer, ASKED, STEPS)
    with torch.no_grad():
        p_TV = model(torch.tensor([tokens])).logits[0].softmax(-1).double()
    size = p_TV.shape[1]
    found = []
    for start, end in (spans[0], spans[2]):
        rows = [p_TV[at - 1] for at in range(start, end)]
        if of == "uniform":
            found.append([float(((1 / size) * ((1 / size) / row).log()).sum()) for row in rows])
        else:
            found.append([float(-row.log().sort(descending=True).values[:20].mean()) for row in rows])
    return found


@pytest.mark.parametrize("of", ["uniform", "top"])
def test_both_are_those_of_the_distribution(tiny: tuple[Any, Any], of: Of, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 5)
    rows = by_hand(tiny, of)
    every = [one for row in rows for one in row]
    verify = certainty(*tiny, of)
    (verdict,) = ask(verify, STEPS)
    mean = sum(every) / len(every)
    assert verdict.parts == pytest.approx({"certainty": mean}, rel=1e-4)
    assert verdict.score == pytest.approx(1 - math.exp(-mean), rel=1e-4)
    assert verdict.steps[1] is None
    by_step = [1 - math.exp(-sum(row) / len(row)) for row in rows]
    assert [verdict.steps[0], verdict.steps[2]] == pytest.approx(by_step, rel=1e-4)
    assert (verdict.answer, verdict.cost) == ("7", len(render(tiny[1], ASKED, STEPS)[0]))
    (lowest,) = ask(certainty(*tiny, of, measure="lowest", window=1), STEPS)
    assert lowest.parts == pytest.approx({"certainty": min(every)}, rel=1e-3)


def test_a_surer_model_is_surer(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = build(TinyConfig(layers=1, width=32, context=96))
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
    sure, unsure = (ask(certainty(one, tokenizer), STEPS)[0].score for one in (model, tiny[0]))
    assert sure is not None
    assert unsure is not None
    assert sure > 2 * unsure > 0


def test_what_cannot_be_measured(tiny: tuple[Any, Any]) -> None:
    verify = certainty(*tiny)
    long, forced = ask(verify, (Step("x" * 200),), (STEPS[1],))
    assert (long.score, long.cost, forced.score) == (None, 0, None)
    assert "too long for the judge" in long.note
    assert forced.note == "no token of this thought was sampled"
    with pytest.raises(ValueError, match="of is 'entropy'; certainty knows uniform, top"):
        certainty(*tiny, "entropy")  # type: ignore[arg-type]  # the point
    with pytest.raises(ValueError, match="window is 0"):
        certainty(*tiny, window=0)
