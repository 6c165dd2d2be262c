"""A page gets files from daemons over WebRTC: right, wrong, slow, dying and unwilling ones."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass

import pytest
from playwright.async_api import Page

from tests.browser.conftest import Open
from tests.browser.fake_daemon import FakeDaemon, Meeting

MIB = 1024 * 1024
GROUP = "of the class"
PATH = "/org/name/resolve/main/shard.bin"

FETCH = """async ([url, options, pauses]) => {
  const { fetchModelFile, report } = await import("/p2pmodels.js");
  const { Sha256, hex } = await import("/p2pmodels/hashes.js");
  const seen = { progress: 0 };
  const hubs = [location.origin];
  try {
    const onProgress = (now) => { seen.progress += 1; seen.last = now; };
    const response = await fetchModelFile(url, { daemon: null, hubs, onProgress, ...options });
    seen.status = response.status;
    seen.headers = Object.fromEntries(response.headers);
    const reader = response.body.getReader();
    const hasher = new Sha256();
    seen.bytes = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      hasher.update(value);
      seen.bytes += value.length;
    }
    seen.sha256 = hex(hasher.finish());
    seen.report = report(response);
  } catch (error) {
    seen.error = error.name;
    seen.message = error.message;
  }
  return seen;
}"""


@dataclass
class File:
    data: bytes
    digest: str

    @property
    def options(self) -> dict[str, object]:
        return {"sha256": self.digest, "size": len(self.data)}


def some_file(size: int, seed: int = 1) -> File:
    data = random.Random(seed).randbytes(size)
    return File(data, hashlib.sha256(data).hexdigest())


def holder(file: File, **more: object) -> FakeDaemon:
    return FakeDaemon({file.digest: file.data}, **more)  # type: ignore[arg-type]


def from_whom(seen: dict[str, object]) -> dict[str, int]:
    report = seen.get("report") or seen["last"]
    assert isinstance(report, dict)
    return {giver["id"] or giver["kind"]: giver["bytes"] for giver in report["givers"]}


async def fetched(page: Page, made: Meeting, file: File, **more: object) -> dict[str, object]:
    found: dict[str, object] = await page.evaluate(
        FETCH, [made.url + PATH, {**file.options, **more}]
    )
    return found


@pytest.mark.asyncio
async def test_a_file_comes_whole_from_one_daemon(open_page: Open) -> None:
    file = some_file(20 * MIB + 12345)
    daemon = holder(file)
    page, made = await open_page(daemon)
    seen = await fetched(page, made, file)
    assert (seen["status"], seen["sha256"]) == (200, file.digest)
    assert from_whom(seen) == {daemon.id: len(file.data)}
    assert seen["headers"]["content-length"] == str(len(file.data))  # type: ignore[index]
    assert seen["headers"]["x-p2pmodels-source"] == "webrtc"  # type: ignore[index]
    last = seen["last"]
    assert isinstance(last, dict)
    assert (last["state"], last["isVerified"], last["loaded"]) == ("done", True, len(file.data))
    assert made.origin_bytes == 0


@pytest.mark.asyncio
async def test_several_daemons_give_one_file_together(open_page: Open) -> None:
    file = some_file(24 * MIB)
    daemons = [holder(file), holder(file), holder(file)]
    page, made = await open_page(*daemons)
    seen = await fetched(page, made, file)
    assert seen["sha256"] == file.digest
    given = from_whom(seen)
    assert set(given) == {daemon.id for daemon in daemons}
    assert sum(given.values()) == len(file.data)


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [0, 1, 70_000, 256 * 1024])
async def test_small_files_too(open_page: Open, size: int) -> None:
    file = some_file(size)
    page, made = await open_page(holder(file))
    seen = await fetched(page, made, file)
    assert (seen["sha256"], seen["bytes"], made.origin_bytes) == (file.digest, size, 0)


@pytest.mark.asyncio
async def test_the_digest_comes_from_the_hub_with_one_question_for_a_repo(open_page: Open) -> None:
    large, small = some_file(MIB), some_file(1000, seed=2)
    name = hashlib.sha1(b"blob 1000\0" + small.data).hexdigest()  # noqa: S324
    page, made = await open_page(FakeDaemon({large.digest: large.data, name: small.data}))
    made.listed["/api/models/org/name/revision/main"] = {
        "sha": "c" * 40,
        "siblings": [
            {"rfilename": "shard.bin", "size": MIB, "blobId": "0" * 40,
             "lfs": {"sha256": large.digest, "size": MIB, "pointerSize": 134}},
            {"rfilename": "config.json", "size": 1000, "blobId": name},
        ],
    }  # fmt: skip
    for path, file in (("shard.bin", large), ("config.json", small)):
        seen = await page.evaluate(FETCH, [f"{made.url}/org/name/resolve/main/{path}", {}])
        assert seen["sha256"] == file.digest
        assert seen["headers"]["x-repo-commit"] == "c" * 40
    asked = [path for _method, path, _range in made.requests]
    assert asked == ["/api/models/org/name/revision/main"]


@pytest.mark.asyncio
async def test_the_rendezvous_tells_the_digest_when_the_hub_does_not(open_page: Open) -> None:
    file = some_file(MIB)
    page, made = await open_page(holder(file))
    made.files["org/name main shard.bin"] = {
        "digest": file.digest, "size": MIB, "commit": "d" * 40,
    }  # fmt: skip
    seen = await page.evaluate(FETCH, [made.url + PATH, {}])
    assert (seen["sha256"], made.origin_bytes) == (file.digest, 0)


@pytest.mark.asyncio
async def test_without_a_digest_nothing_comes_from_strangers(open_page: Open) -> None:
    file = some_file(MIB)
    daemon = holder(file)
    page, made = await open_page(daemon)
    made.origin[PATH] = file.data
    seen = await page.evaluate(FETCH, [made.url + PATH, {}])
    assert (seen["sha256"], made.origin_bytes) == (file.digest, MIB)
    assert seen["last"]["isVerified"] is False
    assert daemon.gets == []


@pytest.mark.asyncio
async def test_a_refusal_of_the_origin_is_passed_on(open_page: Open) -> None:
    page, made = await open_page(FakeDaemon())
    made.listed["/api/models/org/name/revision/main"] = {"sha": "c" * 40, "siblings": []}
    absent = await page.evaluate(FETCH, [made.url + PATH, {}])
    assert absent["status"] == 404
    named = await fetched(page, made, some_file(MIB))
    assert named["status"] == 404


@pytest.mark.asyncio
async def test_wrong_bytes_never_reach_the_page_whole(open_page: Open) -> None:
    file = some_file(12 * MIB)
    liar = holder(file)
    liar.files[file.digest] = bytes(12 * MIB)
    page, made = await open_page(liar)
    made.origin[PATH] = file.data
    seen = await fetched(page, made, file)
    assert seen["error"] == "Error"
    assert "digest" in str(seen["message"])
    assert isinstance(seen["bytes"], int)
    assert seen["bytes"] < len(file.data)  # the last piece was held back
    again = await fetched(page, made, file)  # the liar is not asked again
    assert (again["sha256"], from_whom(again)) == (file.digest, {"origin": len(file.data)})


@pytest.mark.asyncio
async def test_a_wrong_small_file_is_fetched_again_unnoticed(open_page: Open) -> None:
    file = some_file(2 * MIB)
    liar = holder(file)
    liar.files[file.digest] = bytes(2 * MIB)
    page, made = await open_page(liar)
    made.origin[PATH] = file.data
    seen = await fetched(page, made, file)
    assert (seen["sha256"], seen["bytes"]) == (file.digest, len(file.data))
    assert from_whom(seen) == {liar.id: len(file.data), "origin": len(file.data)}


@pytest.mark.asyncio
async def test_the_origin_goes_on_where_a_daemon_died(open_page: Open) -> None:
    file = some_file(20 * MIB)
    daemon = holder(file, die_after=9 * MIB)
    page, made = await open_page(daemon)
    made.origin[PATH] = file.data
    seen = await fetched(page, made, file)
    assert seen["sha256"] == file.digest
    assert 0 < made.origin_bytes < len(file.data)
    assert sum(from_whom(seen).values()) == len(file.data)


@pytest.mark.asyncio
async def test_an_origin_without_ranges_goes_on_too(open_page: Open) -> None:
    file = some_file(20 * MIB)
    page, made = await open_page(holder(file, die_after=9 * MIB))
    made.origin[PATH] = file.data
    made.ignores_range = True
    seen = await fetched(page, made, file)
    assert (seen["sha256"], made.origin_bytes) == (file.digest, len(file.data))
    assert sum(from_whom(seen).values()) == len(file.data)


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["die_after", "stall_after"])
async def test_another_daemon_takes_over_midway(open_page: Open, fault: str) -> None:
    file = some_file(24 * MIB)
    good, bad = holder(file), holder(file, **{fault: 3 * MIB})
    page, made = await open_page(bad, good)
    seen = await fetched(page, made, file)
    assert (seen["sha256"], made.origin_bytes) == (file.digest, 0)
    assert bad.given >= 3 * MIB


@pytest.mark.asyncio
async def test_a_busy_daemon_is_asked_again(open_page: Open) -> None:
    file = some_file(3 * MIB)
    page, made = await open_page(holder(file, busy=3))
    seen = await fetched(page, made, file)
    assert (seen["sha256"], made.origin_bytes) == (file.digest, 0)


@pytest.mark.asyncio
async def test_only_pieces_that_are_there_are_asked_for(open_page: Open) -> None:
    file = some_file(16 * MIB)
    half = holder(file, held={file.digest: [(0, 32)]})  # the first 8 MiB, in pieces of 256 KiB
    page, made = await open_page(half)
    made.origin[PATH] = file.data
    seen = await fetched(page, made, file)
    assert seen["sha256"] == file.digest
    assert from_whom(seen) == {half.id: 8 * MIB, "origin": 8 * MIB}
    assert max(stop for _start, stop in half.gets) == 8 * MIB


@pytest.mark.asyncio
async def test_a_page_that_stops_reading_stops_the_daemon(open_page: Open) -> None:
    file = some_file(60 * MIB)
    daemon = holder(file)
    page, made = await open_page(daemon)
    await page.evaluate(
        """async ([url, options]) => {
          const { fetchModelFile } = await import("/p2pmodels.js");
          const response = await fetchModelFile(url, {
            daemon: null, hubs: [location.origin], ...options });
          globalThis.reader = response.body.getReader();
          await globalThis.reader.read();
        }""",
        [made.url + PATH, file.options],
    )
    before = -1
    async with asyncio.timeout(30):
        while daemon.given != before:  # until nothing has come for half a second
            before = daemon.given
            await asyncio.sleep(0.5)
    assert 8 * MIB <= daemon.given <= 20 * MIB
    rest = await page.evaluate(
        """async () => {
          let bytes = 0;
          for (;;) {
            const { done, value } = await globalThis.reader.read();
            if (done) return bytes;
            bytes += value.length;
          }
        }"""
    )
    assert rest >= 58 * MIB


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["signal", "cancel"])
async def test_who_gives_up_gets_and_costs_nothing_more(open_page: Open, how: str) -> None:
    file = some_file(60 * MIB)
    daemon = holder(file)
    page, made = await open_page(daemon)
    seen = await page.evaluate(
        """async ([url, options, how]) => {
          const { fetchModelFile } = await import("/p2pmodels.js");
          const control = new AbortController();
          const response = await fetchModelFile(url, {
            daemon: null, hubs: [location.origin], signal: control.signal, ...options });
          const reader = response.body.getReader();
          await reader.read();
          if (how === "cancel") { await reader.cancel(); return "cancelled"; }
          control.abort();
          try { for (;;) if ((await reader.read()).done) return "done"; }
          catch (error) { return error.name; }
        }""",
        [made.url + PATH, file.options, how],
    )
    assert seen == ("cancelled" if how == "cancel" else "AbortError")
    before = -1
    async with asyncio.timeout(30):
        while daemon.given != before:
            before = daemon.given
            await asyncio.sleep(0.5)
    assert daemon.given < 20 * MIB


@pytest.mark.asyncio
async def test_a_group_secret_opens_and_its_absence_does_not(open_page: Open) -> None:
    file = some_file(MIB)
    daemon = holder(file, secret=GROUP)
    page, made = await open_page(daemon)
    made.origin[PATH] = file.data
    without = await fetched(page, made, file)
    assert from_whom(without) == {"origin": MIB}
    wrong = await fetched(page, made, file, secret=GROUP.upper())
    assert from_whom(wrong) == {"origin": MIB}
    right = await fetched(page, made, file, secret=GROUP)
    assert from_whom(right) == {daemon.id: MIB}


@pytest.mark.asyncio
async def test_a_daemon_that_cannot_prove_the_secret_is_left(open_page: Open) -> None:
    file = some_file(MIB)
    daemon = holder(file)
    page, made = await open_page(daemon)
    made.origin[PATH] = file.data
    seen = await fetched(page, made, file, secret=GROUP)
    assert from_whom(seen) == {"origin": MIB}
    assert daemon.gets == []


@pytest.mark.asyncio
async def test_several_files_share_the_links(open_page: Open) -> None:
    files = [some_file(5 * MIB, seed) for seed in range(4)]
    daemons = [FakeDaemon({file.digest: file.data for file in files}) for _ in range(2)]
    page, made = await open_page(*daemons)
    seen = await asyncio.gather(*(fetched(page, made, file) for file in files))
    assert [one["sha256"] for one in seen] == [file.digest for file in files]
    assert all(len(daemon._connections) == 1 for daemon in daemons)


@pytest.mark.asyncio
async def test_a_page_without_a_secure_context_does_it_too(open_page: Open) -> None:
    """http://192.168.x.x has no crypto.subtle and no Cache API."""
    file = some_file(3 * MIB)
    daemon = holder(file)
    page, made = await open_page(daemon)
    port = made.url.rpartition(":")[2]
    await page.goto(f"http://classroom.test:{port}/")
    assert await page.evaluate("[isSecureContext, crypto.subtle]") == [False, None]
    made.origin[PATH] = file.data
    seen = await page.evaluate(
        FETCH, [f"http://classroom.test:{port}{PATH}", {**file.options, "daemon": made.url}]
    )
    assert (seen["sha256"], from_whom(seen)) == (file.digest, {daemon.id: len(file.data)})
    await page.evaluate("import('/p2pmodels.js').then(({ install }) => install()())")


@pytest.mark.asyncio
async def test_a_daemon_that_asks_for_patience_is_called_again(open_page: Open) -> None:
    file = some_file(3 * MIB)
    daemon = holder(file, refusals=1)
    page, made = await open_page(daemon)
    made.origin[PATH] = file.data
    seen = await fetched(page, made, file)
    assert (seen["sha256"], from_whom(seen)) == (file.digest, {daemon.id: len(file.data)})
