"""Metamath's proofs: what holds is accepted, in both written forms, and every way to cheat is refused by its reason."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from forethought.problems.proofs import metamath
from forethought.problems.proofs.metamath import Database

LOGIC = """
$( Implication alone, and one quantifier for its distinct variables. $)
$c ( ) -> wff |- A. setvar $.
$v ph ps ch x y $.
wph $f wff ph $.  wps $f wff ps $.  wch $f wff ch $.  vx $f setvar x $.  vy $f setvar y $.
wi $a wff ( ph -> ps ) $.
wal $a wff A. x ph $.
ax-1 $a |- ( ph -> ( ps -> ph ) ) $.
ax-2 $a |- ( ( ph -> ( ps -> ch ) ) -> ( ( ph -> ps ) -> ( ph -> ch ) ) ) $.
${ min $e |- ph $.  maj $e |- ( ph -> ps ) $.  ax-mp $a |- ps $. $}
${ $d x ph $.  ax-5 $a |- ( ph -> A. x ph ) $. $}
${ a1i.1 $e |- ph $.  a1i $p |- ( ps -> ph ) $= wph wps wph wi a1i.1 wph wps ax-1 ax-mp $. $}
id $p |- ( ph -> ph ) $=
  ( wi ax-1 ax-2 ax-mp ) AAABZBZFAACAFABBGFBAFCAFADEE $.
