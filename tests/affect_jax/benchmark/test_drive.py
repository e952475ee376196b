"""Building side by side and measuring in turn, with a suite that computes nothing."""

import sys
import types

import pytest

from affect_jax.benchmark import drive
from affect_jax.benchmark.cases import Case

CASES = [Case("a", "base", peer="emonet"), Case("b", "base"), Case("c", "base", peer="emonet")]


@pytest.fixture
def suite(monkeypatch):
    """A suite whose n-th measurement gives n; building "c" of the peer fails."""
    order = []

    def build(case, side, steps):
        if (case.name, side) == ("c", "eager"):
            raise ValueError("no memory")

        def run():
            order.append((case.name, side))
            if (case.name, side) == ("b", "ours") and len(order) > 5:
                raise RuntimeError("lost")
            return float(len(order))

        return run, {"steps": steps}

    module = types.SimpleNamespace(build=build, about=lambda side: {"version": side}, order=order)
    monkeypatch.setitem(sys.modules, "affect_jax.benchmark.fake", module)
    return module


def run(cases=CASES, **changes):
    seen = []
    options = drive.Options("fake", modes=("eager",), repeats=2, processes=False, **changes)
    found = drive.Drive(cases, options, lambda r: seen.append(len(r.figures))).run()
    return found, seen


def test_sides_take_turns_and_a_failure_stops_only_its_case(suite, capsys):
    found, seen = run()
    turn = [("a", "ours"), ("a", "eager"), ("b", "ours"), ("c", "ours")]
    assert suite.order == turn + turn
    assert found.figures == {
        ("a", "ours"): [1, 5], ("a", "eager"): [2, 6], ("b", "ours"): [3], ("c", "ours"): [4, 8]
    }  # fmt: skip
    assert found.errors == {
        ("c", "eager"): "ValueError: no memory",
        ("b", "ours"): "RuntimeError: lost",
    }
    assert found.about == {"ours": {"version": "ours"}, "eager": {"version": "eager"}}
    assert found.built["a", "ours"]["steps"] == 20
    assert len(seen) == 7  # after every figure
    assert "round 2 a, eager: 6" in capsys.readouterr().out


def test_nothing_is_measured_after_the_deadline(suite, capsys):
    found, _ = run(deadline=0)
    assert not found.figures and set(found.built) == {
        ("a", "ours"), ("a", "eager"), ("b", "ours"), ("c", "ours")
    }  # fmt: skip
    assert "deadline is over in round 1" in capsys.readouterr().out


def test_a_profile(suite, monkeypatch, capsys):
    summary = {"idle_share": 0.1}
    ordinary = drive.Worker.answer

    def answer(self, request):
        return {"profile": summary} if request["do"] == "profile" else ordinary(self, request)

    monkeypatch.setattr(drive.Worker, "answer", answer)
    found, _ = run(CASES[:2], profile=["a", "c"])
    assert found.profiles == {"a": summary}
    assert "c: not profiled" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_answer_out_of_order_and_may_die(tmp_path):
    child = drive.Child("train", drive.OURS, str(tmp_path), {})
    case = {
        "name": "matrix products, float32",
        "system": "",
        "dtype": "float32",
        "settings": {"size": 8},
    }
    built = child.send(do="build", case=case, steps=1)
    about = child.send(do="about")
    assert about(60)["device"] == "cpu"
    assert built(60)["metric"] == "matmul_float32"
    assert child.send(do="measure", name="matrix products, float32")(60)["value"] > 0
    assert "KeyError" in child.send(do="measure", name="other")(60)["error"]
    child.kill()
    assert "status -9" in child.send(do="about")(60)["error"]
