"""Traces as columns and back, exactly: the schema of every shard."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import pyarrow as pa

from forethought.types import Message, Step, Trace, Verdict

VERSION = 1
"""Of the schema. A reader takes this and older ones, and refuses newer."""

# In the order of `Step`'s fields, which `_steps` relies on.
STEP = pa.struct(
    [
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        # float64: `Step.logprobs` are Python floats, and a trace reads back equal to the one that was written.
        ("logprobs", pa.list_(pa.float64())),
        ("stop", pa.string()),
        ("action", pa.string()),
        ("sampled", pa.bool_()),
        ("value", pa.float64()),
    ]
)
VERDICT = pa.struct(
    [
        ("judge", pa.string()),
        ("score", pa.float64()),
        ("steps", pa.list_(pa.float64())),
        ("answer", pa.string()),
        ("note", pa.string()),
        ("parts", pa.string()),  # JSON: its keys differ from row to row
        ("cost", pa.int64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("run", pa.string()),
        ("problem_id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("steps", pa.list_(STEP)),
        ("policy", pa.string()),
        ("tree", pa.string()),
        ("nodes", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float64())),
        ("verdicts", pa.list_(VERDICT)),
        # For filters and for readers other than us; all follow from the columns above.
        ("reward", pa.float64()),
        ("stop", pa.string()),
        ("tokens", pa.int64()),
        ("text", pa.string()),
    ],
    metadata={"forethought.schema": str(VERSION)},
)


def sampled_tokens(trace: Trace) -> int:
    """Tokens the policy drew for this trace, as far as its engine told."""
    return sum(len(step.tokens) or len(step.logprobs) for step in trace.steps if step.sampled)


@dataclass(frozen=True, slots=True)
class Row:
    """A trace on its way into a shard."""

    id: str
    """32 hex digits of what was sampled, where and by whom: problem, messages, policy, tree and nodes, steps.

    Two samples of one search stay two, be they alike to the letter: votes and pass@k count them. What a judge said is
    left out, so a trace that was graded again is still the same trace.
    """
    trace: Trace
    tokens: bytes
    """All steps' token ids, int32."""
    logprobs: bytes
    """All steps' log-probabilities, float64."""


def to_row(trace: Trace) -> Row:
    """The trace with its id, and its numbers packed once for both the id and the shard.

    Raises:
        ValueError: the trace holds what a shard cannot: a lone surrogate, a token id beyond 31 bits, a message with
            more than role and content.
    """
    try:
        parts = [trace.problem_id, trace.policy, repr(trace.tree), repr(trace.nodes)]
        for message in trace.messages:
            if message.keys() != {"role", "content"}:
                raise ValueError(f"a message has the keys {sorted(message)}; the store keeps role and content")
            parts += ("message", message["role"], message["content"])
        tokens, logprobs = array("i"), array("d")
        for step in trace.steps:
            parts += ("step", step.text, step.stop, step.action, repr((step.sampled, step.value)))
            parts += (str(len(step.tokens)), str(len(step.logprobs)))
            # An array made from a tuple and appended is five times faster than one extended by the tuple.
            tokens.extend(array("i", step.tokens))
            logprobs.extend(array("d", step.logprobs))
        encoded = [part.encode() for part in parts]
        # Number and lengths of the parts go before them, so that no two lists of parts run into the same bytes.
        lengths = array("q", [len(encoded), *map(len, encoded)]).tobytes()
    except (ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"a trace of problem {trace.problem_id} cannot be stored: {error}") from error
    packed = tokens.tobytes(), logprobs.tobytes()
    hashed = hashlib.blake2b(b"".join((lengths, *encoded, *packed)), digest_size=16)
    return Row(hashed.hexdigest(), trace, *packed)


