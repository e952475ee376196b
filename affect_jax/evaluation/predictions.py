"""Stored predictions of a pass over a split: arrays, and a table to read.

The arrays (`StoredPredictions`, in `predictions.npz`) are, for n examples, those that exist of:
`index` int64 [n]; `source` str [n], the file and row of each; `class_names` str [N]; `expression`
int32 [n] (-1: no label), `logits` [n, N], `probabilities` float32 [n, N]; `expression_probs`
float32 [n, N] (votes, or the mixture that is shown); of a tree over the classes `coarse_names` str
[M], `coarse_of` int32 [N] and, of one with poles, `pole_names` str [P], `pole_of` int32 [M];
`valence_arousal` and `valence_arousal_predicted` float32 [n, 2]; `nme` and `nme_box` float32 [n]
(see `metrics.landmarks.landmark_errors`); `attributes` int32 [n, A] (-1: not known), their names
`attribute_names` str [A] and those of their values `attribute_values` str [A, V], filled with "".
Of the m examples with a stored face: `face_row` int64 [m] (row in the other arrays), `face_image`
uint8 [m, H, W, 3], `face_landmarks` and `face_landmarks_predicted` float32 [m, 68, 2]. A missing
label is NaN.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from affect_jax.metrics.classification import softmax
from affect_jax.metrics.hierarchy import group_sums
from affect_jax.metrics.landmarks import LandmarkStatistics, landmark_errors
from affect_jax.runtime import REPORT_FOLDER, write_atomically
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.schema import MISSING_ID, Source

ARRAYS_FILE = "predictions.npz"
TABLE_FILE = "predictions.csv"

StoredPredictions = Mapping[str, np.ndarray]
Attributes = Sequence[tuple[str, Sequence[str]]]


def gather(
    outputs: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    sources: Sequence[str],
    faces: Mapping[int, np.ndarray] | None = None,
    hierarchy: Hierarchy | None = None,
    attributes: Attributes = (),
) -> dict[str, np.ndarray]:
    """Return the outputs of an evaluation in the form in which they are stored.

    Args:
        outputs: per-example arrays of n rows: `index`; labels `expression`, `expression_probs`,
            `valence_arousal`, `true_landmarks`, `attributes` (-1 or NaN where missing); predictions
            `logits` [n, N], `valence` [n], `arousal` [n], `landmarks` [n, 68, 2] in pixels of the
            network's input. All except `index` may be absent.
        class_names: the N names.
        sources: per row, the file and row that it comes from.
        faces: index -> uint8 image [H, W, 3] as the network saw it, of some rows.
        hierarchy: tree over the classes, in the order of their ids; None: none.
        attributes: name of each attribute, and the names of its values.
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
        stored["logits"] = np.asarray(outputs["logits"])
        stored["probabilities"] = softmax(outputs["logits"]).astype(np.float32)
        labels = outputs.get("expression", np.full(len(index), MISSING_ID))
        stored["expression"] = np.asarray(labels, np.int32)
        stored |= _tree_arrays(hierarchy) if hierarchy is not None else {}
        if "expression_probs" in outputs:
            stored["expression_probs"] = np.asarray(outputs["expression_probs"], np.float32)
    if "valence" in outputs and "arousal" in outputs:
        pair = np.stack([outputs["valence"], outputs["arousal"]], axis=-1)
        stored["valence_arousal_predicted"] = pair.astype(np.float32)
        labels = outputs.get("valence_arousal", np.full((len(index), 2), np.nan))
        stored["valence_arousal"] = np.asarray(labels, np.float32)
    if attributes and "attributes" in outputs:
        stored |= _attribute_arrays(outputs["attributes"], attributes)
    landmarks = outputs.get("landmarks") if "true_landmarks" in outputs else None
    if landmarks is not None:
        errors = landmark_errors(landmarks, outputs["true_landmarks"])
        stored |= {name: values.astype(np.float32) for name, values in errors.items()}
    rows = {int(i): row for row, i in enumerate(index)}
    faces = faces or {}
    shown = [i for i in faces if i in rows]
    if shown:
        face_row = np.array([rows[i] for i in shown], np.int64)
        stored["face_row"] = face_row
        stored["face_image"] = np.stack([np.asarray(faces[i], np.uint8) for i in shown])
        if landmarks is not None:
            stored["face_landmarks_predicted"] = landmarks[face_row].astype(np.float32)
            true = outputs["true_landmarks"]
            stored["face_landmarks"] = np.asarray(true)[face_row].astype(np.float32)
    return stored


