"""The texts of signalling: what is written is read, and nothing else is (reliability F10)."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pmodels.core.digests import GitId, Sha256
from p2pmodels.core.manifest import FILE_SIZE_LIMIT
from p2pmodels.core.names import Commit
from p2pmodels.core.peer import PeerId
from p2pmodels.core.sdp import CANDIDATES_LIMIT, SDP_BYTES_LIMIT
from p2pmodels.core.secret import Secret
from p2pmodels.core.signal_texts import (
    NOTICE_BYTES_LIMIT,
    REQUEST_BYTES_LIMIT,
    format_notice,
    format_request,
    format_signed,
    parse_notice,
    parse_request,
    parse_signed,
)
from p2pmodels.core.signalling import (
    MEMBERS_LISTED_LIMIT,
    NUMBER_LIMIT,
    RETRY_LIMIT_S,
    Answer,
    Came,
    Expelled,
    FileAnswer,
    FileKind,
    FileQuestion,
    FileUnknown,
    Heard,
    Join,
    Joined,
    Left,
    Member,
    MemberKind,
    Notice,
    Offer,
    Refused,
    Request,
    Said,
    Sent,
    SignedSdp,
    signed_sdp,
)
from p2pmodels.errors import ProtocolError
from tests.signal_fakes import sdp

HEX, NAME_CHARACTERS = "0123456789abcdef", "0123456789abcdefXYZ"
SECRET, OTHER = Secret("correct-horse-battery"), Secret("wrong-horse-battery!")
OFFER = Offer("s1", SignedSdp(sdp(1), ""))

ids = st.text(HEX, min_size=32, max_size=32).map(PeerId)
names = st.text(NAME_CHARACTERS, min_size=1, max_size=32)
words = st.text("abc_", min_size=1, max_size=32)
sessions = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=32)
numbers = st.integers(0, NUMBER_LIMIT)
kinds = st.sampled_from(MemberKind)
proofs = st.one_of(st.just(""), st.text(HEX, min_size=64, max_size=64))
bodies = st.text(st.sampled_from('abc ~"\\\r\n\t'), max_size=2000)
descriptions = st.builds(SignedSdp, bodies.map("v=0\r\n".__add__), proofs)
waits = st.floats(0, RETRY_LIMIT_S)
said: st.SearchStrategy[Said] = st.one_of(
    st.builds(Offer, sessions, descriptions),
    st.builds(Answer, sessions, descriptions),
    st.builds(Refused, sessions, words, waits),
)
requests: st.SearchStrategy[Request] = st.one_of(
    st.builds(Join, names, kinds, ids),
    st.builds(Sent, names, said),
    st.builds(
        FileQuestion,
        numbers,
        *[st.text(st.characters(exclude_categories=["Cs"]), max_size=100)] * 3,
        st.sampled_from(FileKind),
    ),
)
members = st.builds(Member, names, kinds, ids)
digests = st.one_of(
    st.text(HEX, min_size=64, max_size=64).map(Sha256),
    st.text(HEX, min_size=40, max_size=40).map(GitId),
)
commits = st.text(HEX, min_size=40, max_size=40).map(Commit)
notices: st.SearchStrategy[Notice] = st.one_of(
    st.builds(Joined, names, st.lists(members, max_size=5).map(tuple)),
    st.builds(Came, members),
    st.builds(Left, names),
    st.builds(Heard, names, kinds, said),
    st.builds(FileAnswer, numbers, digests, st.integers(0, FILE_SIZE_LIMIT), commits),
    st.builds(FileUnknown, numbers, words),
    st.builds(Expelled, words),
)
values: st.SearchStrategy[object] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(deadline=None)  # other work may slow the machine down
@given(requests)
def test_request_is_read_as_it_was_written(request: Request) -> None:
    assert parse_request(format_request(request)) == request


@settings(deadline=None)
@given(notices)
def test_notice_is_read_as_it_was_written(notice: Notice) -> None:
    assert parse_notice(format_notice(notice)) == notice


@settings(deadline=None)
@given(descriptions)
def test_signed_sdp_is_read_as_it_was_written(signed: SignedSdp) -> None:
    assert parse_signed(format_signed(signed)) == signed


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_request, parse_notice):
        with pytest.raises(ProtocolError):
            parse(text)


@settings(deadline=None)
@given(st.one_of(requests, notices), st.data())
def test_message_with_one_value_changed_is_read_or_refused(
    message: Request | Notice, data: st.DataObject
) -> None:
    is_request = isinstance(message, Request)
    text = format_request(message) if is_request else format_notice(message)  # type: ignore[arg-type]
    fields = json.loads(text)
    key = data.draw(st.sampled_from(sorted(fields)))
    fields[key] = data.draw(values)
    try:
        read = (parse_request if is_request else parse_notice)(json.dumps(fields))
    except ProtocolError:
        return
    written = format_request(read) if is_request else format_notice(read)  # type: ignore[arg-type]
    assert json.loads(written) == fields


@settings(deadline=None)
@given(st.one_of(requests, notices), st.data())
def test_message_without_a_key_or_with_one_more_is_refused(
    message: Request | Notice, data: st.DataObject
) -> None:
    is_request = isinstance(message, Request)
    text = format_request(message) if is_request else format_notice(message)  # type: ignore[arg-type]
    parse = parse_request if is_request else parse_notice
    fields = json.loads(text)
    with pytest.raises(ProtocolError):
        parse(json.dumps(fields | {"more": 1}))
    del fields[data.draw(st.sampled_from(sorted(fields)))]
    with pytest.raises(ProtocolError):
        parse(json.dumps(fields))


@pytest.mark.parametrize("text", [
    "", "null", "[]", '"join"', "1", "{", "{}", "\ufeff{}", "[" * 20_000, "1" * 20_000,
    '{"t":"join","t":"join","room":"lan","kind":"page","id":"' + "0" * 32 + '"}',
    '{"t":["join"]}', '{"t":{"join":1}}', '{"t":"\\ud800"}', "\ud800",
    '{"t":"file","number":true,"repo":"a","revision":"b","path":"c","kind":"model"}',
    '{"t":"file","number":1.0,"repo":"a","revision":"b","path":"c","kind":"model"}',
    '{"t":"file","number":-1,"repo":"a","revision":"b","path":"c","kind":"model"}',
    '{"t":"file","number":NaN,"repo":"a","revision":"b","path":"c","kind":"model"}',
    '{"t":"refused","to":"a","session":"s","code":"busy","retry_s":NaN}',
    '{"t":"refused","to":"a","session":"s","code":"busy","retry_s":1e999}',
    '{"t":"refused","to":"a","session":"s","code":"busy","retry_s":' + "9" * 400 + "}",
    '{"t":"refused","to":"a","session":"s","code":"busy","retry_s":-0.1}',
    '{"t":"refused","to":"a","session":"s","code":"line\\nbreak","retry_s":0}',
    '{"t":"refused","to":"../a","session":"s","code":"busy","retry_s":0}',
    '{"t":"refused","to":"a","session":"","code":"busy","retry_s":0}',
    '{"t":"join","room":"","kind":"page","id":"' + "0" * 32 + '"}',
    '{"t":"join","room":"lan","kind":"king","id":"' + "0" * 32 + '"}',
    '{"t":"join","room":"lan","kind":[],"id":"' + "0" * 32 + '"}',
    '{"t":"join","room":"lan","kind":"page","id":"' + "A" * 32 + '"}',
])  # fmt: skip
def test_request_that_breaks_a_rule_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_request(text)


@pytest.mark.parametrize("text", [
    '{"t":"joined","self":"a","members":[1]}', '{"t":"joined","self":"a","members":{}}',
    '{"t":"joined","self":"a","members":[{}]}', '{"t":"error","code":7}',
    '{"t":"file","number":1,"digest":"00","size":1,"commit":"' + "0" * 40 + '"}',
    '{"t":"file","number":1,"digest":"' + "0" * 64 + '","size":-1,"commit":"' + "0" * 40 + '"}',
    '{"t":"left","member":"<script>"}', '{"t":"offer","from":"a","kind":"page"}',
])  # fmt: skip
def test_notice_that_breaks_a_rule_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_notice(text)


@pytest.mark.parametrize("text", [
    "", "v=1\r\n", "v=0", "v=0\r\nö", "v=0\r\n\0", "v=0\r\n\x7f", "v=0\r\n" + "a" * SDP_BYTES_LIMIT,
    sdp(1, candidates=CANDIDATES_LIMIT + 1),
])  # fmt: skip
def test_sdp_that_breaks_a_rule_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        SignedSdp(text, "")
    assert SignedSdp(sdp(1, candidates=CANDIDATES_LIMIT), "")


def test_longest_request_fits_into_a_notice_and_longer_ones_are_refused() -> None:
    # Each line break is two characters of JSON, so this is the longest that a request can bring.
    low, high = 0, SDP_BYTES_LIMIT
    while low < high:  # how many line breaks still fit into a request
        middle = (low + high + 1) // 2
        text = "v=0\n" + "\n" * middle + "a" * (SDP_BYTES_LIMIT - 4 - middle)
        sent = Sent("m" * 32, Offer("s" * 32, SignedSdp(text, "0" * 64)))
        is_fitting = len(format_request(sent)) <= REQUEST_BYTES_LIMIT
        low, high = (middle, high) if is_fitting else (low, middle - 1)
    text = "v=0\n" + "\n" * low + "a" * (SDP_BYTES_LIMIT - 4 - low)
    offer = Offer("s" * 32, SignedSdp(text, "0" * 64))
    request = parse_request(format_request(Sent("m" * 32, offer)))
    assert isinstance(request, Sent)
    notice = format_notice(Heard("m" * 32, MemberKind.DAEMON, request.said))
    assert REQUEST_BYTES_LIMIT - 100 < len(notice) <= NOTICE_BYTES_LIMIT
    assert parse_notice(notice) == Heard("m" * 32, MemberKind.DAEMON, offer)
    with pytest.raises(ProtocolError):
        parse_request(format_request(Sent("m" * 32, offer)) + " " * 200)


def test_fullest_room_fits_into_a_notice() -> None:
    member = Member("m" * 32, MemberKind.DAEMON, PeerId("0" * 32))
    text = format_notice(Joined("m" * 32, (member,) * MEMBERS_LISTED_LIMIT))
    assert len(text) <= NOTICE_BYTES_LIMIT
    with pytest.raises(ProtocolError):
        Joined("m", (member,) * (MEMBERS_LISTED_LIMIT + 1))


def test_hostile_text_costs_little_memory() -> None:
    tracemalloc.start()
    try:
        for text in ("[" * 20_000, '{"a":' * 4000, '{"t":"offer"' + ',"x":[[]]' * 2000 + "}"):
            with pytest.raises(ProtocolError):
                parse_request(text)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_proof_is_of_the_secret_and_the_very_text() -> None:
    proven = signed_sdp(sdp(1), SECRET)
    assert proven.is_proven(SECRET) and proven.is_proven(None)
    assert not proven.is_proven(OTHER)
    assert not SignedSdp(sdp(2), proven.proof).is_proven(SECRET)
    assert not SignedSdp(sdp(1), "").is_proven(SECRET)
    assert signed_sdp(sdp(1), None).proof == ""


def test_proof_is_the_one_that_pages_compute() -> None:
    # HMAC-SHA256(secret, "p2pmodels-sdp-1" + sdp), computed with openssl(1).
    expected = "9bf6dd1e1a99c6f910bdc5ee76547b72f588cea220798b0a54b83acf507a225f"
    assert signed_sdp("v=0\r\n", SECRET).proof == expected


def test_fingerprint_is_the_one_key_of_the_sdp() -> None:
    written = SignedSdp(sdp(0xABCD), "").fingerprint
    assert written == "sha-256 " + ":".join(["00"] * 30 + ["ab", "cd"])
    for text in ("v=0\r\n", sdp(1) + sdp(2)[5:], sdp(1).replace(":00:", ":0:")):
        with pytest.raises(ProtocolError):
            _ = SignedSdp(text, "").fingerprint
