"""What the page of a run tells, how its pictures are shown, and options of the command."""

import base64
import io
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import affect_jax
from affect_jax.evaluation import provenance
from affect_jax.report import write_html
from affect_jax.report.__main__ import main
from affect_jax.runtime import MetricWriter
from tests.affect_jax.report.made_up_run import (
    PICTURES,
    Page,
    finished_run,
    write_metrics,
    write_report,
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "mine")


def test_a_page_tells_data_date_version_and_command(tmp_path, monkeypatch):
    write_metrics(tmp_path)
    data = {"source": "manifest", "manifest": "/photos/a.csv", "image_size": 96}
    (tmp_path / "config.json").write_text(json.dumps({"data": data}))
    labels = np.array([0, 1, 1, -1])
    facts = {"persons": ["p", "p", "q", "q"], "has_persons": True}
    source = SimpleNamespace(class_names=("a", "b"), labels=labels, **facts)
    source = type("Source", (), {**vars(source), "__len__": lambda self: 4})()
    monkeypatch.setattr(
        provenance.sys.modules["__main__"], "__spec__", SimpleNamespace(name="affect_jax.main")
    )
    monkeypatch.setattr(provenance.sys, "argv", ["main.py", "--config", "my config.py"])
    provenance.write_about(tmp_path, {"train": source, "test": source})
    write_report(tmp_path, {"index": np.arange(2)})
    text = Page(write_html(tmp_path).read_text()).text
    for told in ("/photos/a.csv", "96 x 96 pixels", affect_jax.__version__, "date of the test",
                 "python -m affect_jax.main --config 'my config.py'"):  # fmt: skip
        assert told in text
    text = (tmp_path / "report/results.md").read_text()
    assert "| b | 2 | 2 |" in text and "| no class label | 1 | 1 |" in text
    assert "| all images | 4 | 4 |" in text and "| persons | 2 | 2 |" in text


def test_every_heading_stands_once_and_all_type_has_one_size(workdir, tmp_path):
    folder = shutil.copytree(workdir, tmp_path / "run")
    pictures = folder / "report/pictures"
    pictures.mkdir()
    png = (folder / "report/calibration.png").read_bytes()
    for stem, title, models in (
        ("calibration", "Calibration before and after correction", ["a"]),
        ("calibration_beside_b", "Calibration before and after correction", ["a", "b"]),
        ("confusion", "Confusions", ["a"]),
        ("confusion_beside_b", "Confusions", ["a", "b"]),
    ):
        (pictures / f"{stem}.png").write_bytes(png)
        record = {"title": title, "caption": "", "split": "test", "numbers": {}}
        record["models"] = {name: {"checkpoint": 40} for name in models}
        (pictures / f"{stem}.json").write_text(json.dumps(record))
    text = write_html(folder).read_text()
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert len(headings) == len(set(headings)) and "Calibration" in headings
    assert "Confusions: a and b." in text and text.count("<img ") == len(PICTURES) + 3
    for name in PICTURES:
        content = (folder / f"report/{name}.png").read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            inches = image.width / image.info["dpi"][0]
        url = base64.b64encode(content).decode()
        style = re.search(rf'style="--wide:(\d+)px;--narrow:(\d+)px"[^>]*{re.escape(url)}', text)
        assert abs(int(style[1]) - 96 * inches) <= 1
        assert int(style[2]) <= 450  # nearly the width of a phone


def test_averaged_class_probabilities_stand_with_what_is_flip_averaged(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(5, "test_flip", {"valence_ccc": 0.5})
        writer.write(5, "test_mirror", {"accuracy": 0.75, "confidence": 0.9})
        row = {"accuracy": 0.625, "nme": 0.1, "valence_ccc": 0.25}
        writer.write(5, "test", row, final=True)
    write_report(tmp_path, {"index": np.arange(2)})
    text = (tmp_path / "report/results.md").read_text()
    assert "| accuracy ↑ | 0.625 | 0.750 |" in text and "| CCC ↑ | 0.250 | 0.500 |" in text
    assert "(NME) ↓ | 0.1000 | - |" in text and "confidence" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compare", "X"], "--compare has no effect without --pictures"),
        (["--split", "test"], "--split has no effect without --pictures"),
        (["--checkpoint=best"], "--checkpoint has no effect without --pictures"),
        (["--faces", "8"], "--faces has no effect without --pictures"),
        (["--indices", "1"], "--indices has no effect without --pictures"),
        (["--points", "9"], "--points has no effect without --pictures"),
        (["--pictures", ",", "--faces", "3"], "--pictures names none"),
        (["--pictures", "cam", "--faces", "3", "--indices", "1"], "exclude each other"),
        (["--pictures", "cam", "--indices", ","], "give whole numbers"),
    ],
)
def test_options_without_an_effect_are_refused(workdir, capsys, options, message):
    assert main(["--workdir", str(workdir), *options]) == 2
    assert message in capsys.readouterr().err
