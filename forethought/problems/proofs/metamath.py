"""Metamath: a verifier of its proofs (the Metamath book, section 4.3 and appendix B).

A database is read once; a statement of ours is a block of its language whose last `$p` has the proof `?`; the model
writes what stands in that place: labels, or the compressed form. Nothing is run, so nothing has to be jailed, and the
limits below bound what a hostile proof can cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations

from forethought.problems.proofs.checked import Checked

LONGEST_PROOF = 1_000_000
"""Characters."""
MOST_STEPS = 200_000
MOST_SYMBOLS = 20_000
"""Of one formula: a step used twice can double a formula, thirty times over."""
MOST_WORK = 20_000_000
"""Symbols written in one proof."""

Symbols = tuple[str, ...]

_LABEL = re.compile(r"[A-Za-z0-9._-]+")
_COMPRESSED = re.compile(r"[A-Z?]*")


class Refused(Exception):  # noqa: N818 - a verdict, not an error of ours
    """The proof is not one; the text says why."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """`$f` (a typecode and a variable) or `$e` (any formula)."""

    label: str
    symbols: Symbols
    floating: bool


@dataclass(frozen=True, slots=True)
class Assertion:
    """`$a` or `$p` with its frame: the hypotheses it must be given, in order, and the variables to be kept apart."""

    label: str
    hypotheses: tuple[Hypothesis, ...]
    apart: frozenset[tuple[str, str]]
    symbols: Symbols
    proof: tuple[str, ...] | None = None
    """`None`: an axiom."""


@dataclass(slots=True)
class _Scope:
    variables: set[str] = field(default_factory=set)
    hypotheses: list[Hypothesis] = field(default_factory=list)
    apart: set[tuple[str, str]] = field(default_factory=set)


class Database:
    """Labels with what they stand for, and the scopes that are open."""

    def __init__(self) -> None:
        self.assertions: dict[str, Assertion] = {}
        self.hypotheses: dict[str, Hypothesis] = {}
        self.constants: set[str] = set()
        self.scopes = [_Scope()]

    # ---- reading

    @classmethod
    def read(cls, text: str) -> Database:
        """A database's source, includes excepted. Raises ValueError, with the label, where it is not one."""
        database = cls()
        for _ in database._statements(_tokens(text)):
            pass
        if len(database.scopes) != 1:
            raise ValueError("a scope ${ is never closed")
        return database

    def goal(self, text: str) -> Assertion:
        """The statement to prove: a block whose last `$p` has the proof `?`. It is not added to the database.

        Raises ValueError where there is no such statement.
        """
        inner = Database()
        inner.assertions, inner.hypotheses = dict(self.assertions), dict(self.hypotheses)
        inner.constants = set(self.constants)
        base = self.scopes[0]
        inner.scopes = [_Scope(set(base.variables), list(base.hypotheses), set(base.apart))]
        found = [assertion for assertion in inner._statements(_tokens(text)) if assertion.proof == ("?",)]
        if len(found) != 1:
            raise ValueError(f"a statement needs one $p with the proof ?, and this has {len(found)}: {text[:80]!r}")
        own = {name for name in inner.assertions if name not in self.assertions} - {found[0].label}
        if own:
            raise ValueError(f"a statement brings nothing but itself; this also brings {', '.join(sorted(own))}")
        return found[0]

    def _statements(self, tokens: Iterator[str]) -> Iterator[Assertion]:
        label = ""
        for token in tokens:
            if token == "${":
                self.scopes.append(_Scope())
            elif token == "$}":
                if len(self.scopes) == 1:
                    raise ValueError("a scope is closed that was never opened")
                self.scopes.pop()
            elif token in ("$c", "$v", "$d", "$f", "$e", "$a", "$p"):
                body = _until(tokens, "$.", label)
                if made := self._add(token, label, body):
                    yield made
                label = ""
            elif token.startswith("$"):
                raise ValueError(f"{token} is no word of Metamath's that is read here")
            else:
                if label or not _LABEL.fullmatch(token):
                    raise ValueError(f"{label or token} is no label")
                label = token
        if label:
            raise ValueError(f"the label {label} has no statement")

    def _add(self, kind: str, label: str, body: list[str]) -> Assertion | None:
        scope = self.scopes[-1]
        if kind in ("$f", "$e", "$a", "$p"):
            if not label or label in self.assertions or label in self.hypotheses:
                raise ValueError(f"{kind} needs a label of its own, and has {label!r}")
        elif label:
            raise ValueError(f"{kind} has no label, and here it has {label}")
        if kind == "$c":
            self.constants |= set(body)
        elif kind == "$v":
            scope.variables |= set(body)
        elif kind == "$d":
            scope.apart |= {_pair(a, b) for a, b in combinations(sorted(set(body)), 2)}
        elif kind in ("$f", "$e"):
            self._check(label, body)
            if kind == "$f" and (len(body) != 2 or not self._variable(body[1])):
                raise ValueError(f"{label}: $f is a typecode and a variable")
            made = Hypothesis(label, tuple(body), kind == "$f")
            scope.hypotheses.append(made)
            self.hypotheses[label] = made
        else:
            proof: tuple[str, ...] | None = None
            if kind == "$p":
                if "$=" not in body:
                    raise ValueError(f"{label}: $p has no $=")
                at = body.index("$=")
                body, proof = body[:at], tuple(body[at + 1 :])
            self._check(label, body)
            self.assertions[label] = assertion = self._framed(label, tuple(body), proof)
            return assertion
        return None

    def _check(self, label: str, body: list[str]) -> None:
        if not body or body[0] not in self.constants:
            raise ValueError(f"{label}: a formula begins with a constant")
        for symbol in body:
            if symbol not in self.constants and not self._variable(symbol):
                raise ValueError(f"{label}: {symbol} is neither a constant nor a variable")

    def _variable(self, symbol: str) -> bool:
        return any(symbol in scope.variables for scope in self.scopes)

    def _framed(self, label: str, symbols: Symbols, proof: tuple[str, ...] | None) -> Assertion:
        active = [hypothesis for scope in self.scopes for hypothesis in scope.hypotheses]
        used = {symbol for symbol in symbols if symbol not in self.constants}
        for hypothesis in active:
            if not hypothesis.floating:
                used |= {symbol for symbol in hypothesis.symbols if symbol not in self.constants}
        frame = tuple(each for each in active if not each.floating or each.symbols[1] in used)
        typed = {each.symbols[1] for each in frame if each.floating}
        if missing := used - typed:
            raise ValueError(f"{label}: no $f for {', '.join(sorted(missing))}")
        apart = {pair for scope in self.scopes for pair in scope.apart if set(pair) <= used}
        return Assertion(label, frame, frozenset(apart), symbols, proof)

    # ---- proofs

    def faults(self) -> Iterator[str]:
        """What is wrong with the database's own proofs, one text for each that does not hold; a `?` is one."""
        for assertion in self.assertions.values():
            if assertion.proof is not None:
                told = self.check(assertion, " ".join(assertion.proof))
                if told.status != "proved":
                    yield f"{assertion.label}: {told.messages[0]}"

    def check(self, goal: Assertion, proof: str) -> Checked:
        """Does `proof` prove `goal`? `axioms` are those it rests on, through every theorem it names."""
        try:
            steps = self._steps(goal, proof)
            self._run(goal, steps)
        except Refused as error:
            return Checked("refuted", (str(error),), checker="metamath")
        named = [step.label for step in steps if isinstance(step, Assertion)]
        return Checked("proved", axioms=tuple(sorted(self.axioms(named))), checker="metamath")

    def axioms(self, labels: list[str]) -> set[str]:
        """The logical axioms (`|-`) that these assertions rest on, themselves included."""
        seen: set[str] = set()
        found: set[str] = set()
        queue = list(labels)
        while queue:
            label = queue.pop()
            if label in seen or label not in self.assertions:
                continue
            seen.add(label)
            assertion = self.assertions[label]
            if assertion.proof is not None:
                queue += assertion.proof
            elif assertion.symbols[0] == "|-":
                found.add(label)
        return found

    def _steps(self, goal: Assertion, proof: str) -> list[Assertion | Hypothesis | int]:
        """The steps of a proof; a number is the saved formula of that place, and -1 saves one."""
        if len(proof) > LONGEST_PROOF:
            raise Refused(f"the proof has {len(proof)} characters; at most {LONGEST_PROOF} are read")
        words = proof.split()
        if not words:
            raise Refused("the proof is empty")
        if words[0] != "(":
            return [self._named(goal, word) for word in words]
        if ")" not in words:
            raise Refused("the list of labels in ( is never closed")
        at = words.index(")")
        own = [*goal.hypotheses, *(self._named(goal, word) for word in words[1:at])]
        if any(each in goal.hypotheses for each in own[len(goal.hypotheses) :]):
            raise Refused("a hypothesis of the statement stands in the list of labels; letters name it without")
        letters = "".join(words[at + 1 :])
        if not letters or not _COMPRESSED.fullmatch(letters):
            raise Refused("behind the list of labels only the letters A to Z may stand")
        steps: list[Assertion | Hypothesis | int] = []
        number = places = 0
        for letter in letters:
            if letter == "?":
                raise Refused("the proof is not complete: it has a ?")
            if letter == "Z":
                if number or not steps or steps[-1] == -1:
                    raise Refused("a Z stands where no step was")
                steps.append(-1)
                places += 1
            elif letter > "T":
                number = number * 5 + ord(letter) - ord("T")
            else:
                index = number * 20 + ord(letter) - ord("A")
                number = 0
                if index >= len(own) + places:
                    raise Refused(
                        f"step {len(steps) + 1} names the place {index + 1}, and there are {len(own) + places}"
                    )
                steps.append(own[index] if index < len(own) else index - len(own))
            if len(steps) > MOST_STEPS:
                raise Refused(f"the proof has more than {MOST_STEPS} steps")
        if number:
            raise Refused("the letters end in the middle of a number")
        return steps

    def _named(self, goal: Assertion, word: str) -> Assertion | Hypothesis:
        if word == "?":
            raise Refused("the proof is not complete: it has a ?")
        for hypothesis in goal.hypotheses:
            if hypothesis.label == word:
                return hypothesis
        if word in self.assertions:
            return self.assertions[word]
        found = self.hypotheses.get(word)
        # A variable that the statement has not may be used on the way: its type is always at hand.
        if found is not None and found.floating and found in self.scopes[0].hypotheses:
            return found
        raise Refused(f"there is no {word[:80]}")

    def _run(self, goal: Assertion, steps: list[Assertion | Hypothesis | int]) -> None:
        if len(steps) > MOST_STEPS:
            raise Refused(f"the proof has more than {MOST_STEPS} steps")
        stack: list[Symbols] = []
        saved: list[Symbols] = []
        work = 0
        given = {symbol for each in goal.hypotheses for symbol in each.symbols} | set(goal.symbols)
        for number, step in enumerate(steps, 1):
            if isinstance(step, int):
                if step == -1:
                    saved.append(stack[-1])
                else:
                    stack.append(saved[step])
                continue
            if isinstance(step, Hypothesis):
                stack.append(step.symbols)
                continue
            count = len(step.hypotheses)
            if len(stack) < count:
                raise Refused(f"step {number}: {step.label} needs {count} formulas, and {len(stack)} are there")
            taken = stack[len(stack) - count :]
            del stack[len(stack) - count :]
            with_ = self._unify(number, step, taken)
            self._keep_apart(number, step, with_, goal, given)
            stack.append(_put(step.symbols, with_))
            work += len(stack[-1])
            if len(stack[-1]) > MOST_SYMBOLS or work > MOST_WORK:
                raise Refused(f"step {number}: {step.label} makes formulas longer than are read here")
        if len(stack) != 1:
            raise Refused(f"{len(stack)} formulas are left at the end, where one should be")
        if stack[0] != goal.symbols:
            raise Refused(f"it proves {_shown(stack[0])}, not {_shown(goal.symbols)}")

    def _unify(self, number: int, step: Assertion, taken: list[Symbols]) -> dict[str, Symbols]:
        with_: dict[str, Symbols] = {}
        for hypothesis, formula in zip(step.hypotheses, taken, strict=True):
            if hypothesis.floating:
                if formula[0] != hypothesis.symbols[0]:
                    wanted = hypothesis.symbols[0]
                    raise Refused(f"step {number}: {step.label} needs a {wanted}, and is given {_shown(formula)}")
                with_[hypothesis.symbols[1]] = formula[1:]
            elif (wanted_ := _put(hypothesis.symbols, with_)) != formula:
                raise Refused(f"step {number}: {step.label} needs {_shown(wanted_)}, and is given {_shown(formula)}")
        return with_

    def _keep_apart(
        self, number: int, step: Assertion, with_: dict[str, Symbols], goal: Assertion, given: set[str]
    ) -> None:
        for a, b in step.apart:
            for x in {symbol for symbol in with_[a] if symbol not in self.constants}:
                for y in {symbol for symbol in with_[b] if symbol not in self.constants}:
                    # A variable of the proof alone may be thought apart from all: the statement says nothing of it.
                    if x == y or (x in given and y in given and _pair(x, y) not in goal.apart):
                        raise Refused(f"step {number}: {step.label} needs {x} and {y} apart ($d {x} {y} $.)")


def _put(symbols: Symbols, with_: dict[str, Symbols]) -> Symbols:
    made: list[str] = []
    for symbol in symbols:
        made += with_.get(symbol, (symbol,))
    return tuple(made)


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)


def _shown(symbols: Symbols) -> str:
    text = " ".join(symbols)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _tokens(text: str) -> Iterator[str]:
    inside = False
    for token in text.split():
        if token == "$(":
            if inside:
                raise ValueError("a comment $( stands in another")
            inside = True
        elif token == "$)":
            if not inside:
                raise ValueError("a comment is closed that was never opened")
            inside = False
        elif not inside:
            yield token
    if inside:
        raise ValueError("a comment $( is never closed")


def _until(tokens: Iterator[str], end: str, label: str) -> list[str]:
    body: list[str] = []
    for token in tokens:
        if token == end:
            return body
        if token.startswith("$") and token != "$=":
            raise ValueError(f"{label or 'a statement'} is not closed before {token}")
        body.append(token)
    raise ValueError(f"{label or 'a statement'} is never closed by {end}")
