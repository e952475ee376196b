"""The cards of a tiny run on synthetic faces and of a converted file."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

import affect_jax
from affect_jax import batches, convert, export, runtime
from affect_jax.evaluation import predictions
from affect_jax.exporting import model_card
from affect_jax.exporting.model_card import CARD_FILE
from affect_jax.report.page import NOTICE
from affect_jax.training import loop
from affect_jax.version import __version__
from tests.affect_jax import tiny, tiny_models
from tests.affect_jax.weights.released.test_convert import official_state

SECTIONS = [
    "Model",
    "Training data",
    "Results",
    "Intended use",
    "Not for",
    "Limits",
    "How to contest a result",
    "Licence",
    "How it was made",
    "Formats",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The config and the workdir of a finished run with two checkpoints."""
    config = tiny.one_block(
        num_steps=2,
        eval_every=2,
        checkpoint__every=1,
        data__synthetic__symmetric_noise=0.25,
        eval__flip=False,
        report__faces=0,
    )
    workdir = tmp_path_factory.mktemp("card") / "run"
    loop.train_and_evaluate(config, workdir)
    return config, workdir


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny faces"
    assert export.main(["--workdir", str(run[1]), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def card(model):
    return (model / CARD_FILE).read_text()


def sections_of(card):
    return re.findall("^## (.*)$", card, re.MULTILINE)


def test_it_has_every_section_and_the_notice(card):
    assert card.startswith(f"# Model card: tiny faces\n\n> {NOTICE}\n\n## Model\n")
    assert sections_of(card) == SECTIONS
    assert "prohibited in the European Union" in card
    assert "Contact: not stated: fill in\n" in card
    assert "* Weights: not stated: fill in\n" in card


def test_it_tells_what_the_model_learnt_from(run, card):
    sources = batches.make_sources(run[0])
    persons = [len(set(sources[split].persons)) for split in ("train", "validation", "test")]
    assert (
        "|  | train | validation | test |\n|---|---:|---:|---:|\n| images | 64 | 40 | 40 |" in card
    )
    assert f"| named persons | {' | '.join(map(str, persons))} |" in card
    counts = np.bincount(sources["train"].labels, minlength=8)
    named = ", ".join(f"{n} {c}" for n, c in zip(sources["train"].class_names, counts, strict=True))
    assert f"Training images by class: {named}." in card
    assert "* Labels learnt: expression, valence and arousal\n" in card
    assert "* Labelled by: no person; every face was drawn with its labels\n" in card
    assert "* Training labels that were replaced by wrong ones on purpose: 25%\n" in card
    assert "* **Synthetic faces**, drawings that show no person: training images\n" in card
    assert "**Valence and arousal were learnt from synthetic faces**" in card
    assert "* It has seen drawn faces only, no photo." in card
    assert "videos or groups: none is in two splits\n" in card


def test_its_results_are_those_of_the_final_row(run, card):
    final = runtime.read_metrics(run[1])[-1]
    assert final["final"] and f"| accuracy ↑ | {final['accuracy']:.3f} |\n" in card
    for dimension in ("Valence", "Arousal"):
        block = card.partition(f"**{dimension}**")[2]
        assert f"{final[f'{dimension.lower()}_ccc']:.3f}" in block.partition("CCC ↑ | ")[2][:6]
    assert "On the test split: 40 images of 10 persons," in card


def test_its_subgroups_are_counted_from_the_data(run, card):
    source = batches.make_sources(run[0])["test"]
    right = predictions.load(run[1] / "report")["logits"].argmax(1) == source.labels
    wanted = []
    columns = zip(source.attribute_names, source.attribute_values, source.attributes.T, strict=True)
    for name, values, codes in columns:
        for code, value in enumerate(values):
            if (own := codes == code).any():
                wanted.append(f"| {name}: {value} | {own.sum()} | {right[own].mean():.3f}")
    found = re.findall(r"^(\| \w+: \w+ \| \d+ \| [\d.]+)", card, re.MULTILINE)
    assert found == wanted and len(found) >= 6


def test_it_tells_how_the_model_was_made(card):
    assert "* Checkpoint: step 2\n* Seed: 0\n" in card
    assert re.search(r"^\* Date: \d{4}-\d\d-\d\d$", card, re.MULTILINE)
    assert f"* Versions: affect_jax {__version__}, jax {jax.__version__}, flax " in card


def test_what_people_state_is_in_it_and_in_the_record(run, tmp_path, capsys):
    output = tmp_path / "model"
    arguments = ["--workdir", str(run[1]), "--output", str(output)]
    assert export.main([*arguments, "--labellers", "three students"]) == 0
    assert "MODEL_CARD.md in it lacks what --licence and --contact" in capsys.readouterr().out
    before = (output / CARD_FILE).read_text()
    assert "* Labelled by: three students\n" in before and before.count("fill in") == 2
    stated = ["--licence", "CC BY 4.0", "--contact", "Jo <jo@example.org>"]
    assert export.main([*arguments, *stated]) == 0
    assert "lacks" not in capsys.readouterr().out
    card = (output / CARD_FILE).read_text()
    assert "fill in" not in card and "three students" not in card
    assert "* Weights: CC BY 4.0\n" in card and "Contact: Jo &lt;jo@example.org>\n" in card
    record = json.loads((output / "model.json").read_text())["provenance"]
    assert (record["licence"], record["contact"]) == (stated[1], stated[3])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_untested_checkpoint_has_no_results(run, tmp_path):
    assert export.export(run[1], tmp_path / "model", "1") == 1
    card = (tmp_path / "model" / CARD_FILE).read_text()
    assert sections_of(card) == SECTIONS
    assert "None of this checkpoint: the run tested its checkpoint of step 2." in card
    assert "accuracy ↑" not in card


def test_the_mean_of_weights_has_no_results_of_its_own(run, model, tmp_path):
    chosen = export.Chosen(average_with=(str(model), str(model)))
    export.export(run[1], tmp_path / "mean", chosen=chosen)
    card = (tmp_path / "mean" / CARD_FILE).read_text()
    assert sections_of(card) == SECTIONS
    assert "None of these weights: the run tested its own, not their mean." in card
    assert f"the mean of its weights and those of `{model}`, `{model}`" in card


def test_a_run_without_test_or_record_is_exported_too(run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run[1], workdir, ignore=shutil.ignore_patterns("metrics.jsonl", "data*"))
    export.export(workdir, tmp_path / "model")
    card = (tmp_path / "model" / CARD_FILE).read_text()
    assert sections_of(card) == SECTIONS
    assert "None: the run has no finished test." in card
    assert "videos or groups: whether a person is in two splits is not recorded\n" in card
    assert "| images |" not in card


def test_a_model_without_its_card_loads(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / CARD_FILE).unlink()
    assert affect_jax.load(copy).loaded.class_names[0] == "neutral"


def test_a_disk_that_fills_up_leaves_the_old_card(run, model, tmp_path, monkeypatch):
    copy = shutil.copytree(model, tmp_path / "copy")
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    write, halves = pathlib.Path.write_text, []

    def half(path, text, **options):
        if path.name != CARD_FILE:
            return write(path, text, **options)
        halves.append(write(path, text[: len(text) // 2], **options))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", half)
    assert export.main(["--workdir", str(run[1]), "--contact", "me", "--output", str(copy)]) == 2
    monkeypatch.undo()
    assert len(halves) == 1 and [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_a_converted_model_tells_its_source_and_what_is_not_known(tmp_path):
    np.savez(tmp_path / "w.npz", **official_state("resnet18"))
    options = {"architecture": "resnet18", "source": tmp_path / "w.npz", "output": tmp_path / "m"}
    assert convert.main([f"--{key}={value}" for key, value in options.items()]) == 0
    card = (tmp_path / "m" / CARD_FILE).read_text()
    provenance = json.loads((tmp_path / "m/model.json").read_text())["provenance"]
    assert sections_of(card) == SECTIONS[:-1]  # not exported
    assert f"* Source: `w.npz`, SHA-256 `{provenance['source_sha256']}`\n" in card
    assert "--architecture resnet18 --source w.npz --output m`\n" in card
    assert "* Not known here: data, number of images and persons, who labelled them\n" in card
    assert "* Not known here: names of the classes\n" in card
    assert "* Crop: the whole image, cut to the largest square in the middle; of this, the" in card
    assert "## Results\n\nNone. Measure the model" in card
    assert f"* Weights: {provenance['licence']}\n" in card
    assert str(tmp_path) not in card


def test_a_new_temperature_is_told_and_what_was_measured_before_it(tmp_path):
    mine = tiny_models.save(tiny_models.make(*tiny_models.SYSTEMS["features"]), tmp_path / "mine")
    line = "* Temperature: probabilities are those of the logits / {}. Exported programs give"
    before = (
        "# Model card: mine\n\n## Model\n\n* Output: words of mine\n* Pool: max\n\n"
        "## Results\n\nOf mine: ECE 0.050.\n\n### Subgroups\n\nNone.\n\n## Use\n\nECE, with care.\n"
    )
    (mine / CARD_FILE).write_text(before)

    def export_again(source, name, *options):
        output = tmp_path / name
        assert export.main(["--model", str(source), "--output", str(output), *options]) == 0
        return output, (output / CARD_FILE).read_text().partition("\n\n## Formats")[0] + "\n"

    assert export_again(mine, "same")[1] == before.replace("card: mine", "card: same")
    warm, card = export_again(mine, "warm", "--temperature=1.5")
    assert card.startswith("# Model card: warm\n\n## Model\n\n* Output: words of mine\n* Temp")
    assert card.count(line.format("1.5")) == 1 and "as they are\n* Pool: max\n\n## Res" in card
    note = "None.\n\nSince then the temperature was changed from 1 to 1.5: calibration error (ECE)"
    assert note in card and card.endswith("the model gives.\n\n## Use\n\nECE, with care.\n")
    _, card = export_again(warm, "cold", "--temperature=0.8")
    assert card.count("* Temperature: ") == 1 and line.format("0.8") in card
    assert card.count("Since then") == 1 and "was changed, now to 0.8: calibration" in card
    _, card = export_again(warm, "plain", "--temperature=1")
    assert "* Temperature" not in card and "was changed, now to 1: " in card


def test_results_without_calibration_have_no_note_of_it(tmp_path):
    model = tiny_models.make(*tiny_models.SYSTEMS["features"])
    warm = dataclasses.replace(model, temperature=1.5)
    card = "# Mine\n\n## Results\n\nNone: not specified.\n"
    assert model_card.updated(card, model, warm, ("a", "b")) == card
