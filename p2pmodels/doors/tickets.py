"""Who may pull: a peer at a home address that shows the ticket it was given over its link.

A ticket is 16 random bytes, 32 hexadecimal digits in the header; it is never logged.
"""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from p2pmodels.core.peer import TICKET_HEADER, PeerId
from p2pmodels.errors import AccessRefused


class Tickets(Protocol):
    """Knows the tickets that were given out."""

    def admits(self, ticket_hex: str) -> PeerId | None: ...


class NotHome(AccessRefused):
    """Only machines of the home networks may link and pull."""

    status = 403
    advice = "Add the machine's network to `lan.networks`."


class TicketNeeded(AccessRefused):
    """A valid ticket is needed."""

    status = 403
    advice = (
        "Daemons give each other tickets over their link; `lan.group_secret_file` must be the same."
    )


def ticket_of(request: web.Request, tickets: Tickets) -> PeerId | None:
    """Whose ticket the request shows, if it is a valid one."""
    values = request.headers.getall(TICKET_HEADER, [])
    return tickets.admits(values[0]) if len(values) == 1 else None


def admitted(request: web.Request, tickets: Tickets) -> PeerId:
    """The peer that the request's ticket was given to. Raises TicketNeeded."""
    peer = ticket_of(request, tickets)
    if peer is None:
        raise TicketNeeded
    return peer
