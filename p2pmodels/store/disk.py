"""The disk as an argument: every file operation of the store goes through one of these.

`RealDisk` is the machine's; tests hand in one that fails, fills up or loses what was not synced.
All calls block and run in a `Lane`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from p2pmodels.errors import DiskFull, StoreDamaged, StoreFailed

FILE_MODE = 0o600  # only the daemon's own user reads what is in the making
BLOB_MODE = 0o444  # nobody writes a blob: a hard link elsewhere must not change it
FOLDER_MODE = 0o700

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Buffer = bytes | bytearray | memoryview


class Disk(Protocol):
    """What the store asks of a file system; raises StoreFailed, DiskFull, StoreDamaged."""

    def open(self, path: Path, flags: int) -> int: ...
    def size(self, fd: int) -> int: ...
    def truncate(self, fd: int, size: int) -> None: ...
    def write(self, fd: int, data: Buffer, offset: int) -> None: ...
    def read(self, fd: int, length: int, offset: int) -> bytes: ...
    def sync(self, fd: int) -> None: ...
    def close(self, fd: int) -> None: ...
    def read_text(self, path: Path) -> str: ...
    def replace_text(self, path: Path, text: str) -> None: ...
    def link(self, source: Path, target: Path) -> None: ...
    def rename(self, source: Path, target: Path) -> None: ...
    def unlink(self, path: Path) -> None: ...
    def sync_folder(self, path: Path) -> None: ...
    def make_folder(self, path: Path) -> None: ...
    def free_bytes(self, path: Path) -> int: ...


@contextmanager
def _mapped(path: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # The name alone: these texts reach clients, and the folder is nobody's business there.
        name = path.name if isinstance(path, Path) else str(path)
        if error.errno in _FULL:
            raise DiskFull(name) from error
        if error.errno == errno.ELOOP:
            raise StoreDamaged(f"{name} is a symbolic link") from error
        raise StoreFailed(f"{name}: {error.strerror or type(error).__name__}") from error


class RealDisk:
    """The machine's file system. Links are never followed, odd files never opened."""

    def open(self, path: Path, flags: int) -> int:
        with _mapped(path):
            fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            os.close(fd)
            raise StoreDamaged(f"{path.name} is not a regular file of this user")
        return fd

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def truncate(self, fd: int, size: int) -> None:
        with _mapped("partial"):
            os.ftruncate(fd, size)

    def write(self, fd: int, data: Buffer, offset: int) -> None:
        view = memoryview(data)
        with _mapped("partial"):
            while view:
                done = os.pwrite(fd, view, offset)
                view, offset = view[done:], offset + done

    def read(self, fd: int, length: int, offset: int) -> bytes:
        with _mapped("file"):
            return os.pread(fd, length, offset)

    def sync(self, fd: int) -> None:
        with _mapped("file"):
            os.fdatasync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def read_text(self, path: Path) -> str:
        return path.read_text()

    def replace_text(self, path: Path, text: str) -> None:
        """Write, sync, rename: after a power cut the file is the old one or the new one."""
        fresh = path.with_name(path.name + ".new")
        with _mapped(path):
            fd = os.open(
                fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC,
                FILE_MODE,
            )  # fmt: skip
            try:
                with os.fdopen(fd, "w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                fresh.replace(path)
            except OSError:
                fresh.unlink(missing_ok=True)
                raise
            self.sync_folder(path.parent)

    def link(self, source: Path, target: Path) -> None:
        """Give the file a second name; where the file system cannot, move it.

        Another file that has the name already loses it: only `source` was verified.
        """
        with _mapped(target):
            try:
                os.link(source, target)
            except FileExistsError:
                if target.is_symlink() or not source.samefile(target):
                    fresh = target.with_name(target.name + ".new")
                    fresh.unlink(missing_ok=True)
                    os.link(source, fresh)
                    fresh.replace(target)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                source.replace(target)
            target.chmod(BLOB_MODE)

    def rename(self, source: Path, target: Path) -> None:
        with _mapped(target):
            source.replace(target)

    def unlink(self, path: Path) -> None:
        with _mapped(path):
            path.unlink(missing_ok=True)

    def sync_folder(self, path: Path) -> None:
        with _mapped(path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def make_folder(self, path: Path) -> None:
        with _mapped(path):
            path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)

    def free_bytes(self, path: Path) -> int:
        with _mapped(path):
            return shutil.disk_usage(path).free
