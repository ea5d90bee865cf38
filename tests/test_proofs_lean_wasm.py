"""What the fake Lean of the other tests is taken to say, a real one says: one batch, since its imports take minutes."""

from __future__ import annotations

import asyncio

import lean_wasm
import pytest

from forethought.problems.proofs import lean
from forethought.problems.proofs.lean import Source, judge
from forethought.problems.proofs.lean_gate import Refusal, inspect
from forethought.problems.sandbox import jail

EVIL = "axiom evil : 1 = 2\n"
GATED = {
    "theorem sum (n : Nat) : n + 0 = n :=": ("by simp", "proved", ""),
    "theorem order (a b : Nat) (h : a < b) : ¬ b ≤ a :=": ("by\n  intro le\n  omega", "proved", ""),
    "theorem plain (p q : Prop) (h : p ∧ q) : q ∧ p :=": ("⟨h.2, h.1⟩ -- sorry is no word here", "proved", ""),
    "theorem wrong : 2 + 2 = 5 :=": ("by decide", "refuted", "line 2"),
    "theorem unequal (a b : Nat) : a + b = a :=": ("by omega", "refuted", "line 2"),
    "theorem unknown : 1 = 1 :=": ("by exact nosuch", "refuted", "line 2"),
    "theorem cheated : 2 + 2 = 5 :=": ("absurd evil (by decide)", "proved", ""),  # the axiom came before it
}
"""Statement to proof, status and reason, where the gate lets the proof pass and no axioms are told."""
HOLED = {
    "theorem holed : 2 + 2 = 5 :=": "by sorry",
    "theorem spaced : (0 : Nat) = 1 :=": 'absurd (s! "{(sorry : 0 = 1)}") (by trivial)',
    "theorem arrow (a : Int) : a = 0 :=": "by rw [<--(sorry : a = 0)]",
    "theorem glued : 2 + 2 = 5 :=": "(sorryλ x => x)",
}
"""Statement to a proof that the gate refuses."""


@pytest.mark.lean_wasm
@pytest.mark.timeout(3600)
@pytest.mark.skipif(bool(jail.missing()), reason=jail.missing() or "-")
def test_a_real_lean_says_what_is_proved() -> None:
    try:
        words = lean_wasm.command(lean_wasm.fetched())
    except lean_wasm.NotFetched as missing:
        pytest.skip(str(missing))
    for proof in (*HOLED.values(), EVIL):
        with pytest.raises(Refusal):
            inspect(proof)
    sources = [Source(statement, proof).theorem for statement, (proof, _, _) in GATED.items()]
    sources += [
        f"{statement}\n  {proof}\n\n#print axioms {statement.split()[1]}\n" for statement, proof in HOLED.items()
    ]
    text, code = asyncio.run(lean._once(words, "\n".join([EVIL, *sources]), None, 3000))
    if "bwrap:" in text:
        pytest.skip(f"{text.strip()[:200]}; as root, name a folder that every user may read in FORETHOUGHT_CACHE")
    messages = [found for line in text.splitlines() if (found := lean._message(line)) is not None]
    assert code == 1, text[-500:]  # Lean's own status where a theorem does not hold
    first = EVIL.count("\n") + 2
    told = []
    for source in sources:
        after = first + source.count("\n") + 1
        own = [
            {**message, "pos": {**message["pos"], "line": message["pos"]["line"] - first + 1}}
            for message in messages
            if first <= message["pos"]["line"] < after
        ]
        told.append(judge(source, own, allowed=lean.STANDARD, axioms_told=False))
        first = after
    for one, (statement, (_, status, reason)) in zip(told, GATED.items(), strict=False):
        assert one.status == status, (statement, one)
        assert reason in "".join(one.messages)
    assert {one.status for one in told[len(GATED) :]} == {"refuted"}
    assert told[len(GATED)].messages == ("line 1: the proof leaves a hole",)
