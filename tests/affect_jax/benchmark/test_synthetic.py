"""The benchmark of the embedded faces: its rows, and the yardstick that they are compared with."""

import json

from affect_jax.benchmark import synthetic


def test_each_case_is_compared_with_the_yardstick(tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert synthetic.main(["--count", "2", "--repeats", "3", "--json", str(path)]) == 0
    yardstick, *cases = json.loads(path.read_text())
    assert yardstick["ratio"] is None
    assert [row["case"] for row in cases] == ["96 px", "128 px", "256 px", "128 px, second camera"]
    for row in cases:
        assert row["baseline"] == yardstick["case"]
        assert row["n"] == 3
        assert row["ratio"] == row["value"] / yardstick["value"] > 0
    assert yardstick["case"] in capsys.readouterr().out