def _tree_arrays(hierarchy: Hierarchy) -> dict[str, np.ndarray]:
    arrays = {
        "coarse_names": np.array(hierarchy.coarse, str),
        "coarse_of": np.array(hierarchy.coarse_of, np.int32),
    }
    if hierarchy.poles:
        arrays["pole_names"] = np.array(hierarchy.poles, str)
        arrays["pole_of"] = np.array(hierarchy.pole_of, np.int32)
    return arrays


def _attribute_arrays(codes: np.ndarray, attributes: Attributes) -> dict[str, np.ndarray]:
    longest = max(len(values) for _, values in attributes)
    filled = [[*values, *[""] * (longest - len(values))] for _, values in attributes]
    return {
        "attributes": np.asarray(codes, np.int32),
        "attribute_names": np.array([name for name, _ in attributes], str),
        "attribute_values": np.array(filled, str),
    }


def attributes_of(source: Source) -> Attributes:
    """Return the attributes of a source, as `gather` takes them."""
    values = source.attribute_values
    # A file of features need not name the values.
    return [(n, values[i] if i < len(values) else ()) for i, n in enumerate(source.attribute_names)]


def stored_hierarchy(stored: StoredPredictions) -> Hierarchy | None:
    """Return the tree over the classes of stored predictions; None: none."""
    if "coarse_of" not in stored:
        return None
    has_poles = "pole_of" in stored
    return Hierarchy(
        name="of the predictions",
        fine=tuple(stored["class_names"].tolist()),
        coarse=tuple(stored["coarse_names"].tolist()),
        coarse_of=tuple(stored["coarse_of"].tolist()),
        poles=tuple(stored["pole_names"].tolist()) if has_poles else (),
        pole_of=tuple(stored["pole_of"].tolist()) if has_poles else (),
    )


def choose_faces(outputs: Mapping[str, np.ndarray], count: int = 12) -> list[int]:
    """Return values of `index` to show, spread evenly over the classes.

    Args:
        outputs: as in `gather`; the predictions do not matter.
        count: maximum number.
    """
    index = np.asarray(outputs["index"])
    labels = np.asarray(outputs.get("expression", np.full(len(index), MISSING_ID)))
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
    """Return the images of some examples by index; stop reading once all are found.

    Args:
        batches: host batches of one pass, with `image` uint8 [B, H, W, 3], `index` and `mask`.
        indices: the examples wanted. Those that do not occur (another process has them, or the
            record is unreadable) are left out.
    """
    wanted, found = set(indices), {}
    for batch in batches:
        for row, index in enumerate(np.asarray(batch["index"]).tolist()):
            if index in wanted and index not in found and batch["mask"][row]:
                found[index] = np.array(batch["image"][row])
        if len(found) == len(wanted):
            break
    return {index: found[index] for index in indices if index in found}


def write(
    workdir: str | os.PathLike,
    outputs: Mapping[str, np.ndarray],
    source: Source,
    *,
    hierarchy: Hierarchy | None = None,
    batches: Iterable[Mapping[str, np.ndarray]] | None = None,
    face_count: int = 12,
) -> None:
    """Store the predictions of the test split in `workdir/report`.

    Args:
        workdir: the run's folder.
        outputs: as in `gather`.
        source: of the examples; gives class names and file names.
        hierarchy: tree over the classes; None: none.
        batches: one pass over the same examples, to take the images of a few faces from; None: no
            faces are stored.
        face_count: faces to store.
    """
    folder = Path(workdir) / REPORT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    faces = fetch_faces(batches, choose_faces(outputs, face_count)) if batches is not None else {}
    names = [source.describe(int(i)) for i in outputs["index"]]
    attributes = attributes_of(source)
    save(folder, gather(outputs, source.class_names, names, faces, hierarchy, attributes))


