"""Build cases side by side in processes, then measure them in turn.

PyTorch and JAX each want a device's memory, and compiling takes most of the time of a short loan of
one. So each side has a process: one for ours, which compiles several programs at once, one for the
eager peers, and one for each compiled peer. All build until a deadline. Then only one measures at a
time: ours, eager, compiled, the next case, and the same again in the next round.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from affect_jax.benchmark.cases import Case
from affect_jax.benchmark.worker import OURS, Worker

_ROOT = pathlib.Path(__file__).parents[2]
_COMPILED_AT_ONCE = 3
_TAIL = 600  # characters of a dead process's log that are shown
# Ours takes half of a GPU's memory at once, and leaves the rest to the peers.
_ENVIRONMENT = {
    True: {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"},
    # The peer's process uses JAX for its config alone.
    False: {"JAX_PLATFORMS": "cpu"},
}


@dataclasses.dataclass
class Options:
    """How a plan is run.

    Attributes:
      suite: module of this package with `build` and `about`.
      modes: of the peers, "eager" and "compile"; empty: ours alone.
      steps: per measurement.
      repeats: rounds.
      build_deadline, deadline: seconds from the beginning until builds are given up, and until the
        last measurement begins.
      profile: names of the cases that are profiled at the end.
      environment: further variables of our process.
      processes: one for each side; False: all in this one, one after the other.
    """

    suite: str
    modes: Sequence[str] = ()
    steps: int = 20
    repeats: int = 3
    build_deadline: float = 1e9
    deadline: float = 1e9
    profile: Sequence[str] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    processes: bool = True


@dataclasses.dataclass
class Results:
    """What is known so far; keys are (case, side).

    Attributes:
      figures: images a second, one each round.
      built: answers to `build`, with `seconds`.
      about: side -> device and versions.
      errors: why something has no figure.
      profiles: case -> summary of kernels, of ours.
    """

    figures: dict[tuple[str, str], list[float]] = dataclasses.field(default_factory=dict)
    built: dict[tuple[str, str], dict[str, Any]] = dataclasses.field(default_factory=dict)
    about: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    errors: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    profiles: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


Answer = Callable[[float | None], dict[str, Any]]


class Local:
    """The side of a comparison in this process; it answers at once."""

    def __init__(self, suite: str, side: str):
        self.side = side
        self._worker = Worker(suite, side)

    def send(self, **request: Any) -> Answer:
        """Answer a request; the function returned gives the answer."""
        answer = self._worker.answer(request)

        def wait(timeout: float | None) -> dict[str, Any]:
            return answer

        return wait

    def kill(self) -> None:
        """Do nothing: there is no process to end."""


class Child:
    """A process of `worker`; requests may be answered in any order."""

    def __init__(self, suite: str, side: str, folder: str, environment: Mapping[str, str]):
        self.side = side
        self.log = pathlib.Path(folder) / f"{side}-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "affect_jax.benchmark.worker", suite, side]
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **_ENVIRONMENT[side == OURS], **environment, "PYTHONPATH": path},
            )
        self._waiting: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._count = 0
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                waiting = self._waiting.pop(answer.pop("id"))
            waiting.put(answer)
        self._process.wait()
        with self._lock:
            self._ended = True
            left, self._waiting = self._waiting, {}
        for waiting in left.values():
            waiting.put(self._dead())

    def _dead(self) -> dict[str, Any]:
        tail = ""
        with contextlib.suppress(FileNotFoundError):  # all is over, and the folder is gone
            tail = self.log.read_text(errors="replace").strip()[-_TAIL:]
        return {"error": f"the process ended with status {self._process.returncode}: {tail}"}

    def send(self, **request: Any) -> Answer:
        """Send a request; return a function that waits for its answer, or queue.Empty."""
        answers: queue.Queue[dict[str, Any]] = queue.Queue()
        with self._lock:
            if self._ended:
                answers.put(self._dead())
            else:
                self._count += 1
                self._waiting[self._count] = answers
                assert self._process.stdin is not None
                with contextlib.suppress(OSError):  # it has just died: `_read` answers
                    self._process.stdin.write(json.dumps({"id": self._count, **request}) + "\n")
                    self._process.stdin.flush()

        def wait(timeout: float | None) -> dict[str, Any]:
            return answers.get(timeout=timeout)

        return wait

    def kill(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


Side = Child | Local


class Drive:
    """One run of a plan.

    Args:
      cases: in order of importance.
      options: see there.
      changed: called after each figure with the results, so that none is lost.
    """

    def __init__(self, cases: Sequence[Case], options: Options, changed: Callable[[Results], None]):
        self.cases, self.options, self._changed = cases, options, changed
        self.results = Results()
        self._start = time.monotonic()
        self._children: dict[tuple[str, str], Side] = {}
        self._pending: dict[tuple[str, str], tuple[Side, Answer]] = {}
        self._all: list[Side] = []
        self._lock = threading.Lock()

    def run(self) -> Results:
        """Build, measure, profile; return what was found before the deadline."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._build(folder)
                self._measure()
                self._profile()
            finally:
                for child in self._all:
                    child.kill()
        return self.results

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:5.0f} s] {text}", flush=True)

    def _left(self, deadline: float) -> float:
        return deadline - (time.monotonic() - self._start)

    def _child(self, side: str, folder: str) -> Side:
        environment = self.options.environment if side == OURS else {}
        child: Side
        if self.options.processes:
            child = Child(self.options.suite, side, folder, environment)
        else:
            child = Local(self.options.suite, side)
        with self._lock:
            self._all.append(child)
        return child

    # ------------------------------------------------------------------ building

    def _build(self, folder: str) -> None:
        """Build all cases at once; give up what is not ready at the deadline."""
        threads = [threading.Thread(target=self._build_ours, args=(folder,), daemon=True)]
        for mode in self.options.modes:
            count = _COMPILED_AT_ONCE if mode != "eager" else 1
            waiting: queue.Queue[Case] = queue.Queue()
            for case in self.cases:
                if case.peer:
                    waiting.put(case)
            for _ in range(min(count, waiting.qsize())):
                arguments = (mode, waiting, folder)
                threads.append(
                    threading.Thread(target=self._build_peers, args=arguments, daemon=True)
                )
        for thread in threads:
            thread.start()
            if not self.options.processes:
                thread.join()
        for thread in threads:
            thread.join(max(self._left(self.options.build_deadline) + 5, 0))
        with self._lock:
            # A peer that still compiles would disturb the measurements. Ours share a process, which
            # finishes what it has begun, see `_until`.
            used = {id(child) for child in self._children.values()}
            for child in self._all:
                if id(child) not in used and child.side != OURS:
                    child.kill()
                elif child.side == OURS:
                    child.send(do="stop")
        for case in self.cases:
            for side in self._sides(case):
                if not self.results.built.keys() | self.results.errors.keys() >= {
                    (case.name, side)
                }:
                    self._say(f"{case.name}, {side}: not built before the deadline")

    def _sides(self, case: Case) -> list[str]:
        return [OURS, *(self.options.modes if case.peer else ())]

    def _build_ours(self, folder: str) -> None:
        child = self._child(OURS, folder)
        self._ask_about(child)
        answers = [(case, self._request(child, case)) for case in self.cases]
        for case, answer in answers:
            self._record(case, child, answer)

    def _build_peers(self, mode: str, waiting: "queue.Queue[Case]", folder: str) -> None:
        """Build the peers that wait: in one process if eager, else in one each."""
        child = None
        while self._left(self.options.build_deadline) > 0:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                return
            if child is None or mode != "eager":
                child = self._child(mode, folder)
                self._ask_about(child)
            self._record(case, child, self._request(child, case))

    def _ask_about(self, child: Side) -> None:
        with contextlib.suppress(queue.Empty):
            answer = child.send(do="about")(max(self._left(self.options.build_deadline), 0))
            if "error" not in answer:
                self.results.about[child.side] = answer

    def _request(self, child: Side, case: Case) -> Answer:
        return child.send(do="build", case=dataclasses.asdict(case), steps=self.options.steps)

    def _record(self, case: Case, child: Side, answer: Answer, until: float | None = None) -> None:
        key = (case.name, child.side)
        try:
            until = self.options.build_deadline if until is None else until
            found = answer(max(self._left(until), 0))
        except queue.Empty:
            self._pending[key] = child, answer
            return
        with self._lock:
            if "error" in found:
                self._fail(key, found["error"])
                return
            self.results.built[key] = found
            self._children[key] = child
        self._say(f"built {case.name}, {child.side}: {found['seconds']:.0f} s")

    def _fail(self, key: tuple[str, str], error: str) -> None:
        self.results.errors[key] = error
        self._say(f"{key[0]}, {key[1]}: {error}")

    # ----------------------------------------------------------------- measuring

    def _turns(self) -> Iterator[tuple[str, str]]:
        for case in self.cases:
            for side in self._sides(case):
                if (case.name, side) in self._children and (
                    case.name,
                    side,
                ) not in self.results.errors:
                    yield case.name, side

    def _until(self, side: str) -> float:
        """Return how long a build that has begun is waited for.

        Compiling during the measurements made figures vary fourfold, so that half of the time that
        is left for them goes into waiting for ours, which cannot be stopped.
        """
        builds, all_ = self.options.build_deadline, self.options.deadline
        return (builds + all_) / 2 if side == OURS else builds

    def _measure(self) -> None:
        for number in range(self.options.repeats):
            pending, self._pending = self._pending, {}
            for case in self.cases:
                for side in self._sides(case):
                    if (case.name, side) in pending:
                        self._record(case, *pending[case.name, side], self._until(side))
            for key in list(self._turns()):
                if self._left(self.options.deadline) <= 0:
                    self._say(f"the deadline is over in round {number + 1}")
                    return
                answer = self._ask(key, do="measure")
                if "error" in answer:
                    self._fail(key, answer["error"])
                    continue
                self.results.figures.setdefault(key, []).append(answer.pop("value"))
                self.results.built[key] |= answer
                figure = self.results.figures[key][-1]
                self._say(f"round {number + 1} {key[0]}, {key[1]}: {figure:.4g}")
                self._changed(self.results)

    def _ask(self, key: tuple[str, str], **request: Any) -> dict[str, Any]:
        """Return an answer; a process that takes much longer than planned is given up."""
        try:
            most = max(self._left(self.options.deadline), 0) + 60
            most = min(most, threading.TIMEOUT_MAX)
            return self._children[key].send(name=key[0], **request)(most)
        except queue.Empty:
            return {"error": "no answer before the deadline"}

    def _profile(self) -> None:
        for name in self.options.profile:
            key = (name, OURS)
            if key not in self._children or self._left(self.options.deadline) <= 0:
                self._say(f"{name}: not profiled")
                continue
            answer = self._ask(key, do="profile", steps=self.options.steps)
            if answer.get("profile"):
                self.results.profiles[name] = answer["profile"]
                self._changed(self.results)
            none = "this device records no kernels"
            self._say(
                f"{name}: {answer.get('error') or ('profiled' if answer['profile'] else none)}"
            )
