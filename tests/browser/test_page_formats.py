"""The module's own hashes, proofs, msgpack and names, against Python's."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random

import msgpack
import pytest

from p2pmodels.core import shard, wire
from p2pmodels.core.digests import GitId, Sha256, git_id
from p2pmodels.core.peer import PeerId
from p2pmodels.core.pieces import piece_length
from tests.browser.conftest import Open
from tests.browser.fake_daemon import proof

LENGTHS = [0, 1, 3, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129, 1000, 300_000, 600_001]

HASHES = """async (texts) => {
  const { Sha256, Sha1, hasherFor, hex, warm } = await import("/p2pmodels/hashes.js");
  await warm;
  return texts.map((text) => {
    const data = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const parts = [new Sha256(), new Sha1(), hasherFor("0".repeat(40), data.length)];
    const slow = new Sha256();
    slow.mix = slow.mixSlowly;
    parts.push(slow);
    let at = 0;
    for (let step = 1; at < data.length; step = (step * 7) % 90001) {
      for (const one of parts) one.update(data.subarray(at, at + step));
      at += step;
    }
    return parts.map((one) => hex(one.finish()));
  });
}"""


@pytest.mark.asyncio
async def test_hashes_are_those_of_python(open_page: Open) -> None:
    page, _ = await open_page()
    contents = [random.Random(length).randbytes(length) for length in LENGTHS]
    found = await page.evaluate(HASHES, [base64.b64encode(data).decode() for data in contents])
    for data, (sha256, sha1, git, slow) in zip(contents, found, strict=True):
        assert sha256 == slow == hashlib.sha256(data).hexdigest(), len(data)
        assert sha1 == hashlib.sha1(data).hexdigest()  # noqa: S324
        assert git == git_id(data).value


@pytest.mark.asyncio
async def test_the_fast_hash_is_there_and_its_absence_is_no_trouble(open_page: Open) -> None:
    page, _ = await open_page()
    seen = await page.evaluate(
        """async () => {
          const forbidden = new Worker(URL.createObjectURL(new Blob([`
            WebAssembly.instantiate = () => Promise.reject(new Error("forbidden"));
            import("${location.origin}/p2pmodels/hashes.js").then(async ({ Sha256, hex, warm }) => {
              await warm;
              postMessage(hex(new Sha256().update(new Uint8Array(1000)).finish()));
            });`], { type: "text/javascript" })), { type: "module" });
          const slow = await new Promise((done) => (forbidden.onmessage = (e) => done(e.data)));
          await (await import("/p2pmodels/hashes.js")).warm;
          return [slow, (await import("/p2pmodels/rounds.js")).engine !== null];
        }"""
    )
    assert seen == [hashlib.sha256(bytes(1000)).hexdigest(), True]


@pytest.mark.asyncio
async def test_proofs_are_those_of_the_daemon(open_page: Open) -> None:
    page, _ = await open_page()
    found = await page.evaluate(
        """async ([key, text]) => {
          const { hmac, hex, utf8, unhex } = await import("/p2pmodels/hashes.js");
          const { proof } = await import("/p2pmodels/frames.js");
          const side = (nonce, id, fingerprint) =>
            ({ nonce: unhex(nonce.repeat(16)), id: id.repeat(16), fingerprint });
          const one = side("01", "ab", "sha-256 aa:bb");
          const two = side("02", "cd", "sha-256 cc:dd");
          return [hex(hmac(utf8(key), utf8(text))), hex(hmac(utf8(key.repeat(40)), utf8(text))),
            hex(proof(key, "dialler", one, two)), proof("", "dialler", one, two).length];
        }""",
        ["geheim ä", "hello"],
    )
    key = "geheim ä"
    one = (b"\x01" * 16, "ab" * 16, "sha-256 aa:bb")
    two = (b"\x02" * 16, "cd" * 16, "sha-256 cc:dd")
    assert found == [
        hmac.new(key.encode(), b"hello", "sha256").hexdigest(),
        hmac.new((key * 40).encode(), b"hello", "sha256").hexdigest(),
        proof(key, "dialler", one, two).hex(),
        0,
    ]


GOOD: list[dict[str, object]] = [
    {"t": "hello", "n": 0},
    {"a": 127, "b": 128, "c": 255, "d": 256, "e": 65535, "f": 65536, "g": 2**32 - 1},
    {"a": 2**32, "b": 2**53 - 1, "c": True, "d": False, "e": "ä" * 15, "f": "x" * 31},
    {"a": "x" * 32, "b": "x" * 300, "c": b"", "d": b"\0\1\2", "e": b"y" * 300},
]
LISTS: list[dict[str, object]] = [
    {"runs": [[0, 1, True], [5, 70000, False]], "roots": b""},
    {"runs": [[at, at + 1, False] for at in range(0, 1024, 2)]},
]
BAD: list[bytes] = [
    b"", b"\x81", b"\x81\xa1t", b"\xa1t", b"\xde\x00\x01\xa1t\x01",
    msgpack.packb({"t": 1.5}), msgpack.packb({"t": None}), msgpack.packb({"t": {}}),
    msgpack.packb({"t": -1}), msgpack.packb({"t": [[[1]]]}), msgpack.packb({"t": 2**60}),
    msgpack.packb({"t": msgpack.ExtType(1, b"x")}), msgpack.packb({1: 2}),
    msgpack.packb({"t": 1}) + b"\0", b"\x82\xa1t\x01\xa1t\x01", b"\x81\xa1t\xa2\xff\xfe",
    b"\x81\xa1t\xc5\xff\xff", b"\x81\xa1t\xdc\xff\xff", b"\x81\xa1t" + b"\x91" * 5000,
]  # fmt: skip


@pytest.mark.asyncio
async def test_msgpack_reads_and_writes_what_python_does(open_page: Open) -> None:
    page, _ = await open_page()
    texts = [base64.b64encode(msgpack.packb(value)).decode() for value in GOOD]
    again = await page.evaluate(
        """async (texts) => {
          const { pack, unpack } = await import("/p2pmodels/msgpack.js");
          return texts.map((text) => {
            const read = unpack(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
            return btoa(String.fromCharCode(...pack(read)));
          });
        }""",
        texts,
    )
    assert again == texts
    lists = await page.evaluate(
        """async (texts) => {
          const { unpack } = await import("/p2pmodels/msgpack.js");
          const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
          return texts.map((text) => unpack(bytes(text)).runs);
        }""",
        [base64.b64encode(msgpack.packb(value)).decode() for value in LISTS],
    )
    assert lists == [value["runs"] for value in LISTS]


@pytest.mark.asyncio
async def test_msgpack_refuses_what_no_frame_contains(open_page: Open) -> None:
    page, _ = await open_page()
    found = await page.evaluate(
        """async (texts) => {
          const { FormatError, unpack } = await import("/p2pmodels/msgpack.js");
          return texts.map((text) => {
            try {
              return JSON.stringify(unpack(Uint8Array.from(atob(text), (c) => c.charCodeAt(0))));
            } catch (error) {
              return error instanceof FormatError ? "refused" : String(error);
            }
          });
        }""",
        [base64.b64encode(data).decode() for data in BAD],
    )
    assert found == ["refused"] * len(BAD)


BLOB = Sha256("ab" * 32)
NAME = GitId("cd" * 20)
SAID: list[wire.Frame | shard.Message] = [
    wire.Want(BLOB, 5_000_000_000),
    wire.Want(NAME, 7),
    wire.Welcome(b"p" * 32, bytes(16)),
    wire.Bye("leaving"),
    shard.Get(2**32 - 1, BLOB, 2**33, 2**33 + 2**20),
    shard.Get(1, NAME, 0, 7),
    shard.Cancel(70_000),
]
SAY = """async () => {
  const f = await import("/p2pmodels/frames.js");
  const { unhex } = await import("/p2pmodels/hashes.js");
  const [blob, name] = [unhex("ab".repeat(32)), unhex("cd".repeat(20))];
  return [
    f.want(blob, 5e9), f.want(name, 7), f.welcome(new Uint8Array(32).fill(112)), f.bye("leaving"),
    f.get(2 ** 32 - 1, blob, 2 ** 33, 2 ** 33 + 2 ** 20), f.get(1, name, 0, 7), f.cancel(70000),
  ].map((frame) => btoa(String.fromCharCode(...frame)));
}"""


@pytest.mark.asyncio
async def test_what_a_page_says_is_understood_by_the_daemon(open_page: Open) -> None:
    page, _ = await open_page()
    heard: list[wire.Frame | shard.Message] = []
    for text in await page.evaluate(SAY):
        data = base64.b64decode(text)
        frame = shard.unpack(data) if shard.is_shard_message(data) else wire.unpack(data)
        if isinstance(frame, wire.Welcome):
            frame = wire.Welcome(frame.proof, bytes(16))  # the ticket is a random one
        heard.append(frame)
    assert heard == SAID


READ = """async (texts) => {
  const { read } = await import("/p2pmodels/frames.js");
  return texts.map((text) => {
    const { buffer } = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    try {
      return JSON.parse(JSON.stringify(read(buffer), (key, value) =>
        value instanceof Uint8Array ? Array.from(value) : value));
    } catch (error) { return error.constructor.name; }
  });
}"""


@pytest.mark.asyncio
async def test_what_a_daemon_says_is_understood_by_a_page(open_page: Open) -> None:
    page, _ = await open_page()
    roots = (b"r" * 32, b"s" * 32)
    have = wire.Have(BLOB, 10_000_000, True, (wire.Run(0, 1, True), wire.Run(3, 4, False)), roots)
    said = [
        wire.pack(wire.Greeting(1, PeerId("ef" * 16), "0.1.0", 7879, b"n" * 16)),
        wire.pack(have),
        shard.pack(shard.End(9, shard.Status.BUSY, 250)),
        shard.data_head(3, 2**40 + 5) + b"xyz",
        wire.pack(wire.Busy(1, 2, 0)),
    ]
    found = await page.evaluate(READ, [base64.b64encode(data).decode() for data in said])
    hello, heard, end, data, other = found
    assert (hello["port"], bytes(hello["id"]).hex()) == (7879, "ef" * 16)
    assert (heard["runs"], heard["size"], heard["is_wanting"]) == (
        [[0, 1, True], [3, 4, False]],
        10_000_000,
        True,
    )
    assert end == {"t": "end", "number": 9, "status": 503, "retry_ms": 250}
    assert data == {"t": "data", "number": 3, "offset": 2**40 + 5, "bytes": list(b"xyz")}
    assert other == {"t": "other"}


BROKEN: list[bytes] = [
    b"", b"\0", shard.data_head(1, 0), shard.data_head(1, 0) + bytes(65_537),
    shard.data_head(1, 2**60) + b"x", msgpack.packb({"t": "what"}), msgpack.packb({}),
    msgpack.packb({"t": "constructor"}), msgpack.packb({"t": "__proto__"}),
    msgpack.packb({"t": "end", "number": 1, "status": 200}),
    msgpack.packb({"t": "end", "number": 1, "status": 503, "retry_ms": 10**6}),
    msgpack.packb({"t": "end", "number": 1, "status": 200, "retry_ms": 0, "more": 1}),
    msgpack.packb({"t": "have", "blob": b"short", "size": 1, "is_wanting": True, "runs": [],
                   "roots": b""}),
    msgpack.packb({"t": "have", "blob": b"b" * 32, "size": 1, "is_wanting": True,
                   "runs": [[5, 4, True]], "roots": b""}),
]  # fmt: skip


@pytest.mark.asyncio
async def test_broken_messages_are_refused(open_page: Open) -> None:
    page, _ = await open_page()
    found = await page.evaluate(READ, [base64.b64encode(data).decode() for data in BROKEN])
    assert found == ["FormatError"] * len(BROKEN)


@pytest.mark.asyncio
async def test_pieces_are_as_long_as_in_the_daemon(open_page: Open) -> None:
    page, _ = await open_page()
    sizes = [0, 1, 2**28, 2**29, 2**29 + 1, 2**30, 3 * 2**30 + 7, 2**35, 2**35 + 1, 2**41]
    found = await page.evaluate(
        """async (sizes) => sizes.map((await import("/p2pmodels/frames.js")).pieceLength)""", sizes
    )
    assert found == [piece_length(size) for size in sizes]


HUB = "https://huggingface.co"
URLS = {
    f"{HUB}/a/b/resolve/main/x.bin": ["model", "a/b", "main", "x.bin"],
    f"{HUB}/gpt2/resolve/main/onnx/x%20y.bin?download=true": [
        "model",
        "gpt2",
        "main",
        "onnx/x y.bin",
    ],
    f"{HUB}/datasets/a/b/resolve/refs%2Fpr%2F1/x": ["dataset", "a/b", "refs/pr/1", "x"],
    f"{HUB}/spaces/a/b/resolve/main/x": None,
    f"{HUB}/a/b/raw/main/x": None,
    f"{HUB}/a/b/resolve/main/": None,
    f"{HUB}/a/b/resolve/main/x%2F..%2Fy": None,
    f"{HUB}/a/b/resolve/main/%zz": None,
    f"{HUB}/resolve/main/x": None,
    f"{HUB}.evil.example/a/b/resolve/main/x": None,
    "https://hub.example/models/a/b/resolve/main/x": ["model", "a/b", "main", "x"],
    "https://hub.example/a/b/resolve/main/x": None,
}


@pytest.mark.asyncio
async def test_urls_of_a_hub_are_read_strictly(open_page: Open) -> None:
    page, _ = await open_page()
    found = await page.evaluate(
        """async ([urls, hubs]) => {
          const { parseHubUrl } = await import("/p2pmodels/names.js");
          return urls.map((url) => {
            const f = parseHubUrl(url, hubs);
            return f && [f.kind, f.repo, f.revision, f.path];
          });
        }""",
        [list(URLS), [HUB, "https://hub.example/models/"]],
    )
    assert dict(zip(URLS, found, strict=True)) == URLS
