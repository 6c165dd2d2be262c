"""The demo hub speaks the hub's protocol: metadata, redirects, ranges, access, log."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from multidict import CIMultiDict
from yarl import URL

from p2pmodels.core.digests import git_id
from p2pmodels.demo.hub import Hub, HubOptions

WEIGHTS = random.Random(1).randbytes(3 << 20)
CONFIG = b'{"model_type": "bert"}\n'
FILES = {
    "config.json": CONFIG,
    "model.safetensors": WEIGHTS,
    "sub dir/notes #1.txt": b"notes\n",
    "empty.txt": b"",
}
REPO = "acme/tiny"


@dataclass
class Reply:
    """What came back, redirects not followed."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(url: str, method: str = "GET", data: object = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(
            method, URL(url, encoded=True), data=data, headers=named, allow_redirects=False
        ) as response,
    ):
        return Reply(response.status, CIMultiDict(response.headers), await response.read())


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as hub:
        hub.add_repo(REPO, FILES)
        yield hub


async def signed(hub: Hub, path: str = "model.safetensors") -> str:
    return (await ask(f"{hub.url}/{REPO}/resolve/main/{path}")).headers["Location"]


@pytest.mark.asyncio
async def test_small_file_is_answered_directly_with_its_git_id(hub: Hub) -> None:
    url = f"{hub.url}/{REPO}/resolve/main/config.json"
    got, head = await ask(url), await ask(url, "HEAD")
    assert (got.status, got.body) == (200, CONFIG)
    assert (head.status, head.body) == (200, b"")
    for reply in (got, head):
        assert reply.headers["ETag"] == f'"{git_id(CONFIG)}"'
        assert reply.headers["Content-Length"] == str(len(CONFIG))
        assert len(reply.headers["X-Repo-Commit"]) == 40
        assert reply.headers["Accept-Ranges"] == "bytes"
        assert reply.headers["RateLimit-Policy"].endswith(";q=3000;w=300")


@pytest.mark.asyncio
async def test_lfs_file_redirects_to_another_port_and_metadata_stands_there_only(hub: Hub) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    first = await ask(f"{hub.url}/{REPO}/resolve/main/model.safetensors", "HEAD")
    assert first.status == 302
    assert first.headers["X-Linked-ETag"] == f'"{digest}"'
    assert first.headers["X-Linked-Size"] == str(len(WEIGHTS))
    assert first.headers["X-Xet-Hash"] != digest
    assert 'rel="xet-auth"' in first.headers["Link"]
    assert first.headers["Location"].startswith(hub.cdn_url + "/")
    assert hub.cdn_port != hub.port
    second = await ask(first.headers["Location"])
    assert (second.status, second.body) == (200, WEIGHTS)
    assert digest not in second.headers["ETag"]
    assert not [name for name in second.headers if name.lower().startswith("x-")]


@pytest.mark.asyncio
async def test_cdn_refuses_a_changed_or_missing_signature(hub: Hub) -> None:
    url = await signed(hub)
    path, _, query = url.partition("?")
    later = query.replace("Expires=", "Expires=9")
    flipped = query.replace("Signature=", "Signature=0")
    for bad in (path, f"{path}?{later}", f"{path}?{flipped}", f"{path}x?{query}"):
        assert (await ask(bad)).status == 403
    assert (await ask(url)).status == 200
    assert hub.file_bytes() == len(WEIGHTS)


@pytest.mark.asyncio
async def test_cdn_refuses_an_expired_signature(hub: Hub) -> None:
    hub.options.signature_lifetime_s = -1.0
    assert (await ask(await signed(hub))).status == 403


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-", 1000, len(WEIGHTS)),
        ("bytes=-7", len(WEIGHTS) - 7, len(WEIGHTS)),
        ("bytes=5-99999999999", 5, len(WEIGHTS)),
        ("bytes=1000-2999", 1000, 3000),
    ],
)
async def test_range_gets_exactly_its_bytes(hub: Hub, text: str, start: int, end: int) -> None:
    reply = await ask(await signed(hub), Range=text)
    assert (reply.status, reply.body) == (206, WEIGHTS[start:end])
    assert reply.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(WEIGHTS)}"


@pytest.mark.asyncio
@pytest.mark.parametrize("text", ["bytes=3145728-", "bytes=-0"])
async def test_range_outside_is_416_with_the_size(hub: Hub, text: str) -> None:
    reply = await ask(await signed(hub), Range=text)
    assert reply.status == 416
    assert reply.headers["Content-Range"] == f"bytes */{len(WEIGHTS)}"
    await hub.quiet()
    assert hub.file_bytes() == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("text", ["bytes=9-3", "bytes=-", "bytes=0-1,5-6", "blocks=0-1"])
