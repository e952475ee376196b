"""The process of one side of a comparison answers every request."""

import io
import json
import sys
import threading
import types

from affect_jax.benchmark import worker


def test_builds_that_have_not_begun_at_the_stop_are_answered(monkeypatch):
    stopped, out = threading.Event(), io.StringIO()

    def build(case, side, steps):
        assert stopped.wait(10)
        return None, {}

    def requests():
        for number, name in enumerate("abc"):
            case = {"name": name, "system": "base"}
            yield json.dumps({"id": number, "do": "build", "case": case, "steps": 1})
        yield '{"id": 3, "do": "stop"}'
        stopped.set()  # asked for the next line: the stop has been done

    monkeypatch.setitem(
        sys.modules, "affect_jax.benchmark.fake", types.SimpleNamespace(build=build)
    )
    monkeypatch.setattr(worker, "_THREADS", 1)
    monkeypatch.setattr(sys, "stdin", requests())
    streams = types.SimpleNamespace(dup=lambda _: None, dup2=lambda *_: None, fdopen=lambda *_: out)
    monkeypatch.setattr(worker, "os", streams)
    assert worker.main(["fake", worker.OURS]) == 0
    answers = {line.pop("id"): line for line in map(json.loads, out.getvalue().splitlines())}
    assert answers.pop(0)["seconds"] >= 0  # it had begun
    refused = {"error": "not begun before the deadline"}
    assert answers == {1: refused, 2: refused}
