"""`fetch --to DIR`: puts files where the user wants them, without a second copy when possible.

1. A name from the daemon is a `FilePath`, and every folder on the way is opened without following
   symbolic links: nothing lands outside DIR.
2. A file appears under its name by rename only: complete, or not at all.
3. In this order: it is there already; reflink (shares the blocks, not the fate); hard link (shares
   both: the store's files are read-only for this reason); else the daemon sends it.
4. What the daemon sends is checked by size and sha256 before it gets its name.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from p2pmodels.cli.answers import FinishedFile
from p2pmodels.core.digests import Sha256
from p2pmodels.core.names import FilePath
from p2pmodels.errors import DigestMismatch, DiskFull, NameRefused, ProtocolError, StoreFailed
from p2pmodels.workers import Lane

FICLONE = 0x40049409  # ioctl_ficlone(2): share the blocks of another file
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SOURCE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

Download = Callable[[Sha256], AsyncGenerator[bytes, None]]


class NotPlaced(StoreFailed):
    """The file cannot be put there."""

    code = "not_placed"
    advice = "Check that folder's owner and what is in it, or name another one with --to."


class How(StrEnum):
    """How a file came to its place."""

    PRESENT = "present"
    REFLINK = "reflink"
    LINK = "link"
    DOWNLOAD = "download"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to put: validated."""

    path: FilePath
    size: int
    sha256: Sha256
    local_path: Path | None


def parse_wanted(file: FinishedFile) -> Wanted:
    """The daemon's word about a file as types. Raises ProtocolError."""
    local = Path(file.local_path) if file.local_path else None
    try:
        return Wanted(FilePath(file.path), file.size, Sha256(file.sha256), local)
    except NameRefused as error:
        raise ProtocolError(f"the daemon named a file that cannot be: {error.detail}") from error


class Placer:
    """Puts files below one folder. States: closed, open (inside the block)."""

    def __init__(self, folder: Path, lane: Lane, download: Download) -> None:
        self._folder = folder
        self._lane = lane
        self._download = download

    async def place(self, wanted: Wanted) -> How:
        """Put one file. Raises StoreFailed, DiskFull, DigestMismatch."""
        how = await self._lane.run(self._without_copy, wanted)
        if how is not None:
            return how
        await self._fetch(wanted)
        return How.DOWNLOAD

    def _without_copy(self, wanted: Wanted) -> How | None:
        """Use the store's own file, or None when that cannot be done from here."""
        with _place(self._folder, wanted.path) as (folder, name):
            if wanted.local_path is None:
                return None
            try:
                source = os.open(wanted.local_path, _SOURCE)
            except OSError:
                return None  # another user's store, or one on another machine
            try:
                held = os.fstat(source)
                if not stat.S_ISREG(held.st_mode) or held.st_size != wanted.size:
                    return None
                if _is_same(folder, name, held):
                    return How.PRESENT
                if _reflink(source, folder, name):
                    return How.REFLINK
                return How.LINK if _link(wanted.local_path, held, folder, name) else None
            finally:
                os.close(source)

    async def _fetch(self, wanted: Wanted) -> None:
        """Receive the bytes into a temporary file beside the target, check, rename."""
        with (
            _place(self._folder, wanted.path) as (folder, name),
            _temporary(folder) as (
                temporary,
                file,
            ),
        ):
            hasher = hashlib.sha256()
            size = 0

            def take(data: bytes) -> None:
                hasher.update(data)
                _write_all(file, data)

            async with aclosing(self._download(wanted.sha256)) as body:
                async for data in body:
                    size += len(data)
                    if size > wanted.size:
                        break
                    await self._lane.run(take, data)
            if size != wanted.size or hasher.hexdigest() != wanted.sha256.value:
                raise DigestMismatch(
                    f"{wanted.path} as the daemon sent it",
                    advice="Run `p2pmodels check`, then try again.",
                )
            await self._lane.run(os.fsync, file)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


@contextmanager
def _place(root: Path, path: FilePath) -> Iterator[tuple[int, str]]:
    """The open folder in which `path` belongs, made when missing, and the name in it."""
    *folders, name = path.segments
    where = root
    opened = -1
    try:
        root.mkdir(parents=True, exist_ok=True)
        opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # the user's choice
        for segment in folders:
            where /= segment
            with suppress(FileExistsError):
                os.mkdir(segment, dir_fd=opened)
            inner = os.open(segment, _FOLDER, dir_fd=opened)
            os.close(opened)
            opened = inner
        yield opened, name
    except OSError as error:
        raise _failure(where / name if where == root else where, error) from error
    finally:
        if opened >= 0:
            os.close(opened)


def _failure(where: Path, error: OSError) -> StoreFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(str(where), advice="Free space there, or name another folder with --to.")
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        reason = "a file or symbolic link is in the way"
    else:
        reason = error.strerror or type(error).__name__
    return NotPlaced(f"{where}: {reason}")


@contextmanager
def _temporary(folder: int) -> Iterator[tuple[str, int]]:
    """A new file that is gone afterwards unless it was renamed."""
    name = f".p2pmodels-{secrets.token_hex(8)}"
    file = os.open(name, _NEW_FILE, 0o644, dir_fd=folder)
    try:
        yield name, file
    finally:
        os.close(file)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _is_same(folder: int, name: str, held: os.stat_result) -> bool:
    """Whether the name is the store's own file already; rename(2) does nothing on such a pair."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


def _reflink(source: int, folder: int, name: str) -> bool:
    """Share the blocks; only some file systems can (btrfs, XFS, bcachefs), within themselves."""
    with _temporary(folder) as (temporary, file):
        try:
            fcntl.ioctl(file, FICLONE, source)
        except OSError:
            return False
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    return True


def _link(local_path: Path, held: os.stat_result, folder: int, name: str) -> bool:
    """Give the store's file a second name; False across file systems or owners."""
    temporary = f".p2pmodels-{secrets.token_hex(8)}"
    try:
        os.link(local_path, temporary, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EROFS):
            raise
        return False
    try:
        if not _is_same(folder, temporary, held):
            return False  # the store replaced the file between the look and the link
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        return True
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
