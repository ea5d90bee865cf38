"""What every page stands in: its routes, its headers, and who may have its data.

A page is `NAME.html` here, which extends `shell.html`; its script is `NAME.js`, a module that may import
`/assets/shell.js`. Pages and assets hold no data and are open to all. Data comes as JSON from routes under `/pages/`,
each of which depends on `same_origin` or, where it tells hidden thoughts, on `operator`.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from forethought.scaling import tree_page
from forethought.serve.errors import ApiError
from forethought.serve.house import caller_of

PAGES = {"ask": "Ask", "traces": "Traces", "runs": "Runs", "label": "Label"}
"""Path and template of each page, and what the navigation calls it."""

HERE, TREE = Path(__file__).parent, Path(tree_page.__file__).parent
ASSETS = {
    path.name: path
    for folder, pattern in ((HERE, "*"), (TREE, "tree_*"))
    for path in sorted(folder.glob(pattern))
    if path.suffix in (".css", ".js", ".svg")
}
"""Styles, scripts and the icon by name: those here, and those of the tree's own page."""
OPEN_PATHS = frozenset({"/", *(f"/{name}" for name in PAGES), *(f"/assets/{name}" for name in ASSETS)})
"""What needs no key: a browser cannot send one with an address, and there is nothing to hide in them."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
"""Of every page and asset. Scripts and styles come from this server's files alone, and no text is ever made markup."""


def shell() -> APIRouter:
    """The pages themselves, `/` among them, and their assets."""
    router = APIRouter(include_in_schema=False)
    loader = ChoiceLoader([PackageLoader("forethought.pages", ""), PackageLoader("forethought.scaling", "")])
    templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    for name, title in PAGES.items():
        text = templates.get_template(f"{name}.html").render(pages=PAGES, here=name, title=title)
        router.add_api_route(f"/{name}", _still(text, "text/html"))
    for name, path in ASSETS.items():
        kind = mimetypes.guess_type(name)[0] or "text/plain"
        router.add_api_route(f"/assets/{name}", _still(path.read_text(encoding="utf-8"), kind))

    @router.get("/")
    async def first() -> Response:
        """The first page."""
        return RedirectResponse(f"/{next(iter(PAGES))}", headers=HEADERS)

    return router


def _still(text: str, kind: str) -> Callable[[], Awaitable[Response]]:
    """A route's function that always answers with `text`."""

    async def route() -> Response:
        return Response(text, media_type=kind, headers=HEADERS)

    return route


async def same_origin(request: Request, response: Response) -> None:
    """Refuse what another site's page asks for, and let nobody keep the answer. Raises ApiError (403)."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    # A browser tells the site on https and to this machine; elsewhere an origin, where it matters.
    if site not in ("same-origin", "none") if site else origin and origin.partition("://")[2] != host:
        raise ApiError(403, "This is for the server's own pages.", code="cross_site")
    response.headers["cache-control"] = "no-store"


async def operator(request: Request, ours: Annotated[None, Depends(same_origin)]) -> None:
    """As `same_origin`, and the caller must be the operator: hidden thoughts are told. Raises ApiError (403)."""
    if not caller_of(request).operator:
        message = "This page is the operator's: in the file of keys, `operator` must stand behind this key."
        raise ApiError(403, message, code="not_operator")
