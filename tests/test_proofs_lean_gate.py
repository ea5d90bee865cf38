"""What a model may write as a Lean proof: plain terms and tactics pass, what cheats is refused by its word."""

from __future__ import annotations

import pytest

from forethought.problems.proofs import lean_gate
from forethought.problems.proofs.lean_gate import REFUSED, Refusal, inspect, tokens


@pytest.mark.parametrize(
    "proof",
    [
        "by simp",
        "by\n  intro x h\n  rcases h with ⟨a, b⟩ -- and so\n  exact ⟨a, b.1⟩",
        "fun h => h.elim (fun a => a) id",
        "by /- no /- sorry -/ here -/ omega",
        "by\n  -- sorry, that was long\n  have h₁ : n' + 0 = n' := by simp\n  exact h₁ ▸ rfl",
        "by induction n with\n  | zero => rfl\n  | succ n ih => simp [ih, Nat.add_comm]",
        "by show (∀ ε > 0, ∃ δ, |x| < ε); decide",
        "by calc a ≤ b := h\n    _ = c := by ring",
        "by trace \"sorry, axiom\"; exact absurd ('\\x22' : Char) c",
        "by simp [<- h, ← g] at *; exact a \\/ b // c",
        "by rw [foo, -- sorry\n  bar]",
        "by exact «weird name» ∘ x",
        "by sorryAndMore; admitted; send; ended",
    ],
)
def test_plain_proofs_pass(proof: str) -> None:
    inspect(proof)


@pytest.mark.parametrize("word", sorted(REFUSED))
def test_every_refused_word_is_found_wherever_it_stands(word: str) -> None:
    for proof in (word, f"by exact {word} x", f"by\n{word}", f"_root_.{word}", f"{word}.x", f"«{word}»", f"«a.{word}»"):
        with pytest.raises(Refusal) as refusal:
            inspect(proof)
        assert str(refusal.value) == f"{word} {REFUSED[word]}"
    inspect(f"-- {word}\nby rfl /- {word} -/")


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        ("by decide +native", "native trusts the compiler"),
        ("by decide (config := {native := true})", "native trusts the compiler"),
        ("#print axioms x", "a # begins a command"),
        ("by rfl\n#eval 1", "a # begins a command"),
        ("@[simp] foo", "an attribute"),
        ("by exact `(x)", "quotes code"),
        ("by exact $x", "quotation's hole"),
        ('by exact s!"{1}"', "raw or interpolated"),
        ('by exact s! "{sorry}"', "a { may hold code"),
        ('by dbg_trace "{x}"; rfl', "reaches outside"),
        ('by exact r"\\" sorry "', "raw or interpolated"),
        ('by exact xᶜr"\\" sorry "', "raw or interpolated"),
        ("by exact aᶜ'\"' sorry '\"'", "raw or interpolated"),
        ("by exact f ''\"' sorry \" \"", "is read in two ways"),
        ("by exact '\\\"'", "is read in two ways"),
        ("by exact sorryᶜ", "sorry leaves a hole"),
        ("by exact (sorryλ x => x)", "sorry leaves a hole"),
        ("by exact λsorry", "sorry leaves a hole"),
        ("by rw [<--sorry\n]", "-- is read in two ways"),
        ("by exact a \\/-b sorry -/ c", "/- is read in two ways"),
        ("by exact {x //-sorry -/ x}", "/- is read in two ways"),
        ("by rfl\n  /-! text -/", "documentation"),
        ("by let rec /-- text -/ f := 1; rfl", "documentation"),
        ("by exact eval% f", "eval% programs"),
        ("by exact eval %f; rfl\u00ad", "none that proofs"),
        ('by exact "a', "a string is never closed"),
        ('by exact r##"a"#', "a # begins a command"),
        ("by /- /- -/ rfl", "comment at character 4 is never closed"),
        ("by rfl\n-/ theorem", "theorem is no part"),
        ("by «", "a « is never closed"),
        ("by simp)", "a ) closes what was not opened"),
        ("by (simp", "a ( is never closed"),
        ("by (simp]", "a ] closes what was not opened"),
        ("by rfl\u200b", "none that proofs are written with"),
        ("by rfl\u202e", "none that proofs are written with"),
        ("by ｓｏｒｒｙ", "none that proofs are written with"),
        ("by rfl\0", "none that proofs are written with"),
        ("by ѕorry", "none that proofs are written with"),  # a Cyrillic letter
        ('by exact "\\" sorry', "a string is never closed"),
        ("by exact '\\'' sorry", "sorry leaves a hole"),
        ("by -- rfl\n  sorry", "sorry leaves a hole"),
        ('by exact "a" sorry "b"', "sorry leaves a hole"),
    ],
)
def test_what_cheats_is_refused_by_its_reason(proof: str, reason: str) -> None:
    with pytest.raises(Refusal) as refusal:
        inspect(proof)
    assert reason in str(refusal.value)


def test_a_long_proof_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_gate, "LONGEST", 10)
    inspect("by simp")
    with pytest.raises(Refusal, match="at most 10"):
        inspect("by simp; simp")


def test_tokens_are_words_and_signs() -> None:
    assert list(tokens("by exact foo.bar h₁' (x) -- y")) == ["by", "exact", "foo", ".", "bar", "h₁'", "(", "x", ")"]
