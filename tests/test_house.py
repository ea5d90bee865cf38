"""The house held against its plan: who may import whom, what the core may need, and what the pages promise."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "forethought"

FLOORS = (
    {"forethought"},  # the package itself: a docstring and a version
    {"types"},
    {"thought"},
    {"problems", "engines"},
    {"verify"},
    {"search"},
    {"rollout", "store"},
    {"train", "scaling", "serve"},
    {"cluster", "pages"},
    {"recipes"},
    {"labs"},
    {"cli"},
)
"""Bottom up. A room imports only from floors below its own."""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
APART = {("search", "problems"), ("train", "search"), ("train", "serve")}
"""(room, other): never, whatever the floors say. A search cannot see an answer, a learner cannot see a search."""

HEAVY = {"torch", "transformers", "tokenizers", "peft", "safetensors", "gguf", "accelerate"}
HEAVY_ROOMS = ("engines/local/", "train/", "verify/")
"""Where weights are: nowhere else may these libraries be imported, not even inside a function."""
SERVING = {"fastapi", "uvicorn", "starlette", "prometheus_client", "cryptography", "llguidance", "openai"}
EXTRAS = HEAVY | SERVING | {"datasets", "trl", "trackio", "tensorboard", "wandb", "pandas"}
"""What `pip install forethought` alone does not bring."""
CORE = ("types", "thought", "problems", "search", "rollout", "store", "scaling", "cli")
"""Rooms that work on that bare install; of engines all but `local`, of verify only `vote`. `serve` needs its extra."""

BOUNDARIES = {
    "rollout.py",
    "problems/gym_worker.py",
    "problems/worker.py",
    "problems/sandbox/inside.py",
    "problems/sandbox/calls.py",
}
"""Files that may catch everything: the engine call, and code or answers a model wrote."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def place(path: Path) -> str:
    """The file's path inside the package, as `search/budget.py`."""
    return path.relative_to(PACKAGE).as_posix()


def room_of(place: str) -> str:
    top = place.split("/")[0].removesuffix(".py")
    return "forethought" if top in ("__init__", "__main__") else top


def rooms() -> set[str]:
    return {room_of(place(path)) for path in modules()} - {"forethought"}


def imports(source: str, place: str) -> Iterator[str]:
    """Dotted names of everything a module imports, at its top or inside a function; `from a import b` is `a.b`."""
    package = ["forethought", *place.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def breaches(source: str, place: str) -> list[str]:
    """Every import of a module that the plan forbids, in words."""
    room, found = room_of(place), []
    for name in imports(source, place):
        top, *rest = name.split(".")
        if top in HEAVY and not place.startswith(HEAVY_ROOMS):
            found.append(f"{place} imports {top}, which only {', '.join(HEAVY_ROOMS)} may")
        if name.endswith("*"):
            found.append(f"{place} imports {name}")
        if top == "abc":
            found.append(f"{place} imports {name}: variants are functions")
        if top != "forethought":
            continue
        other = rest[0] if rest and rest[0] in FLOOR else "forethought"
        if other != room and (FLOOR[other] >= FLOOR[room] or (room, other) in APART):
            found.append(f"{place} imports {name}: {room} may not see {other}")
    return found


@pytest.mark.parametrize(
    ("place", "source", "named"),
    [
        ("search/mcts.py", "from forethought.problems import addition", "search may not see problems"),
        ("search/mcts.py", "from forethought import problems", "search may not see problems"),
        ("search/mcts.py", "def f():\n    from ..problems.grade import grade", "search may not see problems"),
        ("search/mcts.py", "import forethought.rollout", "search may not see rollout"),
        ("train/losses.py", "from forethought.search.tree import grow", "train may not see search"),
        ("train/data.py", "from forethought.scaling import fit", "train may not see scaling"),
        ("rollout.py", "from forethought.store import Store", "rollout may not see store"),
        ("engines/http.py", "from forethought.problems import load", "engines may not see problems"),
        ("types.py", "from forethought.thought import marks", "types may not see thought"),
        ("__init__.py", "from forethought.types import Step", "forethought may not see types"),
        ("recipes/grpo.py", "def main():\n    import torch.nn", "imports torch"),
        ("engines/http.py", "from transformers import AutoTokenizer", "imports transformers"),
        ("search/beam.py", "from forethought.types import *", "imports forethought.types.*"),
        ("search/beam.py", "from abc import ABC", "imports abc.ABC"),
    ],
)
def test_a_breach_is_seen_and_named(place: str, source: str, named: str) -> None:
    assert [line for line in breaches(source, place) if named in line]


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("search/mcts.py", "from forethought.search.tree import grow\nfrom forethought.types import Engine"),
        ("search/mcts.py", "from .tree import grow\nfrom ..verify.vote import majority"),
        ("engines/local/decode.py", "import torch\nfrom forethought.thought import tokens"),
        ("cli.py", "from forethought import __version__, recipes\nimport collections.abc"),
    ],
)
def test_what_the_plan_allows_is_no_breach(place: str, source: str) -> None:
    assert breaches(source, place) == []


