"""Messages of the peer port: what is written can be read, and nothing else can."""

from __future__ import annotations

import json
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodels.core.digests import Sha256
from p2pmodels.core.names import Commit
from p2pmodels.core.peer import (
    HELLO_BYTES_LIMIT,
    MESSAGE_BYTES_LIMIT,
    NAMES_LIMIT,
    HasAnswer,
    HasQuery,
    Hello,
    PeerId,
    parse_torrent_name,
)
from p2pmodels.errors import NameRefused, P2PModelsError, ProtocolError

HEX = "0123456789abcdef"
commits = st.text(HEX, min_size=40, max_size=40).map(Commit)
blobs = st.text(HEX, min_size=64, max_size=64).map(Sha256)
hellos = st.builds(
    Hello,
    st.text(HEX, min_size=32, max_size=32).map(PeerId),
    st.from_regex(r"\A[0-9A-Za-z.+-]{1,32}\Z"),
    st.just(1),
    st.integers(0, 65535),
    st.integers(1, 65535),
)
queries = st.builds(
    HasQuery,
    st.lists(commits, unique=True, max_size=5).map(tuple),
    st.lists(blobs, unique=True, max_size=5).map(tuple),
)
HELLO = Hello(PeerId("ab" * 16), "0.1.0", 1, 7880, 7879)


@given(hellos)
def test_hello_is_read_as_it_was_written(hello: Hello) -> None:
    assert Hello.parse(hello.format()) == hello
    assert len(hello.format()) <= HELLO_BYTES_LIMIT


@given(queries, st.data())
def test_query_and_answer_are_read_as_they_were_written(
    query: HasQuery, data: st.DataObject
) -> None:
    assert HasQuery.parse(query.format()) == query

    def some_of(names: tuple[Sha256, ...]) -> tuple[Sha256, ...]:
        return tuple(name for name in names if data.draw(st.booleans()))

    answer = HasAnswer(
        tuple(commit for commit in query.commits if data.draw(st.booleans())),
        some_of(query.blobs),
        some_of(query.blobs),
    )
    assert HasAnswer.parse(answer.format(), query) == answer


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    for parse in (Hello.parse, HasQuery.parse, lambda raw: HasAnswer.parse(raw, HasQuery())):
        try:
            parse(data)
        except P2PModelsError as error:
            assert isinstance(error, ProtocolError)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.sampled_from(["id", "version", "protocol", "bt_port", "peer_port"]), json_values)
def test_hello_with_any_value_for_a_key_is_exact_or_refused(key: str, value: object) -> None:
    fields = json.loads(HELLO.format()) | {key: value}
    try:
        hello = Hello.parse(json.dumps(fields).encode())
    except ProtocolError:
        return
    assert json.loads(hello.format()) == fields
    assert type(getattr(hello, key)) is not bool


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        HELLO.format()[:-1] + b',"more":1}',
        HELLO.format().replace(b"{", b'{"id":"' + b"cd" * 16 + b'",', 1),
        HELLO.format().replace(b"7880", b"NaN"),
        HELLO.format().replace(b"7880", b"7880.0"),
        HELLO.format().replace(b"7880", b"true"),
        HELLO.format().replace(b"7880", b"65536"),
        HELLO.format().replace(b"7880", b"9" * 900),
        HELLO.format().replace(b'"protocol":1', b'"protocol":2'),
        HELLO.format().replace(b"0.1.0", b"<img>"),
        HELLO.format().replace(b"ab", b"AB"),
        HELLO.format() + b" " * HELLO_BYTES_LIMIT,
        HELLO.format().replace(b"0.1.0", "0.1.\u0661".encode()),
    ],
)  # fmt: skip
def test_hello_that_is_not_exact_is_refused(data: bytes) -> None:
    assert Hello.parse(HELLO.format()) == HELLO
    with pytest.raises(ProtocolError):
        Hello.parse(data)


def test_deep_nesting_is_refused_without_harm() -> None:
    with pytest.raises(ProtocolError):
        HasQuery.parse(b"[" * MESSAGE_BYTES_LIMIT)
    with pytest.raises(ProtocolError):
        HasQuery.parse(b'{"commits":' + b"[" * 30_000 + b"]" * 30_000 + b',"blobs":[]}')


def test_largest_query_and_answer_fit_and_one_name_more_is_refused() -> None:
    names = tuple(Sha256(secrets.token_hex(32)) for _ in range(NAMES_LIMIT))
    query = HasQuery((), names)
    assert HasQuery.parse(query.format()) == query
    answer = HasAnswer((), names, names)
    assert HasAnswer.parse(answer.format(), query) == answer
    with pytest.raises(ProtocolError):
        HasQuery((Commit("0" * 40),), names)
    crowd = json.dumps({"commits": ["0" * 40], "blobs": [name.value for name in names]})
    with pytest.raises(ProtocolError):
        HasQuery.parse(crowd.encode())


def test_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(ProtocolError):
        HasQuery((Commit("0" * 40),) * 2)


def test_answer_about_what_was_not_asked_is_refused() -> None:
    commit, blob = Commit("1" * 40), Sha256("2" * 64)
    for answer in (HasAnswer((commit,)), HasAnswer((), (blob,)), HasAnswer((), (), (blob,))):
        with pytest.raises(ProtocolError):
            HasAnswer.parse(answer.format(), HasQuery((Commit("3" * 40),), (Sha256("4" * 64),)))


@pytest.mark.parametrize("text", ["", "x" * 32, "AB" * 16, "ab" * 15, "ab" * 17, "ab" * 15 + "\n"])
def test_peer_id_is_exactly_128_bits_of_hex(text: str) -> None:
    with pytest.raises(NameRefused):
        PeerId(text)


def test_torrent_name_is_a_commit_or_a_sha256() -> None:
    assert parse_torrent_name("a" * 40) == Commit("a" * 40)
    assert parse_torrent_name("a" * 64) == Sha256("a" * 64)
    for text in ("", "a" * 41, "../" + "a" * 37, "A" * 40):
        with pytest.raises(NameRefused):
            parse_torrent_name(text)
