import json
import mmap

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from affect_jax.benchmark import __main__ as command
from affect_jax.benchmark import input as input_suite
from affect_jax.benchmark import input_peer, suite


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        pixels = rng.integers(0, 255, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 70)).save(folder / f"{k}.jpg")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_rows_hold_the_median_and_its_spread():
    row = suite.row("s", "c", "m", [3, 1, 2], "u", baseline="b", baseline_figures=[4, 4, 5])
    assert row == {
        "suite": "s",
        "case": "c",
        "metric": "m",
        "value": 2,
        "unit": "u",
        "baseline": "b",
        "ratio": 0.5,
        "n": 3,
        "min": 1,
        "max": 3,
    }
    figures = [2.0], [4.0]
    faster = suite.row("s", "c", "m", figures[0], "u", baseline="b", baseline_figures=figures[1])
    assert faster["ratio"] == 0.5
    lower = suite.row(
        "s", "c", "m", [2.0], "s", baseline="b", baseline_figures=[4.0], lower_is_better=True
    )
    assert lower["ratio"] == 2.0
    assert "0.50 x b" in suite.table([row])


def test_cases_are_measured_in_turn():
    order = []
    cases = {name: (lambda name=name: order.append(name) or len(order)) for name in "ab"}
    assert suite.in_turn(cases, 3) == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert "".join(order) == "ababab"


def test_reference_path_delivers_normalised_tensors():
    data = simplejpeg.encode_jpeg(np.full((300, 350, 3), 128, np.uint8))
    seen = [input_peer.transform(data, np.random.default_rng(k)) for k in range(8)]
    assert {(x.shape, str(x.dtype)) for x in seen} == {((3, 224, 224), "float32")}
    assert any((x[0] == 0).mean() > 0.01 for x in seen)  # erased
    assert np.ptp([x[0, 112, 112] for x in seen]) > 0.1  # jittered


def test_hue_shift_turns_colours():
    red = Image.new("RGB", (2, 2), (200, 40, 40))
    assert input_peer._shift_hue(red, 1 / 3).getpixel((0, 0))[1] > 150
    assert input_peer._shift_hue(red, 0.0).getpixel((0, 0)) == (200, 40, 40)


def test_input_suite_runs_on_a_folder(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(input_suite, "_PLAN_FRAMES", 20_000)
    output = tmp_path / "rows.json"
    arguments = ["--images", str(photos), "--count", "64", "--repeats", "1"]
    arguments += ["--memory_images", "256", "--workers", "0", "--json", str(output)]
    assert command.main(["input", *arguments]) == 0
    results = json.loads(output.read_text())
    keys = {"suite", "case", "metric", "value", "unit", "baseline", "ratio", "n", "min", "max"}
    assert all(r.keys() == keys and r["suite"] == "input" for r in results)
    cases = {(r["case"], r["baseline"]) for r in results}
    assert ("one core, 224 px: arbex_heavy", "reference path") in cases
    assert ("one core, 224 px: arbex_heavy", "decoding alone") in cases
    assert ("delivered: 1 thread, 1 core", "plain loop, 1 core") in cases
    assert {r["metric"] for r in results} >= {"images_per_second", "slope", "time", "peak_memory"}
    assert "arbex_heavy" in capsys.readouterr().out


def test_the_rate_of_a_core_and_of_sixteen():
    each, sixteen = input_suite.per_core([2000.0, 1800.0, 2400.0], 2)
    assert (each["metric"], each["value"]) == ("images_per_second_per_core", 1000)
    assert (sixteen["metric"], sixteen["value"]) == ("calculated_for_16_cores", 16_000)
    assert (sixteen["min"], sixteen["max"]) == (14_400, 19_200)


def test_loading_pictures(photos, tmp_path):
    data = input_suite.load(str(photos), 8)
    assert len(data) == 8 and len(set(data)) == 3
    assert all(d[:2] == b"\xff\xd8" for d in input_suite.load(None, 2))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="has no JPEG"):
        input_suite.load(str(tmp_path / "empty"), 8)


def test_resident_memory_counts_what_is_taken():
    before = input_suite.resident_bytes()
    # Mapped afresh: the allocator may hold pages of earlier tests, which are resident already.
    with mmap.mmap(-1, 200_000_000) as block:
        np.ndarray((len(block),), np.uint8, block)[:] = 1
        taken = input_suite.resident_bytes() - before
    assert before == 0 or taken > 100_000_000


def test_unknown_suites_are_refused(capsys):
    assert command.main(["speed"]) == 2
    assert "no suite 'speed'" in capsys.readouterr().err
    assert command.main([]) == 2
    assert command.main(["--help"]) == 0
