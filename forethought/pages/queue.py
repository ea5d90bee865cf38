"""Thoughts in the order in which a person should label them, and how far people agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from forethought.pages.edit import EDITED
from forethought.store import Store
from forethought.store.labels import PEOPLE, PERSON, Told, finished, moves, thought_key
from forethought.store.schema import to_row
from forethought.types import Trace

MOST = 2000
"""Thoughts of one run that are put in order; those that were written first."""
RUNS, TRACES = 8, 64
"""Runs whose thoughts are kept in memory, and thoughts with all that they have."""

Order = Literal["new", "second"]
"""`new`: those that nobody has labelled first; `second`: those that somebody else has, for agreement."""


@dataclass(frozen=True, slots=True)
class Known:
    """A thought that may be labelled."""

    id: str
    """Of the first trace that has it."""
    key: str
    problem: str
    policy: str
    places: tuple[int, ...]
    """Of its labels."""
    uncertainty: float | None
    """0 (sure) to 1 (a coin's toss): of the verifier that is least sure of it; `None` where none has judged it."""
    trace: Trace
    """Without its tokens."""


def uncertainty(trace: Trace) -> float | None:
    """How unsure the verifier is that is least sure of this thought: 1 - |2 score - 1|, of the step it doubts most
    where it has scored steps. Grades and people are no verifiers."""
    found: list[float] = []
    for judge, said in trace.verdicts.items():
        if judge in ("grade", "true", PEOPLE, EDITED) or judge.startswith(PERSON):
            continue
        along = [score for score in said.steps if score is not None]
        scores = along or ([] if said.score is None else [said.score])
        found += [1 - abs(2 * score - 1) for score in scores if 0 <= score <= 1]
    return max(found, default=None)


def queue(known: Sequence[Known], told: dict[str, Any], labeller: str, order: Order) -> list[dict[str, Any]]:
    """The thoughts in the order in which `labeller` should take them: what was begun and not ended, then what has not
    been labelled to its end by anybody (or, for `second`, what others have), doubtful ones first."""
    rows = []
    for at, one in enumerate(known):
        by: Told = told.get(one.key, {})
        ended = {who for who, own in by.items() if finished(one.trace, own)}
        mine, others = labeller in ended, len(ended - {labeller})
        begun = bool(by.get(labeller)) and not mine
        doubt = -1.0 if one.uncertainty is None else one.uncertainty
        rank = (mine, not begun, -others if order == "second" else others, -doubt, at)
        row = {
            "id": one.id, "problem": one.problem, "policy": one.policy, "moves": len(one.places), "done": mine,
            "labelled": sum(place in by.get(labeller, {}) for place in one.places), "others": others,
            "uncertainty": one.uncertainty,
        }  # fmt: skip
        rows.append((rank, row))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def places(trace: Trace) -> list[int]:
    """Where its labels go: the ends of the moves that are asked for."""
    return [move.end for move in moves(trace) if move.asked]


class Shelf:
    """The thoughts of the runs that were labelled last, read once and again when a run has grown."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str], tuple[int, list[Known]]] = {}
        self._traces: dict[tuple[Path, str], Trace] = {}
        self._ids: dict[str, str] = {}

    def known(self, store: Store, run: str) -> list[Known]:
        """The run's thoughts, each text once. Raises ValueError where there is no such run."""
        sizes = {one.name: one.traces for one in store.summary().runs}
        if run not in sizes:
            raise ValueError(f"{store.path} has no run {run[:200]!r}")
        size, found = self._known.get((store.path, run), (0, []))
        if size != sizes[run]:
            once: dict[str, Known] = {}
            both = zip(store.entries(run=run, limit=MOST), store.traces(run=run, limit=MOST), strict=False)
            for entry, trace in both:
                key, asked = thought_key(trace.messages, trace.text), tuple(places(trace))
                if asked and key not in once:
                    light = replace(trace, steps=tuple(replace(s, tokens=(), logprobs=()) for s in trace.steps))
                    doubt = uncertainty(trace)
                    once[key] = Known(entry.id, key, trace.problem_id, trace.policy, asked, doubt, light)
            found = list(once.values())
            self._known.pop((store.path, run), None)
            self._known[store.path, run] = sizes[run], found
            for oldest in list(self._known)[:-RUNS]:
                self._known.pop(oldest, None)
        return found

    def trace(self, store: Store, id_: str) -> Trace:
        """One thought, with what people had said of it when it was first read.

        Raises ValueError where there is none, or several begin so.
        """
        trace = self._traces.pop((store.path, id_), None)
        if trace is None:
            trace = store.show(id_)
            self._ids[thought_key(trace.messages, trace.text)] = to_row(trace).id
        self._traces[store.path, id_] = trace
        for oldest in list(self._traces)[:-TRACES]:
            self._traces.pop(oldest, None)  # another thread may have
        return trace

    def id(self, key: str) -> str | None:
        """Of the thought that was looked at, or stands in the queue, under this key."""
        waiting = (one.id for _, known in list(self._known.values()) for one in known if one.key == key)
        return self._ids.get(key) or next(waiting, None)
