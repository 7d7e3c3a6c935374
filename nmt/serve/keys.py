"""API keys: read from a file, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from nmt.errors import DataError, reason, require_file


class Keys:
    """The keys that clients may use; without any, every client is allowed."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    @staticmethod
    def read(path: str) -> Keys:
        """Reads a file with a key a line; blank lines and those that begin with # are left out. Raises `DataError`."""
        try:
            require_file(path)
            lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        except OSError as error:
            raise DataError(f"{path}: {reason(error)}") from error
        except UnicodeDecodeError:
            raise DataError(f"{path}: is not text in UTF-8; write a key a line") from None
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise DataError(f"{path}: has no key; write a key a line, or leave out --api-keys")
        return Keys(keys)

    def allow(self, key: str | None) -> bool:
        """Whether a client with this key is answered. The time that it takes does not depend on the key."""
        if not self._digests:
            return True
        digest = _digest(key or "")
        equal = [hmac.compare_digest(digest, each) for each in self._digests]
        return any(equal)


def _digest(key: str) -> bytes:
    # Of equal length, and of bytes: compare_digest refuses other characters than ASCII.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
