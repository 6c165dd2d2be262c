"""How the lab orders a program in a namespace about: one JSON object a line, one answer a line.

1. A program prints `ready` when everything it needs is imported, then waits for orders: none of its
   start-up counts in a measurement.
2. An order that fails is answered by `{"error": …}`; the program goes on.
3. Moments are `time.monotonic()`, which all processes of a machine share.

Runs inside the programs; the lab's end of the line is `machines.Agent`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]
Handler = Callable[[Json], Json]


def obey(handlers: Mapping[str, Handler]) -> None:
    """Follow orders until the input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = handlers[order.pop("do")](order)
        except Exception as error:  # the lab decides what a failure means
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), flush=True)
