"""The inference benchmark: its variants, its rows, and what it refuses."""

import argparse
import dataclasses
import json

import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.benchmark import __main__ as command
from affect_jax.benchmark import cases, drive, infer
from affect_jax.benchmark.cases import Case
from affect_jax.benchmark.timing import Engine
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights.model_dir import save_model

RALD = Case("rald", "rald_synthetic", image_size=32)
CONTEXTS = ("bank", "self", "batch")


def variants(case, **changes):
    chosen = {"batch_sizes": [1], "dtypes": ["float32"], "engines": ["jax"], "decode": False}
    return infer.variants_of(case, argparse.Namespace(**{**chosen, **changes}))


def test_variants_of_a_case():
    found = variants(
        cases.INFERENCE["emofan"],
        batch_sizes=[1, 16],
        dtypes=["float32", "bfloat16"],
        engines=["jax", "onnx"],
        decode=True,
    )
    assert len({v.case.name for v in found}) == len(found) == 12
    first = [(v.case.name, v.against, v.case.peer) for v in found[:4]]
    assert first == [
        ("emofan float32 1", "", "emonet"),
        ("emofan ONNX Runtime float32 1", "emofan float32 1", ""),
        ("emofan bfloat16 1", "emofan float32 1", "emonet"),
        ("emofan float32 1 from JPEGs", "", "emonet"),
    ]
    assert [v.case.batch_size for v in found] == [1] * 6 + [16] * 6
    assert [v.case.decode for v in found[:6]] == [False] * 3 + [True] * 3


def test_every_context_is_compared_with_the_plain_model():
    found, plain = variants(RALD), "rald float32 1"
    names = [plain, *(f"{plain}, {context}" for context in CONTEXTS)]
    assert [v.case.name for v in found] == names
    assert not cases.config_of(found[0].case).model.relations.enabled
    assert all(cases.config_of(v.case).model.relations.enabled for v in found[1:])
    results = drive.Results(
        figures={(name, drive.OURS): [4.0 - i] for i, name in enumerate(names)},
        built={(name, drive.OURS): {"label": name, "seconds": 1.0} for name in names},
    )
    rows = {r["case"]: r for r in infer.rows(found, results) if r["metric"] == "latency"}
    assert [rows[name]["ratio"] for name in names] == [None, 0.75, 0.5, 0.25]
    assert rows[names[3]]["baseline"] == f"ours, {plain}"
    assert rows[names[3]]["value"] == 1000


def test_rows_of_peers_and_other_engines():
    case = dataclasses.replace(cases.INFERENCE["resnet18"], name="net")
    found = variants(case, engines=["jax", "int8"])
    plain, int8 = (v.case.name for v in found)
    results = drive.Results(
        figures={(plain, "ours"): [20.0], (plain, "eager"): [10.0], (int8, "ours"): [40.0]},
        built={(int8, "ours"): {"label": int8, "seconds": 1.0, "largest_difference": 0.1}},
        about={"eager": {"version": "2"}},
    )
    rows = infer.rows(found, results)
    ratios = {
        (r["case"], r["baseline"]): r["ratio"] for r in rows if r["metric"] == "images_per_second"
    }
    peer = "timm, torch 2, eager"
    assert ratios == {
        (plain, peer): 2,
        (f"{plain}: {peer}", None): None,
        (int8, peer): 4,
        (int8, f"ours, {plain}"): 2,
    }
    (loss,) = (r for r in rows if "difference" in r["metric"])
    assert (loss["case"], loss["metric"], loss["value"]) == (
        int8, "largest_difference_of_probabilities", 0.1
    )  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A tiny ResNet-18."""
    arguments = {"width": 4, "n_expression": 3}
    model = models.create("resnet18", **arguments, rngs=nnx.Rngs(0))
    path = tmp_path_factory.mktemp("models") / "tiny"
    preprocessing = Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
    save_model(path, "resnet18", arguments, model, preprocessing=preprocessing)
    return path


def test_a_model_directory(directory, tmp_path, capsys):
    file = tmp_path / "rows.json"
    sizes = ["--batch_sizes", "1", "--decode", "--repeats", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("affect_jax.benchmark.timing._SECONDS", 0.01)
        patch.setattr(drive, "Child", lambda suite, side, *_: drive.Local(suite, side))
        arguments = ["infer", "--model_dir", str(directory), *sizes, "--json", str(file)]
        assert command.main(arguments) == 0
    rows = [r for r in json.loads(file.read_text()) if r["metric"] == "latency"]
    ends = ["tiny float32 1: resnet18 32 px", "tiny float32 1 from JPEGs: resnet18 32 px"]
    assert [row["case"] for row in rows] == ends
    assert all(row["value"] > 0 and row["n"] == 2 for row in rows)


def test_engines_predict_the_same(directory):
    pytest.importorskip("onnxruntime")
    case = infer.of_directory(Case("", "base", dtype="float32", batch_size=2), str(directory))
    config = cases.config_of(case)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    logits = []
    for engine in ("jax", "onnx"):
        made, _ = infer.ours(dataclasses.replace(case, engine=engine), config)
        found = made.predict(made.place(images))
        logits.append(found["logits"] if engine == "jax" else found[0])
    assert np.ptp(logits[0]) > 0.01
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_eight_bits_state_their_loss(directory):
    pytest.importorskip("onnxruntime")
    fields = {"dtype": "float32", "batch_size": 1, "engine": "int8"}
    case = infer.of_directory(Case("", "base", **fields), str(directory))
    _, loss = infer.ours(case, cases.config_of(case))
    assert 0 < loss["mean_difference"] <= loss["largest_difference"] < 1


def test_jpegs_are_decoded_and_framed():
    case = Case("net", "base", batch_size=3, image_size=48, decode=True)
    config, seen = cases.config_of(case), []
    engine = Engine(lambda images: images, seen.append, lambda _: None)
    step = infer.step_of(case, config, engine)
    step()
    step()
    assert [(batch.shape, batch.dtype) for batch in seen] == [((3, 48, 48, 3), np.uint8)] * 2
    assert seen[0].std() > 10 and not np.array_equal(*seen)


def test_wrong_options(tmp_path, capsys):
    for arguments, message in (
        (["--dtypes", "float23"], "float32"),
        (["--engines", "onyx"], "onnx"),
        (["--batch_sizes", "0"], "above 0"),
        (["--model_dir", str(tmp_path)], "it holds no model"),
        (["--cases", "arbex"], "no case 'arbex'"),
        (["--threads", "4096"], "--threads 4096: give 1 to"),
    ):
        assert command.main(["infer", *arguments]) == 2
        assert message in capsys.readouterr().err
