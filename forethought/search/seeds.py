"""Seeds of a search's many samples, from the one that it was given."""

from __future__ import annotations

import hashlib


def derive(seed: int | None, *path: int | str) -> int | None:
    """A seed for the sample at `path`, the same in every process, run and order; `None` stays `None`.

    In [0, 2**53): every JSON reader and random generator takes it as it is.
    """
    if seed is None:
        return None
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 11
