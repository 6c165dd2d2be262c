"""`pin`, `unpin`, `evict` and `torrent`: one request, one answer."""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from p2pmodels.cli import answers
from p2pmodels.cli.client import ControlClient
from p2pmodels.cli.connection import Connection
from p2pmodels.cli.targets import Target
from p2pmodels.cli.text import clean, human_bytes
from p2pmodels.errors import ProtocolError, StoreFailed

_DONE = {"pin": "pinned", "unpin": "unpinned", "evict": "evicted"}


class NotWritten(StoreFailed):
    """The file cannot be written."""

    code = "not_written"
    advice = "Check the folder's owner and free space, or name another file with -o."


async def keep(connection: Connection, verb: str, target: Target, *, is_json: bool) -> None:
    """Pin, unpin or evict a model and say what that came to."""
    async with ControlClient(connection) as client:
        answer = await client.post(verb, target.as_json())
    if is_json:
        print(json.dumps(answer))
        return
    kept = answers.read(answers.Kept, answer)
    what = f"{clean(kept.repo)} at {clean(kept.commit)[:10]}"
    print(f"{_DONE[verb]} {what}: {kept.files} files, {human_bytes(kept.bytes)}")


async def write_torrent(
    connection: Connection, target: Target, output: Path | None, *, is_json: bool
) -> None:
    """Print the magnet link, or write the torrent; `-o -` writes it to standard output."""
    async with ControlClient(connection) as client:
        answer = await client.post("torrent", target.as_json())
    torrent = answers.read(answers.TorrentAnswer, answer)
    if output is not None:
        try:
            data = base64.b64decode(torrent.torrent, validate=True)
        except binascii.Error as error:
            raise ProtocolError("the daemon's torrent is not base64") from error
        if str(output) == "-":
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        _write(output, data)
    if is_json:
        print(json.dumps(answer))
    elif output is not None:
        print(f"wrote {output} ({clean(torrent.infohash)})")
    else:
        print(clean(torrent.magnet))


def _write(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise NotWritten(f"{path}: {error.strerror or type(error).__name__}") from error
