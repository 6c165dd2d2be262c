"""The child's ends of the slots: bytes of pulls on their way to the daemon, without waiting."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from p2pmodels.core.shard import Status
from p2pmodels.sources.rtc.ipc import RECORD, RECORD_DATA, RECORD_END


class Sluice:
    """One slot; `on_moved` is called when bytes that had to wait have gone."""

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        self._line = line
        self._waiting: deque[memoryview] = deque()
        self.waiting_bytes = 0
        """Bytes that the daemon has not taken yet, besides those in the kernel."""
        self.on_moved: Callable[[], None] = lambda: None

    def write(self, data: memoryview) -> None:
        """Pass on the bytes of one data message."""
        self._put(RECORD.pack(RECORD_DATA, len(data), 0), data)

    def end(self, status: Status, retry_ms: int = 0) -> None:
        """End the pull; the slot is clean afterwards."""
        self._put(RECORD.pack(RECORD_END, status, retry_ms), memoryview(b""))

    def _put(self, head: bytes, data: memoryview) -> None:
        sent = 0
        if not self._waiting:
            try:
                sent = self._line.sendmsg((head, data))
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the daemon is gone, and so shall we be in a moment
        left = len(head) + len(data) - sent
        if not left:
            return
        if not self._waiting:
            asyncio.get_running_loop().add_writer(self._line, self._go_on)
        if sent < len(head):
            self._waiting.append(memoryview(head)[sent:])
            self._waiting.append(data)
        else:
            self._waiting.append(data[sent - len(head) :])
        self.waiting_bytes += left

    def _go_on(self) -> None:
        """The daemon has made room."""
        try:
            while self._waiting:
                sent = self._line.send(self._waiting[0])
                self.waiting_bytes -= sent
                rest = self._waiting.popleft()[sent:]
                if rest:
                    self._waiting.appendleft(rest)
        except BlockingIOError:
            self.on_moved()
            return
        except OSError:
            self._waiting.clear()
            self.waiting_bytes = 0
        asyncio.get_running_loop().remove_writer(self._line)
        self.on_moved()
