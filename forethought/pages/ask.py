"""What the page *Ask* is told before anything is asked; the answer itself comes from `/v1/responses`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request

from forethought.pages.shell import same_origin
from forethought.search.size import NAMES
from forethought.serve.config import AUTO
from forethought.serve.house import house_of
from forethought.serve.models import Served


def data(examples: tuple[str, ...]) -> APIRouter:
    """Its data: the models with what each can be asked, and some questions."""
    router = APIRouter(prefix="/pages", dependencies=[Depends(same_origin)], include_in_schema=False)

    @router.get("/ask")
    async def ask(request: Request) -> dict[str, Any]:
        """Models by name, and examples."""
        return {"models": [_known(model) for model in house_of(request).models.served.values()], "examples": examples}

    return router


def _known(model: Served) -> dict[str, Any]:
    config = model.config
    return {
        "name": config.name,
        "searches": [name for name in NAMES if config.runs(name)],
        "search": config.search,
        "efforts": {**config.efforts, **({AUTO: None} if model.plan else {})},
        "effort": config.effort,
        "show_thoughts": config.show_thoughts,
        "summary": config.summary != "none",
    }
