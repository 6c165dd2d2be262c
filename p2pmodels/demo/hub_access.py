"""Who may read what on the demo hub.

1. An unknown repo and a private one that the caller may not read look the same.
2. A token that nobody has is refused everywhere, even for public repos.
3. The listing of a gated repo is public, its files need a token that was granted.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from p2pmodels.core.names import RepoId
from p2pmodels.demo.hub_bodies import Refused
from p2pmodels.demo.hub_repos import HubRepo, Json

BAD_TOKEN = "Invalid credentials in Authorization header"  # noqa: S105  the hub's message


def token_of(request: web.BaseRequest, repos: Mapping[RepoId, HubRepo]) -> str | None:
    """The caller's token, None for anonymous. Raises Refused for one that nobody has."""
    text = request.headers.get("Authorization", "")
    if not text:
        return None
    token = text.removeprefix("Bearer ")
    if not any(token in repo.tokens for repo in repos.values()):
        raise Refused(401, "", BAD_TOKEN)
    return token


def find_repo(repos: Mapping[RepoId, HubRepo], repo: RepoId | None, token: str | None) -> HubRepo:
    """The repo, if the caller may know of it. Raises Refused."""
    found = repos.get(repo) if repo else None
    if found is None or (found.private and token not in found.tokens):
        text = "Repository not found" if token else "Invalid username or password."
        raise Refused(404 if token else 401, "RepoNotFound", text)
    return found


def check_gate(token: str | None, repo: HubRepo) -> None:
    """Refuse the files of a gated repo to those who were not granted access."""
    if not repo.gated or token in repo.tokens:
        return
    text = f"Access to model {repo.repo.name} is restricted"
    if token is None:
        text += ". You must have access to it and be authenticated to access it. Please log in."
        raise Refused(401, "GatedRepo", text)
    raise Refused(403, "GatedRepo", f"{text} and you are not in the authorized list.")


def whoami(token: str | None) -> Json:
    """The answer of `/api/whoami-v2`."""
    if token is None:
        raise Refused(401, message="Invalid username or password.")
    access = {"displayName": "demo", "role": "read"}
    auth = {"type": "access_token", "accessToken": access}
    return {"type": "user", "id": "demo", "name": "demo", "orgs": [], "auth": auth}
