"""What the page *Traces* is told: the stores below one folder, their traces by the page, one trace, one search's tree.

Thoughts are hidden text, so all of it is the operator's. Paths are never taken from a request: a store is named as
`/pages/stores` lists it.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from forethought.pages.shell import operator
from forethought.pages.stores import Name, opened, stores, telling
from forethought.scaling.tree_page import number, tree_data, tree_of, verdict_words
from forethought.serve.errors import wrong
from forethought.store import Where
from forethought.store.schema import sampled_tokens
from forethought.types import Stop, Trace

MOST_STORES, MOST_ROWS, MOST_NODES = 500, 200, 50_000
"""Stores listed, traces in a page of them, nodes of a tree that a browser is given."""

Maybe = Annotated[str | None, Query(max_length=1000)]


def data() -> APIRouter:
    """Its data."""
    router = APIRouter(prefix="/pages", dependencies=[Depends(operator)], include_in_schema=False)
    router.get("/stores")(list_stores)
    router.get("/store")(summary)
    router.get("/traces")(page)
    router.get("/trace")(trace)
    router.get("/tree")(tree)
    return router


def list_stores(request: Request) -> dict[str, Any]:
    """Names of the stores that are there, the newest first."""
    return {"stores": list(stores(request))[:MOST_STORES]}


def summary(request: Request, store: Name) -> dict[str, Any]:
    """What one store holds: its runs, what is damaged."""
    with telling():
        found = opened(request, store).summary()
    runs = [{**run._asdict(), "reward": number(run.reward)} for run in found.runs]
    return {"runs": runs, "shards": found.shards, "bytes": found.bytes, "damaged": found.damaged}


def page(
    request: Request,
    store: Name,
    run: Maybe = None,
    problem: Maybe = None,
    policy: Maybe = None,
    stop: Stop | None = None,
    min_reward: float | None = None,
    max_reward: float | None = None,
    after: Annotated[str | None, Query(pattern=r"^\d{1,18}-\d{1,18}$")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
) -> dict[str, Any]:
    """Up to `limit` traces that all conditions hold of, in the order of writing; `after` is that of the page before."""
    asked = {
        "run": run, "problem": problem, "policy": policy,
        "stop": stop, "min_reward": min_reward, "max_reward": max_reward,
    }  # fmt: skip
    where: Where = {name: value for name, value in asked.items() if value is not None}  # type: ignore[assignment]
    shard, row = map(int, after.split("-")) if after else (0, 0)
    with telling():
        entries = opened(request, store).entries(limit=limit + 1, after=(shard, row) if after else None, **where)
        found = list(entries)
    shown = found[:limit]
    more = f"{shown[-1].shard}-{shown[-1].row}" if len(found) > limit else None
    return {"traces": [{**entry._asdict(), "reward": number(entry.reward)} for entry in shown], "after": more}


def trace(request: Request, store: Name, id: Name) -> dict[str, Any]:
    """One trace, by its id or how that begins."""
    with telling():
        return _told(opened(request, store).show(id))


def tree(request: Request, store: Name, id: Name, run: Maybe = None) -> dict[str, Any]:
    """One search, by its name or by a trace of it, as `treeView` draws it."""
    with telling():
        kept = opened(request, store).tree(id, run=run)
        grown, verdicts = tree_of(kept)
        if len(grown.nodes) > MOST_NODES:
            message = f"{len(grown.nodes):,} nodes are too many for this page; `forethought store tree` draws them."
            raise wrong("id", message)
        return tree_data(grown, f"Search of {kept[0].problem_id}", verdicts)


def _told(trace: Trace) -> dict[str, Any]:
    """A trace in JSON's values; of tokens only how many."""
    along = trace.values if len(trace.values) == len(trace.steps) else (None,) * len(trace.steps)
    return {
        "problem": trace.problem_id,
        "policy": trace.policy,
        "tree": trace.tree,
        "stop": trace.stop,
        "tokens": sampled_tokens(trace),
        "reward": number(trace.reward),
        "messages": [[message["role"], message["content"]] for message in trace.messages],
        "steps": [
            {
                "text": step.text,
                "tokens": len(step.tokens) or len(step.logprobs) or None,
                "stop": step.stop,
                "action": step.action,
                "sampled": step.sampled,
                "value": number(value),
                "judged": [
                    [judge, number(said.steps[index])]
                    for judge, said in trace.verdicts.items()
                    if len(said.steps) == len(trace.steps)
                ],
            }
            for index, (step, value) in enumerate(zip(trace.steps, along, strict=True))
        ],
        "verdicts": [verdict_words(judge, said) for judge, said in trace.verdicts.items()],
    }
