"""Reasoning that a client carries and cannot read: AES-256-GCM under the operator's key."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from forethought.serve.errors import wrong
from forethought.serve.limits import lines

VERSION = b"forethought/1"
NONCE, MARK = 12, 4
"""Bytes: of the nonce, and of a key's mark, by which the right one is found."""


class Seal:
    """Seals with the first key and opens what any of them has sealed, so that keys can be changed.

    A sealed thought is bound to the caller and the model it was made for: nobody else can hand it in, and no other
    model goes on with it. Its length can be told from outside, nothing else.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != 32 for key in keys):
            raise ValueError("a key that seals is 32 bytes; give at least one")
        self._ciphers = {hashlib.sha256(key).digest()[:MARK]: AESGCM(key) for key in keys}
        self._first = hashlib.sha256(keys[0]).digest()[:MARK]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """From a file of keys, 32 bytes in base64 each, one a line, the one to seal with first."""
        try:
            return cls([base64.b64decode(line, validate=True) for line in lines(path)])
        except ValueError as error:
            make = "python -c 'import base64, os; print(base64.b64encode(os.urandom(32)).decode())'"
            raise ValueError(f"{path}: {error}; each line is 32 bytes in base64, as {make} makes them") from None

    def close(self, thought: str, *, caller: str, model: str) -> str:
        """The thought, sealed."""
        nonce = os.urandom(NONCE)
        sealed = self._ciphers[self._first].encrypt(nonce, thought.encode(), _bound(caller, model))
        return base64.urlsafe_b64encode(self._first + nonce + sealed).decode()

    def open(self, sealed: str, *, caller: str, model: str) -> str:
        """What `close` was given. Raises ApiError (400) where it was sealed by, or for, somebody else, or changed."""
        try:
            raw = base64.urlsafe_b64decode(sealed.encode())
            cipher = self._ciphers[raw[:MARK]]
            text = cipher.decrypt(raw[MARK : MARK + NONCE], raw[MARK + NONCE :], _bound(caller, model))
        except (ValueError, KeyError, InvalidTag):
            message = "The encrypted reasoning cannot be read: it was changed, or made elsewhere or for another model."
            raise wrong("input", message, "invalid_encrypted_content") from None
        return text.decode()


def _bound(caller: str, model: str) -> bytes:
    return json.dumps([VERSION.decode(), caller, model]).encode()
