"""The messages of a shard channel: strict to read, impossible to make wrong."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core import wire
from p2pmodels.core.digests import GitId, Sha256
from p2pmodels.core.shard import (
    DATA_BYTES_LIMIT,
    GET_BYTES_LIMIT,
    RETRY_MS_LIMIT,
    Cancel,
    End,
    Get,
    Message,
    Status,
    data_head,
    is_data,
    is_shard_message,
    pack,
    read_data_head,
    unpack,
)
from p2pmodels.errors import ProtocolError

BLOB = Sha256("ab" * 32)


@pytest.mark.parametrize(
    "message",
    [
        Get(0, BLOB, 0, 1),
        Get(2**32 - 1, GitId("cd" * 20), 5, 5 + GET_BYTES_LIMIT),
        End(1, Status.DONE),
        End(1, Status.NOT_HELD),
        End(1, Status.BUSY, 10),
        End(1, Status.BUSY, RETRY_MS_LIMIT),
        End(1, Status.FAILED),
        Cancel(7),
    ],
)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    packed = pack(message)
    assert is_shard_message(packed) and not is_data(packed)
    assert unpack(packed) == message


def test_frames_of_the_link_are_left_to_the_link() -> None:
    for frame in (wire.Want(BLOB, 1), wire.Unwant(BLOB), wire.Bye("leaving")):
        assert not is_shard_message(wire.pack(frame))


@pytest.mark.parametrize(
    "fields",
    [
        {"number": -1, "blob": b"a" * 32, "start": 0, "stop": 1},
        {"number": 2**32, "blob": b"a" * 32, "start": 0, "stop": 1},
        {"number": 1, "blob": b"a" * 31, "start": 0, "stop": 1},
        {"number": 1, "blob": "a" * 32, "start": 0, "stop": 1},
        {"number": 1, "blob": b"a" * 32, "start": 1, "stop": 1},
        {"number": 1, "blob": b"a" * 32, "start": 0, "stop": GET_BYTES_LIMIT + 1},
        {"number": 1, "blob": b"a" * 32, "start": 2**63, "stop": 2**63 + 1},
        {"number": True, "blob": b"a" * 32, "start": 0, "stop": 1},
        {"number": 1.0, "blob": b"a" * 32, "start": 0, "stop": 1},
        {"number": 1, "blob": b"a" * 32, "start": 0},
        {"number": 1, "blob": b"a" * 32, "start": 0, "stop": 1, "status": 200},
        {"number": 1, "blob": b"a" * 32, "start": 0, "stop": 1, "more": 1},
        {"number": [1], "blob": b"a" * 32, "start": 0, "stop": 1},
        {"number": 1, "blob": b"a" * 300, "start": 0, "stop": 1},
    ],
)
def test_a_get_against_the_rules_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        unpack(msgpack.packb({"t": "get", **fields}))


@pytest.mark.parametrize(
    ("status", "retry_ms"),
    [(201, 0), (503, 0), (503, 9), (503, RETRY_MS_LIMIT + 1), (200, 10), (404, -1), (0, 0)],
)
def test_an_end_against_the_rules_is_refused(status: int, retry_ms: int) -> None:
    with pytest.raises(ProtocolError):
        fields = {"t": "end", "number": 1, "status": status, "retry_ms": retry_ms}
        unpack(msgpack.packb(fields))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x81",
        b"\x80",
        b"\x81\xa1t\xa6cancel",
        pack(Cancel(1)) + b"\0",
        b"\x83\xa1t\xa6cancel\xa6number\x01\xa6number\x01",
        b"\x82\xa1t\xa6cancel\xa6number\xc1",
        b"\x82\xa1t\xa6cancel\xa6number\xcb\x7f\xf8\0\0\0\0\0\0",
        b"\x82\xa1t\xa6cancel\x01\x01",
        b"\x82\xa1t\xa3bye\xa6number\x01",
        b"\xdf\xff\xff\xff\xff\xa1t\xa6cancel",
        b"\x82\xa1t\xa6cancel\xa6number" + b"\x91" * 200,
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    try:
        message = unpack(data)
    except ProtocolError:
        return
    assert unpack(pack(message)) == message


def test_data_is_told_by_its_first_byte() -> None:
    message = data_head(3, 1 << 40) + b"x" * DATA_BYTES_LIMIT
    assert is_data(message)
    assert read_data_head(message) == (3, 1 << 40, DATA_BYTES_LIMIT)


@pytest.mark.parametrize("length", [0, DATA_BYTES_LIMIT + 1])
def test_data_without_or_with_too_many_bytes_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError):
        read_data_head(data_head(1, 0) + b"x" * length)


def test_data_with_a_short_head_is_refused() -> None:
    with pytest.raises(ProtocolError):
        read_data_head(b"\0\0\0")
