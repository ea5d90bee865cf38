"""What the page *Label* is told and tells: thoughts to label, labels, corrected thoughts, agreement."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from forethought.pages.edit import CORRECTED, EDITED, gone_on
from forethought.pages.queue import Order, Shelf, places, queue
from forethought.pages.shell import operator
from forethought.pages.stores import Name, opened, stores, telling
from forethought.scaling.labellers import agreement
from forethought.serve.errors import wrong
from forethought.serve.house import caller_of, house_of
from forethought.serve.stream import CLOSED, while_wanted
from forethought.serve.watch import Watched
from forethought.store import Store
from forethought.store.labels import PEOPLE, PERSON, Told, finished, labeller_name, moves, thought_key
from forethought.store.schema import to_row
from forethought.types import Trace


class Said(BaseModel):
    """A label for one move."""

    store: str
    id: str
    labeller: str = ""
    place: int
    label: Literal[-1, 0, 1]


class Back(BaseModel):
    """Take back the last label."""

    store: str
    labeller: str = ""


class Edit(BaseModel):
    """A move in other words, and who is to go on from it."""

    store: str
    id: str
    labeller: str = ""
    place: int
    text: str = Field(min_length=1, max_length=20_000)
    model: str


def _who(request: Request, given: str) -> str:
    """The caller's key has a name that cannot be borrowed; where there are no keys, people say who they are."""
    try:
        return labeller_name(caller_of(request).name if house_of(request).config.keys else given)
    except ValueError as error:
        raise wrong("labeller", f"{error}.") from None


def data() -> APIRouter:
    """The page's data."""
    router = APIRouter(prefix="/pages/label", dependencies=[Depends(operator)], include_in_schema=False)
    shelf = Shelf()

    @router.get("")
    def start(request: Request) -> dict[str, Any]:
        """Stores with their runs, the models that can go on, and who the labeller is, where the key says so."""
        house = house_of(request)
        with telling():
            names = stores(request) if house.config.runs else {}
            found = {name: opened(request, name).summary().runs for name in names}
        return {
            "stores": [
                {"name": name, "runs": [{"name": run.name, "traces": run.traces} for run in runs]}
                for name, runs in found.items()
            ],
            "models": list(house.models.served),
            "labeller": caller_of(request).name if house.config.keys else None,
        }

    @router.get("/queue")
    def next_ones(
        request: Request,
        store: Name,
        run: Name,
        labeller: str = "",
        order: Order = "new",
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> dict[str, Any]:
        """The run's thoughts in the order they should be taken."""
        who = _who(request, labeller)
        with telling():
            there = opened(request, store)
            rows = queue(shelf.known(there, run), there.labels.standing(), who, order)
        return {"thoughts": rows[:limit], "of": len(rows), "done": sum(row["done"] for row in rows)}

    @router.get("/thought")
    def thought(request: Request, store: Name, id: Name, labeller: str = "") -> dict[str, Any]:
        """One thought and the labeller's own labels. What others and verifiers said is told once these are whole, so
        that nobody is led by it."""
        who = _who(request, labeller)
        with telling():
            there = opened(request, store)
            return _told(there, shelf.trace(there, id), who)

    @router.post("/label")
    def label(request: Request, body: Said) -> dict[str, Any]:
        """Keep a label; on disk when this answers."""
        who = _who(request, body.labeller)
        with telling():
            there = opened(request, body.store)
            trace = shelf.trace(there, body.id)
            said = there.labels.put(trace, who, body.place, body.label)
            key = thought_key(trace.messages, trace.text)
            done = finished(trace, there.labels.standing(key).get(key, {}).get(who, {}))
        return {"time": said, "labeller": who, "done": done}

    @router.post("/undo")
    def undo(request: Request, body: Back) -> dict[str, Any]:
        """Take back the labeller's last label; where it was."""
        who = _who(request, body.labeller)
        with telling():
            found = opened(request, body.store).labels.undo(who)
        return {"id": shelf.id(found[0]), "place": found[1]} if found else {"id": None, "place": None}

    @router.post("/go_on", response_model=None)
    async def go_on(request: Request, body: Edit) -> Response | dict[str, Any]:
        """A move in the labeller's words, gone on with by the model; kept as a thought of its own that names the one it
        was made of. The labels that the labeller gave before the move hold for it too."""
        house, who = house_of(request), _who(request, body.labeller)

        def look() -> tuple[Store, Trace]:
            with telling():
                there = opened(request, body.store)
                return there, shelf.trace(there, body.id)

        store, trace = await asyncio.to_thread(look)
        id_ = to_row(trace).id
        model, _ = house.models.find(body.model)
        ticket = house.gate.ticket()

        watched = Watched(model.engine)

        async def draw() -> Trace:
            async with ticket:
                return await gone_on(trace, body.place, body.text, model, watched, who, id_)

        try:
            made = await while_wanted(request, draw())
        finally:
            ticket.leave()
            house.metrics.count(model.config.name, "corrected", watched.sampled)
        if made is None:
            return CLOSED

        def keep() -> dict[str, Any]:
            with telling():
                with store.writer(CORRECTED) as writer:
                    writer.append(made)
                key = thought_key(trace.messages, trace.text)
                own = store.labels.standing(key).get(key, {}).get(who, {})
                for place in sorted(set(places(made)) & {place for place in own if place < body.place}):
                    store.labels.put(made, who, place, own[place].label)
            return {"id": to_row(made).id, "parent": id_, "run": CORRECTED}

        return await asyncio.to_thread(keep)

    @router.get("/agreement")
    def agree(request: Request, store: Name) -> dict[str, Any]:
        """Who has labelled how much, and how far they agree."""
        with telling():
            return agreement(opened(request, store).labels.standing())

    return router


def _told(store: Store, trace: Trace, who: str) -> dict[str, Any]:
    key = thought_key(trace.messages, trace.text)
    told: Told = store.labels.standing(key).get(key, {})
    own = told.get(who, {})
    done = finished(trace, own)
    others = {
        name: {place: label.label for place, label in by.items()} for name, by in told.items() if done and name != who
    }
    scores = {
        judge: said.score
        for judge, said in trace.verdicts.items()
        if done and judge not in (PEOPLE, EDITED) and not judge.startswith(PERSON)
    }
    edited = trace.verdicts.get(EDITED)
    return {
        "id": to_row(trace).id,
        "problem": trace.problem_id,
        "policy": trace.policy,
        "messages": trace.messages,
        "moves": [{**asdict(move), "label": own[move.end].label if move.end in own else None} for move in moves(trace)],
        "done": done,
        "others": others,
        "scores": scores,
        "edited": edited.note if edited else None,
    }
