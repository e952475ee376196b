"""A finished run made of random predictions, for tests of its report."""

import json
import pathlib
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np

from affect_jax.evaluation import predictions
from affect_jax.report import render
from affect_jax.runtime import MetricWriter

NAMES = ("neutral", "happy <b>", "sad", "surprise")
SOURCE = SimpleNamespace(
    class_names=NAMES,
    describe=lambda i: f"faces.csv:{i + 2} (img/{i}.jpg)",
    attribute_names=(),
    attribute_values=(),
)
PICTURES = {
    "training_curves", "confusion_matrix", "calibration", "valence_arousal", "landmark_error",
    "faces",
}  # fmt: skip
SIZE = 48


def make_outputs(count: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    expression = np.arange(count, dtype=np.int32) % len(NAMES)
    expression[7] = -1
    logits = rng.normal(size=(count, len(NAMES)))
    logits[np.arange(count), expression] += 1.5
    valence_arousal = rng.uniform(-0.9, 0.9, (count, 2)).astype(np.float32)
    valence_arousal[3] = np.nan
    landmarks = rng.uniform(5, SIZE - 5, (count, 68, 2))
    landmarks[5] = np.nan
    landmarks[6, 20] = np.nan
    noise = rng.normal(size=(count, 2)) * 0.2
    predicted = np.nan_to_num(valence_arousal) + noise
    return {
        "index": np.arange(count) * 3,
        "expression": expression,
        "logits": logits,
        "valence_arousal": valence_arousal,
        "valence": predicted[:, 0],
        "arousal": predicted[:, 1],
        "true_landmarks": landmarks,
        "landmarks": np.nan_to_num(landmarks, nan=9.0) + rng.normal(size=landmarks.shape),
    }


def make_batches(outputs: dict[str, np.ndarray]):
    rng = np.random.default_rng(1)
    for first in range(0, len(outputs["index"]), 16):
        index = outputs["index"][first : first + 16]
        # Plain colours: noise makes large pictures, which take long to write.
        colours = rng.integers(0, 255, (len(index), 1, 1, 3), dtype=np.uint8)
        images = np.broadcast_to(colours, (len(index), SIZE, SIZE, 3))
        yield {"image": images, "index": index, "mask": np.ones(len(index), bool)}


def write_metrics(workdir, *, final: bool = True) -> None:
    with MetricWriter(workdir) as writer:
        for step in range(10, 60, 10):
            values = {"loss": 5.0 / step, "images_per_second": 100.0, "input_wait_share": 0.01}
            writer.write(step, "train", values)
            writer.write(step, "validation", {"loss": 6.0 / step, "accuracy": step / 100})
        if final:
            writer.write(50, "test_flip", {"valence_ccc": 0.75})
            row = {"checkpoint": 40, "accuracy": 0.5, "valence_ccc": 0.625, "ece": None}
            row |= {"images": 60, "images_total": 64}
            writer.write(50, "test", row, final=True)


def write_report(workdir, outputs, batches=None) -> None:
    predictions.write(workdir, outputs, SOURCE, batches=batches)
    render(workdir)


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.images, self.text, self.open, self.links = [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes["src"])
        if tag not in ("img", "meta"):
            self.open.append(tag)
        self.links += [v for k, v in attrs if k in ("href", "src") and not v.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def finished_run(folder: pathlib.Path) -> pathlib.Path:
    """Write a finished run with its report into `folder`; return the folder."""
    write_metrics(folder)
    (folder / "config.json").write_text(json.dumps({"seed": 3, "model": {"name": "emofan"}}))
    outputs = make_outputs()
    write_report(folder, outputs, make_batches(outputs))
    return folder
