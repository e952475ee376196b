"""The process of one side of a comparison: JSON lines in, JSON lines out.

`python -m affect_jax.benchmark.worker SUITE SIDE` is started by `drive`. SIDE is "ours", or a mode
of the peer. Requests are `{"id", "do", ...}`:

  build    case, steps -> seconds, and what is known; ours are built in threads, several at once
  measure  name -> value: the figure of one run
  profile  name -> the summary of `kernels`, or null
  about    -> device and versions
  stop     begin no further build; those not begun are answered with an error
"""

import concurrent.futures
import functools
import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from affect_jax.benchmark import kernels
from affect_jax.benchmark.cases import Case

OURS = "ours"
_THREADS = 3  # programs of ours compiled at once


class Worker:
    """Cases that are built here, and answers to requests about them."""

    def __init__(self, suite: str, side: str):
        self.suite = importlib.import_module(f"affect_jax.benchmark.{suite}")
        self.side = side
        self.built: dict[str, Any] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request; an error becomes `{"error"}`."""
        try:
            return self._answer(request)
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"[:600]}

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request["do"] == "stop":
            return {}
        if request["do"] == "about":
            return self.suite.about(self.side)
        if request["do"] == "build":
            case, start = Case(**request["case"]), time.perf_counter()
            run, about = self.suite.build(case, self.side, request["steps"])
            self.built[case.name] = run
            return {"seconds": time.perf_counter() - start, **about}
        run = self.built[request["name"]]
        if request["do"] == "measure":
            value = run()
            return {"value": value, **getattr(run, "about", {})}
        steps = request["steps"]
        run.take(steps)
        return {"profile": kernels.profile(lambda: run.take(steps), steps)}


def main(arguments: list[str] | None = None) -> int:
    """Answer requests until the input ends."""
    suite, side = sys.argv[1:] if arguments is None else arguments
    # What libraries print must not get between the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lock = threading.Lock()
    worker = Worker(suite, side)

    def send(identity: int, answer: Callable[[], dict[str, Any]]) -> None:
        line = json.dumps({"id": identity, **answer()})
        with lock:
            out.write(line + "\n")
            out.flush()

    def refuse_if_cancelled(identity: int, build: concurrent.futures.Future) -> None:
        if build.cancelled():
            send(identity, lambda: {"error": "not begun before the deadline"})

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for line in sys.stdin:
            request = json.loads(line)

            def answer(request=request):
                return worker.answer(request)

            if request["do"] == "stop":
                pool.shutdown(wait=False, cancel_futures=True)
            elif request["do"] == "build" and side == OURS:
                build = pool.submit(send, request["id"], answer)
                build.add_done_callback(functools.partial(refuse_if_cancelled, request["id"]))
            else:
                send(request["id"], answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
