"""The inference benchmark: its rows, and what it refuses."""

import json

from affect_jax.benchmark import __main__ as command


def test_every_context_is_compared_with_the_plain_model(tmp_path, capsys):
    file = tmp_path / "rows.json"
    sizes = ["--batch_size", "8", "--image_size", "32", "--repeats", "2"]
    assert not command.main(["infer", "--system", "rald_synthetic", *sizes, "--json", str(file)])
    rows = json.loads(file.read_text())
    names = [row["case"].rsplit(", ", 1)[1] for row in rows]
    assert names == ["without relations", "bank", "self", "batch"]
    assert rows[0]["ratio"] is None
    for row in rows[1:]:
        assert row["ratio"] == row["value"] / rows[0]["value"] > 0


def test_a_config_without_relations_is_refused(capsys):
    assert command.main(["infer", "--system", "resnet18_faces", "--repeats", "1"]) == 2
    assert "resnet18_faces.py has no model.relations" in capsys.readouterr().err
