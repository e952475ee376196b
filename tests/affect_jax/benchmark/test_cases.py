"""Cases of the benchmarks: what they name, and that both sides do equal work."""

import json
import pathlib

import pytest

from affect_jax.benchmark import cases, peer, train
from affect_jax.benchmark.cases import Case
from affect_jax.errors import UserError

PLANS = pathlib.Path(cases.__file__).parent / "plans"


@pytest.mark.parametrize("name", cases.KNOWN)
def test_every_case_has_a_config_and_a_peer(name):
    case = cases.KNOWN[name]
    config = cases.config_of(case)
    assert case.peer in peer.CLASSIFIERS
    assert config.model.dtype == "bfloat16" and config.batch_size == case.batch_size
    if case.equal_work:
        assert config.optimizer.name == "adamw" and not config.ema_decay
        assert not config.optimizer.sam_rho and not config.mixing.mixup_alpha
    system = train.system_of(config)
    assert len(cases.classes_of(config)) == system.num_classes


def test_the_frozen_parts_are_the_same_on_both_sides():
    frozen = {name: case for name, case in cases.KNOWN.items() if case.freeze}
    assert set(frozen) == {"poster_v2", "emofan_frozen"}
    assert cases.config_of(frozen["poster_v2"]).optimizer.freeze == ("landmark_net/",)
    assert cases.config_of(frozen["emofan_frozen"]).model.train_trunk is False


def test_entries_of_a_plan():
    entries = [
        "emofan",
        {"case": "vit_b16", "name": "small", "batch_size": 8, "settings": {"model.depth": 1}},
        {"name": "own", "system": "quickstart", "dtype": ""},
    ]
    first, small, own = cases.parse(entries)
    assert first == cases.KNOWN["emofan"]
    assert small.settings == {"model.se": False, "model.drop_path": 0.0, "model.depth": 1}
    assert cases.config_of(small).model.depth == 1
    assert own.peer == "" and cases.config_of(own).model.dtype == "float32"
    assert cases.label(small, cases.config_of(small)) == "small: vit_b16 224 px, bfloat16, 8"


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.json")), ids=lambda path: path.stem)
def test_the_plans_of_the_package_can_be_run(path, monkeypatch):
    given = []
    monkeypatch.setattr(train, "measure", lambda options: given.append(options) or [])
    train.main(["--plan", str(path)])
    (options,) = given
    found = cases.of_plan(options)
    assert found and options.deadline > options.build_deadline
    for case in found:
        assert cases.config_of(case).batch_size == case.batch_size


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("emofam", "emofan"),
        ({"case": "emofan", "batch": 3}, "batch_size"),
        ({"case": "emofan", "peer": "emonets"}, "emonet"),
        ({"name": "x"}, "needs"),
    ],
)
def test_wrong_entries_are_refused(entry, message):
    with pytest.raises(UserError, match=message):
        cases.parse([entry])
    with pytest.raises(UserError, match="two cases"):
        cases.parse(["emofan", "emofan"])
    with pytest.raises(UserError, match=r"model\.depth"):
        cases.config_of(Case("a", "vit_se_fer2013", settings={"model.depht": 1}))


def options(tmp_path, arguments, **plan):
    found = {}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "measure", lambda options: found.update(vars(options)) or [])
        train.main([*arguments, *(["--plan", str(path)] if plan else [])])
    return found


def test_options_of_a_plan_and_of_the_command(tmp_path):
    plan = {"cases": ["emofan"], "peer": ["eager"], "deadline": 60, "environment": {"A": "1"}}
    found = options(tmp_path, ["--deadline", "5"], **plan)
    assert (found["cases"], found["peer"], found["deadline"]) == (["emofan"], ["eager"], 5)
    assert found["environment"] == {"A": "1"}
    found = options(tmp_path, ["--cases", "emofan,arbex", "--peer", "--profile"])
    assert found["cases"] == ["emofan", "arbex"]
    assert (found["peer"], found["profile"]) == (["compile"], ["all"])
    with pytest.raises(SystemExit):
        options(tmp_path, [], casse=["emofan"])
