"""Datagrams of one length go out with one system call, and arrive each by itself."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

import pytest
from aiortc.rtcdtlstransport import State
from aiortc.rtcicetransport import RTCIceTransport

from p2pmodels.sources.rtc.certificate import SessionCertificate
from p2pmodels.sources.rtc.datagrams import (
    RUN_BYTES_LIMIT,
    RUN_LIMIT,
    DataDtls,
    Datagrams,
    Gatherer,
    LanConnection,
)
from tests.sources.rtc.pairs import BOUND_S, LOOPBACK

LENGTH = 1425  # bytes of a full datagram to a browser


class Line(socket.socket):
    """A socket that counts its runs; with an `error` it refuses them."""

    error = 0
    runs = 0

    def sendmsg(self, *arguments: object) -> int:
        self.runs += 1
        if self.error:
            raise OSError(self.error, "refused")
        return super().sendmsg(*arguments)  # type: ignore[arg-type]


@asynccontextmanager
async def sender(error: int = 0) -> AsyncIterator[tuple[Datagrams, Line]]:
    """The socket of a session."""
    line = Line(socket.AF_INET, socket.SOCK_DGRAM)
    line.setblocking(False)
    line.bind((LOOPBACK, 0))
    line.error = error
    loop = asyncio.get_running_loop()
    nobody = LanConnection((LOOPBACK,), None)
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Datagrams(nobody, line), sock=line
    )
    try:
        yield protocol, line
    finally:
        transport.close()
        await nobody.close()


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as line:
        line.bind((LOOPBACK, 0))
        line.settimeout(BOUND_S)
        yield line


def texts(count: int, last: int = LENGTH) -> list[bytes]:
    """So many datagrams, the last one of another length."""
    full = [bytes([number]) * LENGTH for number in range(count - 1)]
    return [*full, bytes([count - 1]) * last]


@pytest.mark.asyncio
@pytest.mark.parametrize("last", [LENGTH, 1])
@pytest.mark.parametrize("count", [1, 2, RUN_LIMIT])
async def test_a_run_arrives_as_the_datagrams_it_is_made_of(
    receiver: socket.socket, count: int, last: int
) -> None:
    sent = texts(count, last)
    async with sender() as (datagrams, line):
        datagrams.send_run(b"".join(sent), len(sent[0]), receiver.getsockname())
        assert [receiver.recv(9000) for _ in sent] == sent
        assert line.runs == (count > 1)


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT])
async def test_a_kernel_that_cuts_no_runs_is_asked_once(
    receiver: socket.socket, error: int
) -> None:
    sent = texts(3, 7)
    async with sender(error) as (datagrams, line):
        for _ in range(2):
            datagrams.send_run(b"".join(sent), LENGTH, receiver.getsockname())
            assert [receiver.recv(9000) for _ in sent] == sent
        assert line.runs == 1


@pytest.mark.asyncio
async def test_a_full_socket_loses_the_run_and_gets_the_next(receiver: socket.socket) -> None:
    sent = texts(3)
    async with sender(errno.EAGAIN) as (datagrams, line):
        datagrams.send_run(b"".join(sent), LENGTH, receiver.getsockname())
        line.error = 0
        datagrams.send_run(b"".join(sent[1:]), LENGTH, receiver.getsockname())
        assert [receiver.recv(9000) for _ in sent[1:]] == sent[1:]


class Records:
    """Stands for DTLS: what is sent is longer by a head and a tail, as a record is."""

    def __init__(self) -> None:
        self.kept = b""

    def send(self, data: bytes) -> int:
        self.kept += b"<" * 13 + data + b">" * 24
        return len(data)

    def bio_read(self, limit: int) -> bytes:
        data, self.kept = self.kept[:limit], self.kept[limit:]
        return data


class Runs(LanConnection):
    """Keeps what would be sent: the datagrams of each run."""

    def __init__(self) -> None:
        super().__init__((LOOPBACK,), None)
        self.runs: list[list[bytes]] = []

    def send_run(self, run: bytes, length: int) -> None:
        self.runs.append([run[at : at + length] for at in range(0, len(run), length)])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("lengths", "runs"),
    [
        ([100], [1]),
        ([100, 100, 100], [3]),
        ([100, 100, 40], [3]),  # the last of a run may be shorter
        ([100, 40, 100], [2, 1]),
        ([100, 40, 40], [2, 1]),
        ([40, 100], [1, 1]),
        ([100] * (RUN_LIMIT + 1), [RUN_LIMIT, 1]),
        ([8236] * 9, [RUN_BYTES_LIMIT // 8236, 2]),
    ],
)
async def test_what_is_put_leaves_in_runs_of_one_length(
    lengths: list[int], runs: list[int]
) -> None:
    connection, records = Runs(), Records()
    gatherer = Gatherer((LOOPBACK,), "")
    gatherer._connection = connection
    dtls = DataDtls(RTCIceTransport(gatherer), [SessionCertificate.generateCertificate()])
    dtls._state, dtls._ssl = State.CONNECTED, records  # type: ignore[assignment]
    for number, length in enumerate(lengths):
        dtls.put(bytes([number]) * length)
    dtls.flush()
    dtls.flush()  # nothing is left
    assert [len(run) for run in connection.runs] == runs
    sent = [datagram for run in connection.runs for datagram in run]
    assert [one.strip(b"<>") for one in sent] == [
        bytes([number]) * length for number, length in enumerate(lengths)
    ]
    await connection.close()
