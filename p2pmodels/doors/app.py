"""The local endpoint as one aiohttp application: the guard in front, then one door for each path.

Errors of ours become answers in one place; anything else becomes a 500 that tells nothing of the
inside.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from p2pmodels.core.secret import Secret
from p2pmodels.doors import views
from p2pmodels.doors.answers import Answers, arrived, error_answer
from p2pmodels.doors.browser import TRY_PATH, BrowserDoor
from p2pmodels.doors.control import ControlDoor
from p2pmodels.doors.files import FilesDoor
from p2pmodels.doors.guard import GuardOptions, allowed_origin, cors_headers, guard
from p2pmodels.doors.hub import HubDoor
from p2pmodels.doors.page import PageDoor
from p2pmodels.doors.parts import Parts
from p2pmodels.doors.sending import reset
from p2pmodels.doors.torrents import TorrentsDoor
from p2pmodels.errors import NotFound, Overloaded, P2PModelsError, UsageError
from p2pmodels.metrics import ANSWERS, exposition

log = logging.getLogger(__name__)


class NoBrokenRequests(logging.Filter):
    """Keeps requests that are not HTTP out of the log: their bytes may hold a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


logging.getLogger("aiohttp.server").addFilter(NoBrokenRequests())

BODY_LIMIT = 1 << 20  # bytes; only paths-info needs more than a few hundred

_DOORS = {
    "api": "api",
    "files": "files",
    "snapshots": "files",
    "webseed": "files",
    "": "page",
    "try": "page",
    "torrents": "files",
}


class NoSuchMethod(UsageError):
    """The method is not offered for this address."""

    code, status = "bad_method", 405


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error becomes an answer, or a broken connection when the body had begun."""
    arrived(request)
    try:
        return await handler(request)
    except P2PModelsError as error:
        if request.get("has_begun") is None:
            return error_answer(error)
        log.warning("%s %s broken off: %s", request.method, request.path, error)
        reset(request)
        return _begun(request)
    except web.HTTPMethodNotAllowed as error:
        answer = error_answer(NoSuchMethod(request.method))
        answer.headers[hdrs.ALLOW] = ", ".join(sorted(error.allowed_methods))
        return answer
    except web.HTTPNotFound:
        return error_answer(NotFound("no such page"))
    except ConnectionError:
        if request.get("has_begun") is None:
            raise
        return _begun(request)  # the client has gone: that is nobody's error
    except web.HTTPException:
        raise
    except Exception:
        log.exception("%s %s", request.method, request.path)
        if request.get("has_begun") is None:
            return error_answer(P2PModelsError("an error inside the daemon"))
        reset(request)
        return _begun(request)


def _begun(request: web.Request) -> web.StreamResponse:
    """The answer whose headers have gone; aiohttp finds its connection closed and leaves it."""
    response: web.StreamResponse = request["has_begun"]
    return response


def local_app(
    parts: Parts, options: GuardOptions, token: Secret, browser: BrowserDoor, tracker: str = ""
) -> web.Application:
    """The application of the local endpoint; `tracker` is the URL that its torrents name."""
    options = replace(options, open_paths=browser.paths - {TRY_PATH})
    app = web.Application(middlewares=[errors, guard(options)], client_max_size=BODY_LIMIT)

    async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
        request["has_begun"] = response
        for name, value in cors_headers(request, options).items():
            response.headers.setdefault(name, value)
        door = _DOORS.get(request.path.removeprefix("/").partition("/")[0], "hub")
        ANSWERS.labels(door, str(response.status)).inc()

    app.on_response_prepare.append(on_prepare)
    answers = Answers(parts.lane, parts.store.figures)
    control = ControlDoor(parts, token)
    control.add_routes(app)
    page, files = PageDoor(), FilesDoor(parts, answers, control.is_admitted)
    hub = HubDoor(parts.resolver, parts.fetcher, parts.store, answers)
    add = app.router.add_get
    add("/", page.index)
    add("/static/{name}", page.static)
    browser.add_routes(app)
    add("/healthz", _healthy)
    add("/readyz", _readiness(parts))
    add("/metrics", _metrics(parts))
    add("/files/{sha256}", files.by_digest)
    add("/snapshots/{rest:.+}", files.by_snapshot)
    if tracker:
        web_origin = partial(allowed_origin, options=options)
        TorrentsDoor(parts.sharing.shared, web_origin, tracker, has_files=True).add_routes(app)
    add("/webseed/{rest:.+}", files.by_commit)
    app.router.add_route("*", "/{path:.*}", hub.handle)
    return app


async def _healthy(_request: web.Request) -> web.Response:
    """The process answers."""
    return web.json_response({"status": "ok"}, headers={hdrs.CACHE_CONTROL: "no-store"})


def _readiness(parts: Parts) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        """The store can be read: a dead disk must not look alive."""
        try:
            await parts.lane.run(parts.store.blobs.free_bytes)
        except P2PModelsError as error:
            raise Overloaded(str(error)) from error
        return web.json_response({"status": "ready", "parts": parts.identity.states})

    return handler


def _metrics(parts: Parts) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        views.update_gauges(parts)
        return web.Response(
            body=exposition(), headers={hdrs.CONTENT_TYPE: "text/plain; version=0.0.4"}
        )

    return handler