async def test_malformed_range_gets_everything(hub: Hub, text: str) -> None:
    assert (await ask(await signed(hub), Range=text)).body == WEIGHTS


@pytest.mark.asyncio
async def test_if_range_gives_the_part_only_for_the_same_etag(hub: Hub) -> None:
    url = await signed(hub)
    etag = (await ask(url, "HEAD")).headers["ETag"]
    assert (await ask(url, Range="bytes=0-9", If_Range=etag)).status == 206
    assert (await ask(url, Range="bytes=0-9", If_Range='"other"')).status == 200


@pytest.mark.asyncio
async def test_file_on_disk_goes_out_whole_and_in_parts(hub: Hub, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(20 << 20)
    (tmp_path / "big.gguf").write_bytes(data)
    hub.add_repo("acme/disk", {"big.gguf": tmp_path / "big.gguf"})
    url = (await ask(f"{hub.url}/acme/disk/resolve/main/big.gguf")).headers["Location"]
    assert (await ask(url)).body == data
    assert (await ask(url, Range="bytes=9000000-19000000")).body == data[9000000:19000001]
    await hub.quiet()
    assert hub.file_bytes("acme/disk") == len(data) + 10000001
    assert hub.file_bytes(REPO) == 0


@pytest.mark.asyncio
async def test_raw_path_is_split_before_it_is_decoded(hub: Hub) -> None:
    hub.add_repo(REPO, {"x.txt": b"from a pull"}, branch="refs/pr/1")
    base = f"{hub.url}/{REPO}/resolve"
    assert (await ask(f"{base}/main/sub%20dir/notes%20%231.txt")).body == b"notes\n"
    assert (await ask(f"{base}/refs%2Fpr%2F1/x.txt")).body == b"from a pull"
    assert (await ask(f"{base}/refs/pr/1/x.txt?download=true")).body == b"from a pull"
    assert (await ask(f"{base}/main/empty.txt")).body == b""


@pytest.mark.asyncio
async def test_branch_moves_and_old_commits_stay(hub: Hub) -> None:
    old = hub.add_repo(REPO, {"a.txt": b"1"})
    new = hub.add_repo(REPO, {"a.txt": b"2"})
    assert old != new
    for revision, content in [("main", b"2"), (old, b"1"), (old[:8], b"1"), ("HEAD", b"2")]:
        reply = await ask(f"{hub.url}/{REPO}/resolve/{revision}/a.txt")
        assert (reply.status, reply.body) == (200, content)
    info = await ask(f"{hub.url}/api/models/{REPO}/revision/{old}")
    assert info.json["sha"] == old
    assert hub.add_repo(REPO, {"a.txt": b"1"}) == old


@pytest.mark.asyncio
async def test_datasets_spaces_and_one_word_repos_have_their_routes(hub: Hub) -> None:
    hub.add_repo("acme/data", {"d.csv": b"d"}, kind="datasets")
    hub.add_repo("acme/data", {"d.csv": b"s"}, kind="spaces")
    hub.add_repo("gpt2", {"d.csv": b"g"})
    for path, api, content in [
        ("datasets/acme/data", "datasets/acme/data", b"d"),
        ("spaces/acme/data", "spaces/acme/data", b"s"),
        ("gpt2", "models/gpt2", b"g"),
    ]:
        assert (await ask(f"{hub.url}/{path}/resolve/main/d.csv")).body == content
        info = await ask(f"{hub.url}/api/{api}")
        assert info.json["siblings"] == [{"rfilename": "d.csv"}]
    assert (await ask(f"{hub.url}/acme/data/resolve/main/d.csv")).status == 401


@pytest.mark.asyncio
async def test_siblings_have_sizes_and_digests_when_blobs_are_asked_for(hub: Hub) -> None:
    info = (await ask(f"{hub.url}/api/models/{REPO}/revision/main?blobs=true")).json
    by_name = {entry["rfilename"]: entry for entry in info["siblings"]}
    assert by_name["config.json"] == {
        "rfilename": "config.json",
        "size": len(CONFIG),
        "blobId": git_id(CONFIG).value,
    }
    lfs = by_name["model.safetensors"]["lfs"]
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    pointer = await ask(f"{hub.url}/{REPO}/raw/main/model.safetensors")
    assert lfs == {"sha256": digest, "size": len(WEIGHTS), "pointerSize": len(pointer.body)}
    assert f"oid sha256:{digest}\n" in pointer.body.decode()
    assert by_name["model.safetensors"]["blobId"] == git_id(pointer.body).value


@pytest.mark.asyncio
async def test_tree_lists_one_folder_or_everything(hub: Hub) -> None:
    base = f"{hub.url}/api/models/{REPO}/tree/main"
    top = (await ask(base)).json
    assert [item["path"] for item in top] == [
        "config.json",
        "empty.txt",
        "model.safetensors",
        "sub dir",
    ]
    assert [item["type"] for item in top] == ["file", "file", "file", "directory"]
    assert len(top[2]["xetHash"]) == 64 and "sha256" not in top[2]["lfs"]
    everything = (await ask(f"{base}?recursive=true&expand=false")).json
    assert "sub dir/notes #1.txt" in [item["path"] for item in everything]
    below = (await ask(f"{base}/sub%20dir")).json
    assert [item["path"] for item in below] == ["sub dir/notes #1.txt"]
    probe = await ask(f"{base}/additional_chat_templates")
    assert (probe.status, probe.headers["X-Error-Code"]) == (404, "EntryNotFound")


@pytest.mark.asyncio
async def test_git_ids_of_folders_are_gits_own(tmp_path: Path) -> None:
    async with Hub(options=HubOptions(announces_xet=False)) as hub:
        hub.add_repo("acme/git", {"a/b/c.txt": b"c\n", "a-x": b"x\n", "a/d": b"d\n"})
        tree = (await ask(f"{hub.url}/api/models/acme/git/tree/main?recursive=1")).json
    work = tmp_path / "git"
    (work / "a/b").mkdir(parents=True)
    for name, data in (("a/b/c.txt", b"c\n"), ("a-x", b"x\n"), ("a/d", b"d\n")):
        (work / name).write_bytes(data)
    script = "git init -q . && git add . && git ls-tree -r -t $(git write-tree)"
    process = await asyncio.create_subprocess_shell(
        script, cwd=work, stdout=asyncio.subprocess.PIPE
    )
    output = (await process.communicate())[0].decode()
    theirs = {line.split("\t")[1]: line.split()[2] for line in output.splitlines()}
    assert {item["path"]: item["oid"] for item in tree} == theirs


@pytest.mark.asyncio
async def test_tree_pages_are_linked_by_absolute_address(hub: Hub) -> None:
    hub.options.tree_page = 2
    url, paths = f"{hub.url}/api/models/{REPO}/tree/main?recursive=true", []
    while url:
        page = await ask(url)
        paths += [item["path"] for item in page.json]
        link = page.headers.get("Link", "")
        assert not link or (link.startswith(f"<{hub.url}/") and link.endswith('>; rel="next"'))
        url = link[1 : link.index(">")] if link else ""
    assert len(paths) == len(set(paths)) == 5
    assert len(hub.requests(contains="/tree/")) == 3


@pytest.mark.asyncio
async def test_paths_info_takes_a_form_and_json(hub: Hub) -> None:
    url = f"{hub.url}/api/models/{REPO}/paths-info/main"
    form = aiohttp.FormData([("paths", "config.json"), ("paths", "nope"), ("expand", "False")])
    body = json.dumps({"paths": ["config.json", "nope"], "expand": False}).encode()
    replies = [
        await ask(url, "POST", data=form),
        await ask(url, "POST", data=body, Content_Type="application/json"),
    ]
    for reply in replies:
        assert [item["path"] for item in reply.json] == ["config.json"]


@pytest.mark.asyncio
async def test_refs_name_the_branches(hub: Hub) -> None:
    commit = hub.add_repo(REPO, {"a": b"a"}, branch="dev")
    refs = (await ask(f"{hub.url}/api/models/{REPO}/refs")).json
    found = {branch["name"]: branch for branch in refs["branches"]}
    assert found["dev"] == {"name": "dev", "ref": "refs/heads/dev", "targetCommit": commit}
    assert "main" in found and "pullRequests" not in refs


@pytest.mark.asyncio
async def test_errors_carry_the_hubs_codes(hub: Hub) -> None:
    hub.add_repo("acme/other", {"a": b"a"}, tokens=["hf_known"])
    bearer = "Bearer hf_known"
    cases = [
        ("acme/nope/resolve/main/a", "", 401, "RepoNotFound"),
        ("acme/nope/resolve/main/a", bearer, 404, "RepoNotFound"),
        ("api/models/acme/nope", "", 401, "RepoNotFound"),
        (f"{REPO}/resolve/nope/config.json", "", 404, "RevisionNotFound"),
        (f"{REPO}/resolve/main/nope.json", "", 404, "EntryNotFound"),
        ("api/agent-harnesses", "", 404, None),
        (f"api/models/{REPO}/xet-read-token/main", "", 404, None),
        ("acme/other/resolve/main/a", "Bearer hf_unknown", 401, None),
    ]
    for path, token, status, code in cases:
        headers = {"Authorization": token} if token else {}
        reply = await ask(f"{hub.url}/{path}", **headers)
        assert (reply.status, reply.headers.get("X-Error-Code")) == (status, code), path
        assert reply.json["error"]
    missing = await ask(f"{hub.url}/{REPO}/resolve/main/nope.json", "HEAD")
    assert len(missing.headers["X-Repo-Commit"]) == 40


@pytest.mark.asyncio
async def test_private_repo_looks_unknown_without_its_token(hub: Hub) -> None:
    hub.add_repo("acme/secret", {"a.txt": b"a"}, private=True, tokens=["hf_mine"])
    hub.add_repo("acme/else", {"a.txt": b"a"}, private=True, tokens=["hf_other"])
    for path in ("acme/secret/resolve/main/a.txt", "api/models/acme/secret"):
        url = f"{hub.url}/{path}"
        unknown = await ask(url.replace("secret", "absent"))
        anonymous = await ask(url)
        assert (anonymous.status, anonymous.body) == (401, unknown.body)
        assert (await ask(url, Authorization="Bearer hf_other")).status == 404
        assert (await ask(url, Authorization="Bearer hf_mine")).status == 200


@pytest.mark.asyncio
async def test_gated_repo_lists_its_files_and_keeps_them(hub: Hub) -> None:
    hub.add_repo("acme/gated", FILES, gated="manual", tokens=["hf_granted"])
    hub.add_repo("acme/else", {"a": b"a"}, tokens=["hf_other"])
    info = await ask(f"{hub.url}/api/models/acme/gated?blobs=true")
    assert info.status == 200 and info.json["gated"] == "manual"
    for name in ("config.json", "model.safetensors"):
        url = f"{hub.url}/acme/gated/resolve/main/{name}"
        for token, status in [("", 401), ("Bearer hf_other", 403)]:
            reply = await ask(url, **({"Authorization": token} if token else {}))
            assert (reply.status, reply.headers["X-Error-Code"]) == (status, "GatedRepo")
            assert "Location" not in reply.headers
        assert (await ask(url, Authorization="Bearer hf_granted")).status in (200, 302)


@pytest.mark.asyncio
async def test_whoami_knows_the_tokens_of_repos(hub: Hub) -> None:
    hub.add_repo("acme/else", {"a": b"a"}, tokens=["hf_other"])
    url = f"{hub.url}/api/whoami-v2"
    assert (await ask(url)).status == 401
    assert (await ask(url, Authorization="Bearer hf_other")).json["type"] == "user"


@pytest.mark.asyncio
async def test_small_files_can_redirect_to_the_relative_cache(hub: Hub) -> None:
    hub.options.uses_resolve_cache = True
    for name, content in (("config.json", CONFIG), ("sub%20dir/notes%20%231.txt", b"notes\n")):
        first = await ask(f"{hub.url}/{REPO}/resolve/main/{name}", "HEAD")
        assert first.status == 307
        assert first.headers["Location"].startswith(f"/api/resolve-cache/models/{REPO}/")
        second = await ask(hub.url + first.headers["Location"])
        assert (second.status, second.body) == (200, content)
        assert second.headers["X-Repo-Commit"] == first.headers["X-Repo-Commit"]


@pytest.mark.asyncio
async def test_without_xet_nothing_speaks_of_it(hub: Hub) -> None:
    hub.options.announces_xet = False
    first = await ask(f"{hub.url}/{REPO}/resolve/main/model.safetensors", "HEAD")
    tree = await ask(f"{hub.url}/api/models/{REPO}/tree/main")
    assert not [text for text in first.headers if "xet" in text.lower()]
    assert "Link" not in first.headers and b"xetHash" not in tree.body


@pytest.mark.asyncio
async def test_page_of_another_web_origin_may_read_and_preflight(hub: Hub) -> None:
    url = f"{hub.url}/{REPO}/resolve/main/config.json"
    preflight = await ask(
        url, "OPTIONS", Origin="https://page.test", Access_Control_Request_Headers="authorization"
    )
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Headers"] == "authorization"
    reply = await ask(url, Origin="https://page.test")
    assert reply.headers["Access-Control-Allow-Origin"] == "https://page.test"
