"""The smoke benchmark: which configs it runs, what it makes of failures."""

import json
import pathlib

import pytest

from affect_jax import config as config_lib
from affect_jax.benchmark import __main__ as command
from affect_jax.benchmark import smoke
from tests.affect_jax.tiny import ROOT

TINY = """
from configs import quickstart
from ml_collections import ConfigDict

def get_config():
    config = quickstart.get_config()
    config.landmark_stage.steps = 0
    config.loss.heatmap_weight = 0.0
    config.data.image_size = 32
    config.model = ConfigDict(dict(name="vit_ti16", depth=1, regression=True, dtype="float32",
                                   mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)))
    return config
"""


def test_all_configs_are_chosen_and_load():
    chosen = smoke.choose("")
    files = {p.relative_to(ROOT / "configs") for p in (ROOT / "configs").glob("**/*.py")}
    names = {str(p.with_suffix("")) for p in files if p.stem not in ("base", "__init__")}
    assert chosen.keys() == names and "sweeps/arbex_noise" in names
    for path in chosen.values():
        config = config_lib.load_file(path)
        config_lib.check(config)
        class_names, has = smoke.labels(config)
        assert has and (len(class_names) >= 6 or "expression" not in has)


def test_names_patterns_and_files(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text(TINY)
    assert list(smoke.choose("quickstart,configs/fan_300w.py")) == ["quickstart", "fan_300w"]
    assert smoke.choose("vit_se_f*").keys() == {"vit_se_faces", "vit_se_fer2013"}
    assert smoke.choose(str(own)) == {str(own): own}
    with pytest.raises(config_lib.ConfigError, match=r"'quikstart'; did you mean 'quickstart'"):
        smoke.choose("quikstart")


def test_data_sets_tell_their_classes():
    def of(name):
        return smoke.labels(config_lib.load_file(smoke.choose(name)[name]))

    assert (len(of("arbex_rafdb")[0]), of("arbex_rafdb")[1]) == (7, {"expression"})
    assert of("emofan_afewva") == ((), {"valence_arousal", "landmarks"})
    assert of("arbex_ferplus")[1] == {"expression", "expression_probs"}
    assert len(of("quickstart")[0]) == 8
    # Of one's own pictures, what the model has outputs for.
    assert "valence_arousal" in of("emofan_faces")[1]
    assert "valence_arousal" not in of("refine_faces")[1] | of("arbex_faces")[1]


def test_programs_differ_by_what_is_compiled():
    config = config_lib.load_file(smoke.choose("quickstart")["quickstart"])
    key = smoke.program(config, 8, frozenset({"expression"}))
    config.optimizer.learning_rate = 0.5
    config.data.synthetic.num_train = 9
    assert smoke.program(config, 8, frozenset({"expression"})) == key
    assert smoke.program(config, 7, frozenset({"expression"})) != key
    config.optimizer.sam_rho = 0.05
    assert smoke.program(config, 8, frozenset({"expression"})) != key


def test_a_config_is_trained_and_evaluated(tmp_path, capsys):
    first, again, broken = (tmp_path / name for name in ("first.py", "again.py", "broken.py"))
    first.write_text(TINY)
    again.write_text(TINY.replace("return", "config.seed = 5\n    return"))
    broken.write_text(TINY.replace('"vit_ti16"', '"vit_ti61"'))
    output = tmp_path / "rows.json"
    names = ",".join(map(str, (first, again, broken)))
    assert command.main(["smoke", "--configs", names, "--json", str(output)]) == 1
    printed = capsys.readouterr().out
    assert f"as {first}" in printed and "2 of 3 configs" in printed
    assert "ConfigError: config.model" in printed and "did you mean 'vit_ti16'" in printed
    rows = json.loads(output.read_text())
    found = {(pathlib.Path(r["case"]).name, r["metric"]): r["value"] for r in rows}
    assert found["first.py", "train_step"] == found["first.py", "evaluation_step"] == 1
    assert found["first.py", "parameters"] == found["again.py", "parameters"] > 400_000
    assert found["broken.py", "train_step"] == found["broken.py", "evaluation_step"] == 0
    assert {"suite", "case", "metric", "value", "unit", "baseline", "ratio", "n", "min", "max"} < (
        rows[0].keys()
    )
    assert "cpu" in rows[0]["device"]


def test_a_config_on_features_is_trained_and_evaluated():
    outcome = smoke.run("linear_probe", ROOT / "configs" / "linear_probe.py", {})
    assert outcome.train and outcome.evaluation and not outcome.note
    assert outcome.parameters == 8 * 512 + 8


def test_figures_that_are_no_numbers_fail_and_unknown_names_are_refused(capsys):
    with pytest.raises(FloatingPointError, match="evaluation: not finite: nll"):
        smoke.check_finite({"accuracy": 0.5, "nll": float("nan")}, "evaluation")
    with pytest.raises(FloatingPointError):
        smoke.check_finite({}, "evaluation")
    assert command.main(["smoke", "--configs", "nothing"]) == 2
    assert "no config 'nothing'" in capsys.readouterr().err


def test_a_failure_of_any_kind_is_one_line(monkeypatch):
    def fail(*_):
        raise NotImplementedError("Unsupported sequence length\nQ 197")

    monkeypatch.setattr(smoke, "take_steps", fail)
    outcome = smoke.run("quickstart", smoke.choose("quickstart")["quickstart"], {})
    assert outcome.note == "NotImplementedError: Unsupported sequence length Q 197"
    assert not outcome.train and "failed" in smoke.line(outcome)
