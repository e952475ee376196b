"""The same answer everywhere: from every kind of input, alone or in a batch, in any order and batch
size, from the predictor, the evaluation, and each format of the exported model."""

import csv
import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import affect_jax
from affect_jax import predict
from affect_jax.experiments import evaluate
from affect_jax.exporting import onnx, stablehlo
from affect_jax.exporting.program import Program
from affect_jax.inference.detection import crop
from affect_jax.inference.faces import faces_of_boxes
from affect_jax.metrics.classification import softmax
from tests.affect_jax import tiny, tiny_models

QUICK = ("emofan", "vit_se", "rald")  # those that compile quickly
SYSTEMS = [
    system if system in QUICK else pytest.param(system, marks=pytest.mark.slow)
    for system in tiny_models.SYSTEMS
    if system != "features"  # it takes no images; see exporting/test_formats.py
]
COUNT = 4


def same(got, wanted, limit=1e-5):
    """Whether outputs agree to `limit` of their size."""
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(
            got[name], value, rtol=0, atol=limit * max(1, np.abs(value).max()), err_msg=name
        )


@pytest.fixture(scope="module", params=SYSTEMS)
def answers(request, tmp_path_factory):
    """A system, its directory, four images with their files, and the live outputs for them."""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_models.save(tiny_models.loaded(request.param), folder / "model")
    images = tiny_models.batch(request.param, COUNT)
    files = []
    for i, image in enumerate(images):
        files.append(folder / f"{i}.png")
        Image.fromarray(image).save(files[-1])
    predictor = affect_jax.load(model, batch_size=COUNT)
    outputs = predictor.outputs(images)
    outputs = {k: v for k, v in outputs.items() if isinstance(v, np.ndarray)}
    return request.param, model, images, files, predictor, outputs


def numbers(table):
    return {name: table[name].to_numpy() for name in table.select_dtypes("number")} | {
        "error": table["error"].isna().to_numpy()
    }


def test_every_kind_of_input_in_any_order_gives_the_same_bits(answers):
    _, _, images, files, predictor, outputs = answers
    table = predictor.predict(files)
    assert table["error"].isna().all()
    if "logits" in outputs:
        names = [f"p_{name}" for name in tiny_models.NAMES]
        same({"p": table[names].to_numpy()}, {"p": softmax(outputs["logits"])})
    wanted = numbers(table)
    kinds = {
        "bytes": [file.read_bytes() for file in files],
        "arrays": list(images),
        "one array": images,
        "Pillow": [Image.fromarray(image) for image in images],
        "text": [str(file) for file in files],
    }
    for kind, given in kinds.items():
        for name, value in numbers(predictor.predict(given)).items():
            if name != "index":
                np.testing.assert_array_equal(value, wanted[name], err_msg=f"{kind}: {name}")
    turned = numbers(predictor.predict(files[::-1]))
    for name, value in turned.items():
        np.testing.assert_array_equal(value[::-1], wanted[name], err_msg=name)


def test_alone_or_in_a_batch_of_any_size(answers):
    _, _, _, files, predictor, _ = answers
    wanted = numbers(predictor.predict(files))
    alone = [numbers(predictor.predict(file)) for file in files]
    joined = {name: np.concatenate([one[name] for one in alone]) for name in wanted}
    same(joined, wanted)


def test_each_format(answers, tmp_path):
    _, _, images, _, predictor, outputs = answers
    program = Program.of(predictor.loaded)
    for module, limit in ((stablehlo, 1e-5), (onnx, 1e-4)):
        module.write(program, tmp_path / module.FILE)
        run = module.read(tmp_path / module.FILE)
        same(run(images), outputs, limit)
    for size in (1, 3):  # compiles nothing in ONNX Runtime
        same(run(images[:size]), {name: value[:size] for name, value in outputs.items()}, 1e-4)


@pytest.mark.parametrize(
    "answers",
    [
        system if system == "vit_se" else pytest.param(system, marks=pytest.mark.slow)
        for system in tiny_models.SYSTEMS
        if system not in ("features", "fan")  # without expressions
    ],
    indirect=True,
)
def test_evaluation(answers, tmp_path):
    _, model, _, files, _, outputs = answers
    rows = [{"path": str(file)} for file in files]
    logits = evaluated(model, manifest(tmp_path / "faces.csv", rows), tmp_path / "out")
    same({"logits": logits}, {"logits": outputs["logits"]})


@pytest.mark.parametrize(
    "system",
    [
        system if system == "vit_se" else pytest.param(system, marks=pytest.mark.slow)
        for system in QUICK
    ],
)
@pytest.mark.parametrize("rule", ["auto", pytest.param("box", marks=pytest.mark.slow)])
def test_given_boxes_with_a_crop_and_a_temperature(system, rule, tmp_path):
    made = tiny_models.make(*tiny_models.SYSTEMS[system], crop=rule, crop_scale=20 / 11)
    loaded = dataclasses.replace(made, temperature=1.5)
    model = tiny_models.save(loaded, tmp_path / "model")
    random, rows, crops = np.random.default_rng(3), [], []
    for i in range(2 * COUNT):
        image = random.integers(0, 256, (150, 170, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        box = np.array([40 + i, 20, 110, 104 + 2 * i])  # forehead included
        crops.append(crop(image, faces_of_boxes(box), 0, loaded.preprocessing)[0])
        places = dict(zip(("x0", "y0", "x1", "y1"), box.tolist(), strict=True))
        rows.append({"path": f"{i}.png", **places})
    path = manifest(tmp_path / "faces.csv", rows)
    names = [f"p_{name}" for name in tiny_models.NAMES]
    logits = evaluated(model, path, tmp_path / "out")
    wanted = {"p": softmax(logits / 1.5)}
    predictor = affect_jax.load(model, batch_size=2 * COUNT)
    same({"p": predictor.predict(crops)[names].to_numpy()}, wanted)
    tables = {}
    for size in (1, 4, 8):
        output = tmp_path / f"{size}.csv"
        options = ["--model", str(model), "--output", str(output), "--batch_size", str(size)]
        assert predict.main([path, *options]) == 0
        table = pd.read_csv(output, dtype={name: np.float32 for name in names})
        assert table["error"].isna().all() and len(table) == len(rows)
        tables[size] = table[names].to_numpy()
        same({"p": tables[size]}, wanted)
    # On a CPU both run four images at a time.
    np.testing.assert_array_equal(tables[4], tables[8])


def manifest(path, rows):
    """Write a manifest of labelled test images; return its path."""
    rows = [
        {**row, "expression": tiny_models.NAMES[i % 3], "split": "test"}
        for i, row in enumerate(rows)
    ]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def evaluated(model, path, workdir):
    """Return the logits of `--mode=eval` for the images of a manifest, in its order."""
    config = tiny.config(data__source="manifest", data__manifest=path, batch_size=8)
    config.init_from, config.eval.flip = str(model), False
    config.data.classes = ",".join(tiny_models.NAMES)
    result = evaluate.evaluate(config, workdir)
    return result.predictions["logits"][np.argsort(result.predictions["index"])]