def to_table(rows: Sequence[Row], run: str) -> pa.Table:
    """Traces of one run as a table of `SCHEMA`."""
    traces = [row.trace for row in rows]
    steps = [step for trace in traces for step in trace.steps]
    step_columns = [
        pa.array([step.text for step in steps], pa.string()),
        _lists((len(step.tokens) for step in steps), b"".join(row.tokens for row in rows), pa.int32()),
        _lists((len(step.logprobs) for step in steps), b"".join(row.logprobs for row in rows), pa.float64()),
        pa.array([step.stop for step in steps], pa.string()),
        pa.array([step.action for step in steps], pa.string()),
        pa.array([step.sampled for step in steps], pa.bool_()),
        pa.array([step.value for step in steps], pa.float64()),
    ]
    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "run": pa.array([run] * len(rows), pa.string()),
        "problem_id": pa.array([trace.problem_id for trace in traces], pa.string()),
        "messages": pa.array([trace.messages for trace in traces], SCHEMA.field("messages").type),
        "steps": pa.ListArray.from_arrays(
            _offsets(len(trace.steps) for trace in traces), pa.StructArray.from_arrays(step_columns, fields=list(STEP))
        ),
        "policy": pa.array([trace.policy for trace in traces], pa.string()),
        "tree": pa.array([trace.tree for trace in traces], pa.string()),
        "nodes": pa.array([trace.nodes for trace in traces], pa.list_(pa.int32())),
        "values": pa.array([trace.values for trace in traces], pa.list_(pa.float64())),
        "verdicts": verdict_column(traces),
        "reward": pa.array([trace.reward for trace in traces], pa.float64()),
        "stop": pa.array([trace.stop for trace in traces], pa.string()),
        "tokens": pa.array([sampled_tokens(trace) for trace in traces], pa.int64()),
        "text": pa.array([trace.text for trace in traces], pa.string()),
    }
    return pa.table(columns, schema=SCHEMA)


def verdict_column(traces: Sequence[Trace]) -> pa.ListArray:
    """What judges said of each trace."""
    rows = [
        {
            "judge": judge,
            "score": verdict.score,
            "steps": verdict.steps,
            "answer": verdict.answer,
            "note": verdict.note,
            "parts": json.dumps(dict(verdict.parts)),
            "cost": verdict.cost,
        }
        for trace in traces
        for judge, verdict in trace.verdicts.items()
    ]
    return pa.ListArray.from_arrays(_offsets(len(trace.verdicts) for trace in traces), pa.array(rows, VERDICT))


def _offsets(lengths: Iterable[int]) -> pa.Array:
    ends = array("i", accumulate(lengths, initial=0))
    return pa.Array.from_buffers(pa.int32(), len(ends), [None, pa.py_buffer(ends)])


def _lists(lengths: Iterable[int], numbers: bytes, kind: Any) -> pa.ListArray:
    values = pa.Array.from_buffers(kind, 8 * len(numbers) // kind.bit_width, [None, pa.py_buffer(numbers)])
    return pa.ListArray.from_arrays(_offsets(lengths), values)


def to_traces(batch: pa.RecordBatch) -> list[Trace]:
    """The rows of a batch of `SCHEMA` as the traces that were written."""
    steps = _steps(batch.column("steps"))
    plain = batch.select(["problem_id", "messages", "policy", "tree", "nodes", "values", "verdicts"]).to_pylist()
    return [
        Trace(
            problem_id=row["problem_id"],
            messages=tuple(Message(role=message["role"], content=message["content"]) for message in row["messages"]),
            steps=own,
            policy=row["policy"],
            tree=row["tree"],
            nodes=tuple(row["nodes"]),
            values=tuple(row["values"]),
            verdicts={verdict["judge"]: _verdict(verdict) for verdict in row["verdicts"]},
        )
        for row, own in zip(plain, steps, strict=True)
    ]


def _verdict(row: dict[str, Any]) -> Verdict:
    return Verdict(
        row["score"], tuple(row["steps"]), row["answer"], row["note"], json.loads(row["parts"]), int(row["cost"])
    )


def _steps(column: pa.ListArray) -> list[tuple[Step, ...]]:
    flat = column.flatten()
    fields = {field.name: flat.field(field.name) for field in STEP}
    numbers = {name: _tuples(fields.pop(name)) for name in ("tokens", "logprobs")}
    columns = numbers | {name: field.to_pylist() for name, field in fields.items()}
    steps = [Step(*row) for row in zip(*(columns[field.name] for field in STEP), strict=True)]
    return [tuple(steps[start:end]) for start, end in _bounds(column)]


def _tuples(column: pa.ListArray) -> list[tuple[Any, ...]]:
    flat = column.flatten().to_numpy().tolist()
    return [tuple(flat[start:end]) for start, end in _bounds(column)]


def _bounds(column: pa.ListArray) -> list[tuple[int, int]]:
    """Each row's (start, end) in `column.flatten()`."""
    offsets = column.offsets.to_numpy()
    ends = (offsets - offsets[0]).tolist()
    return list(pairwise(ends))