def save(folder: Path, stored: StoredPredictions) -> None:
    """Write `predictions.npz` and `predictions.csv`, each atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **stored)  # type: ignore[arg-type]  # the stub sees `allow_pickle`
    write_atomically(folder / ARRAYS_FILE, buffer.getvalue())
    write_atomically(folder / TABLE_FILE, _table(stored).encode())


def load(folder: Path) -> dict[str, np.ndarray]:
    """Read what `save` wrote."""
    with np.load(folder / ARRAYS_FILE, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def finite_rows(stored: StoredPredictions) -> np.ndarray:
    """Return bool [n], False where a prediction is not a number."""
    finite = np.ones(len(stored["index"]), bool)
    for name in ("probabilities", "valence_arousal_predicted"):
        if name in stored:
            finite &= np.isfinite(stored[name]).all(axis=1)
    return finite


def _table(stored: StoredPredictions) -> str:
    names = stored["class_names"].tolist()
    columns: dict[str, Iterable[object]] = {"index": stored["index"], "source": stored["source"]}
    if "probabilities" in stored:
        columns["expression"], columns["expression_predicted"] = class_columns(stored)
        columns |= coarse_columns(stored)
        for i, name in enumerate(names):
            columns[f"p_{name}"] = _numbers(stored["probabilities"][:, i])
    if "valence_arousal_predicted" in stored:
        for i, name in enumerate(("valence", "arousal")):
            columns[name] = _numbers(stored["valence_arousal"][:, i])
            columns[f"{name}_predicted"] = _numbers(stored["valence_arousal_predicted"][:, i])
    for name in LandmarkStatistics.FIGURES:
        if name in stored:
            columns[name] = _numbers(stored[name])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def class_columns(stored: StoredPredictions) -> tuple[list[str], list[str]]:
    """Return true and predicted class names by row; empty where unknown."""
    names = stored["class_names"].tolist()
    true, predicted = (
        [names[c] if c >= 0 else "" for c in ids]
        for ids in (stored["expression"], _predicted_ids(stored))
    )
    return true, predicted


def coarse_columns(stored: StoredPredictions) -> dict[str, list[str]]:
    """Return the columns of a table that a tree over the classes adds; {}: there is none.

    `coarse` and `coarse_predicted` are the coarse classes of label and predicted class,
    `coarse_probability` the sum of the probabilities of the classes in the predicted one. They are
    empty where unknown.
    """
    if (hierarchy := stored_hierarchy(stored)) is None:
        return {}
    # The last entry is for id -1.
    names = np.array([*(hierarchy.coarse[c] for c in hierarchy.coarse_of), ""])
    coarse_of = np.array([*hierarchy.coarse_of, 0])
    guesses = _predicted_ids(stored)
    sums = group_sums(hierarchy, stored["probabilities"])
    return {
        "coarse": names[stored["expression"]].tolist(),
        "coarse_predicted": names[guesses].tolist(),
        "coarse_probability": _numbers(sums[np.arange(len(guesses)), coarse_of[guesses]]),
    }


def _predicted_ids(stored: StoredPredictions) -> np.ndarray:
    """Return the predicted class of each row; -1 where it is not a number."""
    probabilities = stored["probabilities"]
    return np.where(np.isfinite(probabilities).all(axis=1), probabilities.argmax(axis=1), -1)


def _numbers(values: np.ndarray) -> list[str]:
    return [f"{value:.5g}" if np.isfinite(value) else "" for value in values]
