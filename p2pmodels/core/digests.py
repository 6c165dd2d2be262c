"""Digests: how the origin names the content of a file.

LFS files are named by the sha256 of their bytes, small files by git's blob sha1. Blobs in the
store are always named by sha256; a git id only ever verifies.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from p2pmodels.errors import NameRefused

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_ID = re.compile(r"[0-9a-f]{40}")


class Hasher(Protocol):
    """The part of `hashlib`'s objects that we use."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, order=True)
class Sha256:
    """The name of a blob: 64 lower-case hexadecimal digits."""

    value: str

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.value):
            raise NameRefused(f"sha256 {self.value[:80]!r}")

    @property
    def key(self) -> str:
        """A file name for a partial of this content."""
        return self.value

    def hasher(self, size: int) -> Hasher:
        """A fresh hash object; `size` in bytes is not needed here."""
        return hashlib.sha256()

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class GitId:
    """git's name of a small file: sha1 over `blob {size}\\0` and the bytes (git-hash-object(1))."""

    value: str

    def __post_init__(self) -> None:
        if not _GIT_ID.fullmatch(self.value):
            raise NameRefused(f"git id {self.value[:60]!r}")

    @property
    def key(self) -> str:
        """A file name for a partial of this content."""
        return f"git-{self.value}"

    def hasher(self, size: int) -> Hasher:
        """A hash object that has already taken git's header for `size` bytes."""
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def __str__(self) -> str:
        return self.value


Digest = Sha256 | GitId


def digest_from_key(key: str) -> Digest:
    """The digest whose `key` this is."""
    return GitId(key.removeprefix("git-")) if key.startswith("git-") else Sha256(key)


def lfs_pointer(digest: Sha256, size: int) -> bytes:
    """The text that stands in git for an LFS file (git-lfs specification, version 1)."""
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n".encode()
    )


def git_id(data: bytes) -> GitId:
    """git's name for `data`."""
    hasher = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    hasher.update(data)
    return GitId(hasher.hexdigest())