"""
IDENTITY = "thm $p |- ( ph -> ph ) $= ? $."
LONG = (
    "wph wph wph wi wi wph wph wi wph wph ax-1 wph wph wph wi wph wi wi wph wph wph wi wi wph wph wi wi "
    "wph wph wph wi ax-1 wph wph wph wi wph ax-2 ax-mp ax-mp"
)
GENERAL = "${ $d x ph $. gen $p |- ( ph -> A. x ph ) $= ? $. $}"


@pytest.fixture(scope="module")
def logic() -> Database:
    return Database.read(LOGIC)


def test_the_databases_own_proofs_hold(logic: Database) -> None:
    assert list(logic.faults()) == []


@pytest.mark.parametrize("proof", [LONG, "( wi ax-1 ax-2 ax-mp ) AAABZBZFAACAFABBGFBAFCAFADEE", "wph id"])
def test_a_proof_holds_in_either_form_and_by_a_theorem(logic: Database, proof: str) -> None:
    told = logic.check(logic.goal(IDENTITY), proof)
    assert (told.status, told.messages, told.axioms) == ("proved", (), ("ax-1", "ax-2", "ax-mp"))


def test_hypotheses_of_the_statement_are_used_by_their_labels(logic: Database) -> None:
    goal = logic.goal("${ thm.1 $e |- ph $. thm $p |- ( ch -> ph ) $= ? $. $}")
    assert logic.check(goal, "wph wch thm.1 a1i").status == "proved"
    assert logic.check(goal, "( a1i ) ABCD").status == "proved"
    assert "there is no min" in logic.check(goal, "wph wch min a1i").messages[0]  # another's hypothesis


def test_variables_that_must_stay_apart(logic: Database) -> None:
    assert logic.check(logic.goal(GENERAL), "wph vx ax-5").status == "proved"
    careless = logic.goal("gen $p |- ( ph -> A. x ph ) $= ? $.")
    assert "needs" in (message := logic.check(careless, "wph vx ax-5").messages[0])
    assert "$d" in message
    same = logic.goal("gen $p |- ( A. x ph -> A. x A. x ph ) $= ? $.")
    assert logic.check(same, "wph vx wal vx ax-5").status == "refuted"


def test_a_variable_of_the_proof_alone_is_apart_from_all(logic: Database) -> None:
    through_y = (
        "wps wps vy wal wi wph wph wi wps vy ax-5 wph wph wi wps wps vy wal wi wph id a1i ax-mp"  # by ( ps -> A. y ps )
    )
    told = logic.check(logic.goal(IDENTITY), through_y)
    assert (told.status, told.axioms) == ("proved", ("ax-1", "ax-2", "ax-5", "ax-mp"))
    assert logic.check(logic.goal("thm $p |- ( ps -> A. y ps ) $= ? $."), "wps vy ax-5").status == "refuted"


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        ("", "the proof is empty"),
        ("?", "has a ?"),
        ("( ) ?", "has a ?"),
        ("wph", "it proves wff ph, not |- ( ph -> ph )"),
        ("wph wph", "2 formulas are left"),
        ("thm", "there is no thm"),
        ("min", "there is no min"),
        ("wph nosuch", "there is no nosuch"),
        ("$= wph id $.", "there is no $="),
        ("ax-mp", "step 1: ax-mp needs 4 formulas, and 0 are there"),
        ("vx id", "needs a wff, and is given setvar x"),
        (LONG.replace("ax-2", "ax-1"), "needs"),
        ("( wi", "never closed"),
        ("( wi )", "only the letters"),
        ("( wi ) a", "only the letters"),
        ("( wi ) C", "names the place 3, and there are 2"),
        ("( wi ) Z", "a Z stands where no step was"),
        ("( wi ) AZZ", "a Z stands where no step was"),
        ("( wi ) AU", "in the middle of a number"),
        ("( wph ) A", "without"),
        ("( thm ) B", "there is no thm"),
    ],
)
def test_what_is_no_proof_is_refused_by_its_reason(logic: Database, proof: str, reason: str) -> None:
    told = logic.check(logic.goal(IDENTITY), proof)
    assert told.status == "refuted"
    assert reason in told.messages[0]


def test_a_formula_that_doubles_is_stopped(logic: Database) -> None:
    doubling = "A" + "".join(f"Z{place}B" for place in "CDEFGHIJKLMNOPQRST")  # each implies itself
    assert "longer than are read" in logic.check(logic.goal(IDENTITY), f"( wi ) {doubling}").messages[0]


def test_a_proof_of_any_length_is_bounded(logic: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    goal = logic.goal(IDENTITY)
    monkeypatch.setattr(metamath, "MOST_STEPS", 1000)
    assert "more than 1000 steps" in logic.check(goal, "wph " * 1001).messages[0]
    assert "more than 1000 steps" in logic.check(goal, "( ) " + "A" * 1001).messages[0]
    monkeypatch.setattr(metamath, "LONGEST_PROOF", 100)
    assert "at most 100 are read" in logic.check(goal, LONG).messages[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("$( never closed", "comment"),
        ("$)", "comment"),
        ("${", "never closed"),
        ("$}", "never opened"),
        ("$c a", "never closed by $."),
        ("l $a", "never closed"),
        ("$c a $. l $a a $. l $a a $.", "label of its own"),
        ("$c a $. $a a $.", "label of its own"),
        ("l $a b $.", "begins with a constant"),
        ("$c a $. l $a a b $.", "neither a constant nor a variable"),
        ("$c a $. $v x $. l $a a x $.", "no $f for x"),
        ("$c a $. l $p a $.", "no $="),
        ("$[ other.mm $]", "no word of Metamath's"),
        ("l", "has no statement"),
        ("l m $a a $.", "is no label"),
    ],
)
def test_a_database_that_is_none_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        Database.read(text)


def test_a_statement_is_one_and_brings_nothing_else(logic: Database) -> None:
    with pytest.raises(ValueError, match="needs one"):
        logic.goal("thm $p |- ( ph -> ph ) $= wph id $.")
    with pytest.raises(ValueError, match="also brings evil"):
        logic.goal("evil $a |- ph $. thm $p |- ph $= ? $.")
    logic.goal(IDENTITY)
    assert "thm" not in logic.assertions


def test_a_changed_database_has_faults() -> None:
    broken = Database.read(LOGIC.replace("AFADEE", "AFADE"))
    assert [fault.partition(":")[0] for fault in broken.faults()] == ["id"]


@pytest.mark.skipif(shutil.which("metamath") is None, reason="metamath is not installed (apt install metamath)")
@pytest.mark.parametrize("proof", [LONG, LONG.replace("ax-2", "ax-1"), "wph id", "wph"])
def test_the_metamath_program_agrees(logic: Database, tmp_path: Path, proof: str) -> None:
    goal = logic.goal(IDENTITY)
    (tmp_path / "all.mm").write_text(LOGIC + IDENTITY.replace("?", proof) + "\n")
    run = subprocess.run(
        ["metamath", "read all.mm", "verify proof *", "exit"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    accepted = "?Warning" not in run.stdout and "?Error" not in run.stdout  # the last line claims success all the same
    assert accepted == (logic.check(goal, proof).status == "proved")


def test_every_single_change_of_a_proof_is_refused(logic: Database) -> None:
    goal, words = logic.goal(IDENTITY), LONG.split()
    for at in range(len(words)):
        for other in {"wph", "wi", "ax-1", "ax-mp"} - {words[at]}:
            changed = [*words[:at], other, *words[at + 1 :]]
            assert logic.check(goal, " ".join(changed)).status == "refuted"
