"""What a server is told: which models, how each thinks, and its limits; from a TOML file or made in code.

[server]
port = 8000
keys = "keys.txt"

[models.small]
model = "smollm2-135m"
search = "majority"
efforts = { none = 0, low = 256, medium = 1024, high = 4096 }
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from forethought.engines.http_body import Api
from forethought.problems.tools import open_tools
from forethought.search.size import GUIDED, PARALLEL, named

EFFORTS = {"none": 0, "low": 256, "medium": 1024, "high": 4096}
"""Words for a thought's budget, in tokens."""
AUTO = "auto"
"""The effort that goes by an allocation."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")

T = TypeVar("T")


@dataclass(frozen=True)
class ModelConfig:
    """A model as it is served."""

    name: str
    """What clients call it; `NAME:SEARCH` asks for another search."""
    model: str
    """What `forethought models` explains: a name, path, run, hub name or URL."""
    search: str = ""
    """By default one thought, as long as the effort allows."""
    verify: str = ""
    """Who judges thoughts."""
    verify_tokens: int = 0
    """The most that one verdict computes, kept free for it."""
    tools: str = ""
    """What a thought may call: python, calculator, or both with a comma."""
    allocation: str = ""
    """The file that effort `auto` goes by."""
    effort: str = "medium"
    """Where a request names none."""
    efforts: Mapping[str, int] = field(default_factory=lambda: dict(EFFORTS))
    thought_tokens: int = 256
    """Longest thought of a search among many; where a search goes by steps, the longest step."""
    answer_tokens: int = 512
    """Room for the answer where a request sets no limit, and the most that is kept free for it where one does."""
    seconds: float | None = None
    """Most seconds to think; the answer comes after."""
    show_thoughts: bool = False
    """May clients read the thoughts?"""
    summary: str = ""
    """The served model that summarises thoughts, by default the model itself; `none`: only neutral words."""
    instruct: Literal["auto", "yes", "no"] = "auto"
    """Ask for a thought between think marks; auto: unless a recipe of this house trained the model."""
    opens_thought: bool = False
    """Does the chat template itself end in `<think>`? Known of local models; of a server it must be said."""
    dtype: str = "auto"
    cache_gib: float | None = None
    """Most memory for keys and values; by default the engine's own (2, on a GPU more)."""
    api: str = ""
    """How an upstream server is asked: chat, completions or tokens."""
    key_env: str = ""
    """The environment variable with the upstream's key; by default that of `engines.open`."""

    def __post_init__(self) -> None:
        at = f"model {self.name!r}"
        if not self.name or ":" in self.name:
            raise ValueError(f"{at}: a name is not empty and has no colon, which stands before a search")
        if self.search:
            object.__setattr__(self, "search", named(self.search))
        wrong = {name: tokens for name, tokens in self.efforts.items() if type(tokens) is not int or tokens < 0}
        if wrong or AUTO in self.efforts:
            raise ValueError(f"{at}: efforts are {dict(self.efforts)}; each is a number of tokens, and auto is taken")
        if self.effort not in self.efforts and not (self.effort == AUTO and self.allocation):
            raise ValueError(f"{at}: effort is {self.effort!r}; it is one of {', '.join(self.efforts)}, or auto with "
                             "an allocation")  # fmt: skip
        if self.thought_tokens < 1 or self.answer_tokens < 1 or self.verify_tokens < 0:
            raise ValueError(f"{at}: thought_tokens and answer_tokens are at least 1, verify_tokens at least 0")
        if self.api and self.api not in get_args(Api):
            raise ValueError(f"{at}: api is {self.api!r}; it is one of {', '.join(get_args(Api))}")
        open_tools(self.tools)  # refuses what is not there
        if self.search and not self.runs(self.search):
            raise ValueError(f"{at}: {self.search} goes by a verifier's scores, and there is none: give verify")

    def runs(self, search: str) -> bool:
        """Can this model be searched so? Not by scores where nobody gives any."""
        rule = PARALLEL.get(search)
        return bool(self.verify) or not (search in GUIDED or (rule is not None and rule.judged))


@dataclass(frozen=True)
class ServerConfig:
    """Where a server stands and what it lets through."""

    host: str = "127.0.0.1"
    port: int = 8000
    keys: str = ""
    """The file of clients' keys, one a line: `name key [requests a minute] [operator]`; without it nobody is asked
    for one."""
    seal: str = ""
    """The file of keys for encrypted reasoning, one a line; the first seals, all unseal."""
    store: str = ""
    """The SQLite file of stored responses and background jobs; without it there are none."""
    runs: str = ""
    """The folder of runs (or a run, or a store) that the operator's pages show; without it they show none."""
    store_days: float = 30.0
    """How long a response is kept once it has ended; 0 is for ever."""
    store_mib: int = 1024
    """Most that the store takes; the oldest make way. 0 is no limit."""
    running: int = 8
    """Requests that are worked on together."""
    waiting: int = 64
    """Further requests that wait for their turn; any more are refused (429)."""
    body_bytes: int = 1 << 20
    requests_per_minute: int = 0
    """Of one key, or of one address where there are no keys; 0 is no limit."""
    heartbeat: float = 10.0
    """Seconds of silence in a stream after which a comment is sent."""

    def __post_init__(self) -> None:
        for name in ("running", "body_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1")
        for name in ("waiting", "requests_per_minute", "store_days", "store_mib"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is 0 or more")
        if not self.heartbeat > 0:
            raise ValueError(f"heartbeat is {self.heartbeat}; it is above 0")
        if self.host not in LOOPBACK and not self.keys:
            raise ValueError(f"host is {self.host}, which others can reach, and anybody could use the server: give a "
                             "file of keys")  # fmt: skip


def read(path: str | Path) -> tuple[ServerConfig, list[ModelConfig]]:
    """The server and the models that a TOML file describes; paths in it are relative to where the server is started.

    Raises ValueError where it cannot be read, or names what is not known.
    """
    try:
        with Path(path).open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    if strange := sorted(set(found) - {"server", "models"}):
        raise ValueError(f"{path} has a table {strange[0]!r}; there are server and models")
    server = _made(ServerConfig, found.get("server", {}), f"{path}, [server]")
    models = found.get("models", {})
    if not isinstance(models, dict):
        raise ValueError(f"{path}: models is {models!r}; give a table a model, [models.NAME]")
    return server, [
        _made(ModelConfig, {"model": name, **table, "name": name}, f"{path}, [models.{name}]")
        for name, table in models.items()
    ]


def _made(kind: type[T], table: Any, at: str) -> T:
    """A record of this kind from a table, its names and plain types held to the fields'."""
    if not isinstance(table, dict):
        raise ValueError(f"{at} is {table!r}; it must be a table")
    hints = get_type_hints(kind)
    for name, value in table.items():
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            raise ValueError(f"{at} has no {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")
        default = next(f.default for f in fields(kind) if f.name == name)  # type: ignore[arg-type]  # a dataclass, above
        wanted = float if hints[name] == float | None else str if default is MISSING else type(default)
        if name == "efforts":
            wanted = dict
        if not (isinstance(value, wanted) or (wanted is float and isinstance(value, int))) or (
            isinstance(value, bool) and wanted is not bool
        ):
            raise ValueError(f"{at}: {name} is {value!r}; it must be a {wanted.__name__}")
    try:
        return kind(**table)
    except TypeError as error:
        raise ValueError(f"{at}: {error}") from None
