"""The predictions of a test pass as files: what the report is drawn from, and can be traced by."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from affect_jax.metrics.landmarks import landmark_errors
from affect_jax.runtime import write_atomically

ARRAYS_FILE = "predictions.npz"
TABLE_FILE = "predictions.csv"


def gather(
    outputs: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    sources: Sequence[str],
    faces: Mapping[int, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Brings the outputs of an evaluation into the form in which they are stored.

    Args:
        outputs: per-example arrays of n rows: `index`; labels `expression`, `valence_arousal`,
            `true_landmarks` (-1 or NaN where missing); predictions `logits` [n, N], `valence` [n],
            `arousal` [n], `landmarks` [n, 68, 2] in pixels of the network's input. All but
            `index` may be absent.
        class_names: the N names.
        sources: per row, the file (and row) that it comes from.
        faces: index -> uint8 image [H, W, 3] as the network saw it, for some of the rows.

    Returns:
        `index`, `source`, `class_names` and, where there are such outputs, `expression`,
        `probabilities`, `valence_arousal`, `valence_arousal_predicted`, `nme`, `nme_box` (see
        `metrics.landmark_errors`, but NaN where there is none and infinite where the prediction is
        no number); of the faces: `face_row` (row in the other arrays),
        `face_image`, `face_landmarks`, `face_landmarks_predicted`.
    """
    index = np.asarray(outputs["index"], np.int64)
    if len(index) != len(sources):
        raise ValueError(f"{len(index)} predictions, but {len(sources)} names of sources")
    stored = {
        "index": index,
        "source": np.array(sources, dtype=str) if len(sources) else np.zeros(0, "U1"),
        "class_names": np.array(class_names, dtype=str),
    }
    if "logits" in outputs:
        stored["probabilities"] = _softmax(outputs["logits"])
        stored["expression"] = _column(outputs, "expression", (len(index),), -1, np.int32)
    if "valence" in outputs and "arousal" in outputs:
        pair = np.stack([outputs["valence"], outputs["arousal"]], axis=-1)
        stored["valence_arousal_predicted"] = pair.astype(np.float32)
        shape = (len(index), 2)
        stored["valence_arousal"] = _column(outputs, "valence_arousal", shape, np.nan, np.float32)
    landmarks = outputs.get("landmarks") if "true_landmarks" in outputs else None
    if landmarks is not None:
        for name, errors in landmark_errors(landmarks, outputs["true_landmarks"]).items():
            stored[name] = np.select(
                [np.isneginf(errors), np.isnan(errors)], [np.nan, np.inf], errors
            ).astype(np.float32)
    rows = {int(i): row for row, i in enumerate(index)}
    shown = [i for i in faces or {} if i in rows]
    if shown:
        face_row = np.array([rows[i] for i in shown], np.int64)
        stored["face_row"] = face_row
        stored["face_image"] = np.stack([np.asarray(faces[i], np.uint8) for i in shown])
        if landmarks is not None:
            stored["face_landmarks_predicted"] = landmarks[face_row].astype(np.float32)
            true = outputs["true_landmarks"]
            stored["face_landmarks"] = np.asarray(true)[face_row].astype(np.float32)
    return stored


def _column(
    outputs: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], missing: Any, dtype: Any
) -> np.ndarray:
    if name in outputs:
        return np.asarray(outputs[name], dtype)
    return np.full(shape, missing, dtype)


def _softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    logits = np.where(np.isfinite(logits).all(axis=-1, keepdims=True), logits, np.nan)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def choose_faces(outputs: Mapping[str, np.ndarray], count: int = 12) -> list[int]:
    """Indices of examples to show, spread evenly over the classes whatever was predicted.

    Args:
        outputs: as in `gather`.
        count: how many at most.

    Returns:
        Values of `index`, the classes taking turns.
    """
    index = np.asarray(outputs["index"])
    labels = np.asarray(outputs.get("expression", np.full(len(index), -1)))
    queues = []
    for label in np.unique(labels):
        members = index[labels == label]
        picks = np.unique(np.linspace(0, len(members) - 1, min(count, len(members))).astype(int))
        # Halves, quarters, ...: any first few of them are spread over the whole class.
        order = sorted(range(len(picks)), key=lambda k: (int(f"{k:016b}"[::-1], 2), k))
        queues.append([int(members[picks[k]]) for k in order])
    chosen: list[int] = []
    for turn in range(count):
        chosen += [queue[turn] for queue in queues if turn < len(queue)]
    return chosen[:count]


def fetch_faces(
    batches: Iterable[Mapping[str, np.ndarray]], indices: Sequence[int]
) -> dict[int, np.ndarray]:
    """Takes the images of some examples out of host batches; stops reading once all are found.

    Args:
        batches: batches of one pass, with `image` uint8 [B, H, W, 3], `index` and `mask`.
        indices: the examples wanted.

    Returns:
        index -> image, in the order of `indices`; those that do not come by (the part of another
        process, an unreadable record) are left out.
    """
    wanted, found = set(indices), {}
    for batch in batches:
        for row, index in enumerate(np.asarray(batch["index"]).tolist()):
            if index in wanted and index not in found and batch["mask"][row]:
                found[index] = np.array(batch["image"][row])
        if len(found) == len(wanted):
            break
    return {index: found[index] for index in indices if index in found}


def save(folder: Path, stored: Mapping[str, np.ndarray]) -> None:
    """Writes `predictions.npz` and `predictions.csv`, each as a whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **stored)
    write_atomically(folder / ARRAYS_FILE, buffer.getvalue())
    write_atomically(folder / TABLE_FILE, _table(stored).encode())


def load(folder: Path) -> dict[str, np.ndarray]:
    """Reads what `save` wrote."""
    with np.load(folder / ARRAYS_FILE, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def landmark_errors_of(stored: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """A stored `nme` or `nme_box`, float64 [n], as `metrics.landmark_errors` gives it."""
    errors = np.asarray(stored[name], np.float64)
    return np.select([np.isnan(errors), np.isinf(errors)], [-np.inf, np.nan], errors)


def not_finite(stored: Mapping[str, np.ndarray]) -> int:
    """Number of rows with a prediction that is no number, which pictures leave out."""
    bad = np.zeros(len(stored["index"]), bool)
    for name in ("probabilities", "valence_arousal_predicted"):
        if name in stored:
            bad |= ~np.isfinite(stored[name]).all(axis=1)
    return int(bad.sum())


def _table(stored: Mapping[str, np.ndarray]) -> str:
    names = stored["class_names"].tolist()
    columns: dict[str, Sequence[Any]] = {"index": stored["index"], "source": stored["source"]}
    if "probabilities" in stored:
        probabilities = stored["probabilities"]
        columns["expression"] = [names[c] if c >= 0 else "" for c in stored["expression"]]
        best = probabilities.argmax(axis=1)
        known = np.isfinite(probabilities).all(axis=1)
        columns["expression_predicted"] = [
            names[c] if k else "" for c, k in zip(best, known, strict=True)
        ]
        for i, name in enumerate(names):
            columns[f"p_{name}"] = _numbers(probabilities[:, i])
    if "valence_arousal_predicted" in stored:
        for i, name in enumerate(("valence", "arousal")):
            columns[name] = _numbers(stored["valence_arousal"][:, i])
            columns[f"{name}_predicted"] = _numbers(stored["valence_arousal_predicted"][:, i])
    for name in ("nme", "nme_box"):
        if name in stored:
            columns[name] = _numbers(stored[name])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _numbers(values: np.ndarray) -> list[str]:
    return [f"{value:.5g}" if np.isfinite(value) else "" for value in values]