def test_every_room_has_its_floor() -> None:
    assert rooms() <= set(FLOOR), f"give {rooms() - set(FLOOR)} a floor in FLOORS, and a line in the README's tree"


@pytest.mark.parametrize("path", modules(), ids=place)
def test_imports_keep_to_the_floors(path: Path) -> None:
    assert breaches(path.read_text(), place(path)) == []


def catch_alls(source: str) -> list[int]:
    """Lines of handlers that catch everything and do not raise it again."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or {"Exception", "BaseException"} & set(re.findall(r"\w+", ast.unparse(node.type))))
        and not any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
    ]


def test_catch_alls_are_seen() -> None:
    source = "try:\n    f()\nexcept {}:\n    {}"
    for caught in ("Exception", "BaseException", "(ValueError, Exception) as error"):
        assert catch_alls(source.format(caught, "pass")) == [3]
        assert catch_alls(source.format(caught, "g(); raise")) == []
    assert catch_alls("try:\n    f()\nexcept:\n    pass") == [3]
    assert catch_alls(source.format("ValueError", "pass")) == []


def test_only_the_boundaries_catch_everything() -> None:
    caught = {place(path) for path in modules() if catch_alls(path.read_text())}
    assert caught <= BOUNDARIES, f"a bug must propagate: {caught - BOUNDARIES} catches every exception"
    assert {path for path in BOUNDARIES if (PACKAGE / path).exists()} <= caught, "BOUNDARIES lists a file that has none"


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc", "manager", "registry"}
    assert not [place(path) for path in modules() if drawers & set(re.split(r"[/_.]", place(path)))]


def undocumented(source: str) -> list[str]:
    """Public names of a module, itself first, that have no docstring; methods and nested functions aside."""
    tree = ast.parse(source)
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    return ["module"] * (ast.get_docstring(tree) is None) + [n.name for n in public if ast.get_docstring(n) is None]


@pytest.mark.parametrize("path", modules(), ids=place)
def test_public_names_say_what_they_are(path: Path) -> None:
    assert undocumented(path.read_text()) == []


def test_core_needs_no_extra() -> None:
    """Every module of the bare install is imported in a fresh interpreter where no extra can be."""
    names = [
        "forethought." + place(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in modules()
        if room_of(place(path)) in CORE
        or (place(path).startswith("engines/") and not place(path).startswith("engines/local/"))
        or place(path) == "verify/vote.py"
    ]
    assert len(names) > len(CORE)
    blocked = f"import sys, importlib\nfor name in {sorted(EXTRAS)}:\n    sys.modules[name] = None\n"
    code = blocked + f"for name in {names}:\n    importlib.import_module(name)\n"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert run.returncode == 0, run.stderr


def tree_entries(page: str) -> set[str]:
    """Rooms named one level below `forethought/` in a page's drawn file tree."""
    lines = page[page.index("\nforethought/") + 1 :].split("\n```")[0].splitlines()[1:]
    indents = [len(line) - len(line.lstrip(" │├└─")) for line in lines]
    found = set()
    for line, indent in zip(lines, indents, strict=True):
        if not line.strip() or indent == 0:
            break
        if indent == indents[0]:
            found.add(line.lstrip(" │├└─").split()[0].removesuffix("/").removesuffix(".py"))
    return found


def test_file_trees_are_read_in_either_style() -> None:
    plain = "x\n```\nforethought/\n  types.py   nouns\n  search/    trees\n    beam.py  wide\ntests/  x\n```\n"
    drawn = "x\n```\nforethought/\n├── types.py   nouns\n├── search/    trees\n│   └── beam.py\n```\nlater\n"
    assert tree_entries(plain) == tree_entries(drawn) == {"types", "search"}


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="there is no README.md yet")
def test_readme_draws_the_rooms_that_are_there() -> None:
    assert tree_entries((ROOT / "README.md").read_text()) == rooms()


def test_every_room_has_its_page() -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert rooms() <= pages, f"write docs/<room>.md for {sorted(rooms() - pages)}"


def test_the_index_lists_every_page() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_suite_cannot_reach_the_network() -> None:
    with pytest.raises(pytest.fail.Exception, match="looks up"):
        socket.create_connection(("example.com", 80), timeout=1)
    with socket.socket() as out, pytest.raises(pytest.fail.Exception, match=r"192\.0\.2\.1"):
        out.connect(("192.0.2.1", 80))
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()
