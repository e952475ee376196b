"""Synthetic faces with expressions: an image from (seed, index); none is stored.

Every random choice is a hash of the seed and of what it belongs to (person, video, frame), so that
record i is the same in every process, in any order and for any size of the source. Frames of a
video share person, light and expression and move smoothly; persons are disjoint between splits.
The drawing is in `data_pipelines.rendering`; `docs/synthetic.md` describes the model.
"""

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np

from data_pipelines.defaults import FaceOptions, SyntheticConfig
from data_pipelines.rendering import camera as sensor_model
from data_pipelines.rendering import (
    clip,
    expressions,
    fine_expressions,
    geometry,
    hashing,
    identity,
)
from data_pipelines.rendering.painter import Painter
from data_pipelines.schema import FOREHEAD, DataError, Record

VERSION = 1
# Versions of the labels, by `FaceOptions.classes`; the appearance is the same.
LABEL_VERSIONS = {"basic": 1, "fg_emotions": 2}
# Each split owns 2^40 person numbers.
SPLITS = {"train": 0, "validation": 1, "test": 2}
_SPLIT_STRIDE = 1 << 40
_MAX_SIZE = 1 << 31
# Basic classes that people confuse: neutral-sad, happy-contempt, surprise-fear, disgust-anger.
_CONFUSABLE = np.array([2, 7, 0, 4, 3, 6, 5, 1])
# Smaller images are drawn at this size and scaled down.
_MIN_CANVAS = 96
# Streams of random numbers: an argument of `hashing.fold`.
_PERSON, _VIDEO, _CLASS, _FRAME, _LABEL, _BACKGROUND, _MIXTURE = range(7)


@dataclasses.dataclass(frozen=True)
class _Labels:
    """Labels of records, known without drawing them; arrays of one length.

    Attributes:
      person, video: their numbers.
      true: the class that is shown, of a mixture the one with the largest weight.
      given: the label, -1 when missing.
      mixture: of each record; None for basic classes.
    """

    person: np.ndarray
    video: np.ndarray
    true: np.ndarray
    given: np.ndarray
    mixture: fine_expressions.Mixtures | None = None


class SyntheticFaces:
    """A source of synthetic faces (follows `data_pipelines.schema.Source`).

    `source[i]` is a dict: `image` uint8 [S, S, 3] RGB; `expression` int32, -1 when missing;
    `true_expression` int32, never missing and without label noise; `valence_arousal` float32 [2]
    in [-1, 1], NaN when missing; `landmarks` float32 [68, 2] in pixels, NaN when missing; `box`
    float32 [4] (x0, y0, x1, y1) around the face; `group` int32, the video; `attributes` int32 [3]
    in the order of `attribute_names`. Reading is thread-safe and a source can be pickled.

    With `classes="fg_emotions"` a face shows a mixture of the 33 fine classes (one alone at
    `ambiguity=0`), the same in all frames of a video: `expression_probs` float32 [33], which sums
    to 1. `expression` is drawn from it for each frame; `true_expression` has its largest weight.

    Args:
      size: number of records, below 2^31.
      seed: draws all persons, videos and labels.
      split: "train", "validation" or "test"; one seed gives them different persons.
      image_size: side of the image in pixels, at least 32.
      version: of appearance and labels; only the current one exists.
      options: fields of `FaceOptions`.

    Attributes:
      class_names: names of the classes.
      num_classes: their number, 8 or 33.
      is_fine: whether they are the 33 fine ones.
      hierarchy: the tree of the classes, "" for the basic ones.
      has: label fields of a record.

    Raises:
      DataError: an argument is impossible or an option unknown.
    """

    attribute_names = identity.ATTRIBUTE_NAMES
    attribute_values = identity.ATTRIBUTE_VALUES
    group_names = ()
    has_persons = True

    def __init__(
        self,
        size: int,
        *,
        seed: int = 0,
        split: str = "train",
        image_size: int = 128,
        version: int = VERSION,
        **options: Any,
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"synthetic faces: split {split!r} is not one of {', '.join(SPLITS)}")
        if version != VERSION:
            raise DataError(f"synthetic faces: version {version} is not the current one, {VERSION}")
        if not 0 <= size < _MAX_SIZE or image_size < 32:
            raise DataError(
                f"synthetic faces: size ({size}) must lie in [0, 2^31) and image_size "
                f"({image_size}) must be at least 32"
            )
        self.size, self.seed, self.image_size = int(size), int(seed), int(image_size)
        self.split, self.version, self.options = split, version, FaceOptions.of(options)
        self.class_names: tuple[str, ...] = expressions.CLASS_NAMES
        self.hierarchy, self.is_fine = "", self.options.classes == "fg_emotions"
        self.has = frozenset({"expression", "valence_arousal", "landmarks", "attributes"})
        if self.is_fine:
            self.class_names, self.hierarchy = fine_expressions.CLASS_NAMES, self.options.classes
            self.has |= {"expression_probs"}
        self.num_classes = len(self.class_names)
        self._streams = [
            hashing.extend(0, self.seed, version, stream)
            for stream in (_PERSON, _VIDEO, _BACKGROUND, _FRAME)
        ]

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return (
            f"SyntheticFaces({self.size}, seed={self.seed}, split={self.split!r}, "
            f"image_size={self.image_size}, version={self.version}, {self.options})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_all"}

    @property
    def labels(self) -> np.ndarray:
        """int32 [n], the given expression labels (with noise; -1 = missing)."""
        return self._all.given

    @property
    def true_labels(self) -> np.ndarray:
        """int32 [n], the expressions that are shown."""
        return self._all.true

    @property
    def true_mixtures(self) -> np.ndarray:
        """float32 [n, N], the mixtures of classes that are shown; one-hot for basic classes."""
        if self._all.mixture is not None:
            return self._all.mixture.dense()
        return np.eye(self.num_classes, dtype=np.float32)[self.true_labels]

    @property
    def groups(self) -> np.ndarray:
        """int32 [n], the video of each record."""
        return self._all.video.astype(np.int32)

    @property
    def tracks(self) -> np.ndarray:
        """int32 [n], the same: frames of a video are neighbours."""
        return self.groups

    @property
    def persons(self) -> list[str]:
        """Number of the person of each record; no person is in two splits."""
        return [str(person) for person in self._all.person.tolist()]

    @property
    def attributes(self) -> np.ndarray:
        """int32 [n, 3], in the order of `attribute_names`."""
        return identity.attributes(self._fold(_PERSON, self._all.person))

    def record_columns(self) -> dict[str, np.ndarray | list[str]]:
        """Return the persons; the rest is drawn from the options."""
        return {"person": self.persons}

    def record_facts(self) -> dict[str, Any]:
        """Return what all records are drawn from."""
        drawn_from = {name: getattr(self, name) for name in ("seed", "version", "image_size")}
        drawn_from["label_version"] = LABEL_VERSIONS[self.options.classes]
        return {"synthetic": drawn_from | dataclasses.asdict(self.options)}

    def describe(self, i: int) -> str:
        """Return split, person, video and expression of record i, for messages."""
        labels = self._draw_labels(np.array([i]))
        return (
            f"synthetic face {i} ({self.split}, seed {self.seed}, person {labels.person[0]}, "
            f"video {labels.video[0]}, {self.class_names[labels.true[0]]})"
        )

    def __getitem__(self, i: int) -> Record:
        """Return record i, drawn anew."""
        i = int(i)
        if not -self.size <= i < self.size:
            raise IndexError(f"synthetic faces: {i} is outside a source of {self.size}")
        i %= self.size
        return self._record(i, self._all, i)

    @functools.cached_property
    def _all(self) -> _Labels:
        return self._draw_labels(np.arange(self.size))

    def _fold(self, stream: int, *parts: int | np.ndarray) -> np.ndarray:
        return hashing.fold(self.seed, self.version, stream, *parts)

    def _draw_labels(self, index: np.ndarray) -> _Labels:
        o, classes = self.options, self.num_classes
        video = index // o.frames_per_video
        person = SPLITS[self.split] * _SPLIT_STRIDE + video // o.videos_per_person
        u = hashing.uniforms(self._fold(_CLASS, person, video), 1)[:, 0]
        shares = o.imbalance ** (-np.arange(classes) / (classes - 1))
        edges = np.cumsum(shares / shares.sum())
        true = np.minimum(np.searchsorted(edges, u, side="right"), classes - 1)

        chance, which, missing, choice = hashing.uniforms(self._fold(_LABEL, person, index), 4).T
        mixture, given, confusable = None, true, _CONFUSABLE
        if self.is_fine:
            u = hashing.uniforms(self._fold(_MIXTURE, person, video), 3)
            mixture = fine_expressions.mixtures(true, u, o.ambiguity)
            given, confusable = mixture.draw(choice), fine_expressions.neighbours()[:, 0]
        other = (given + 1 + (which * (classes - 1)).astype(int)) % classes
        noise = o.symmetric_noise + o.confusable_noise
        wrong = np.where(chance < o.symmetric_noise, other, confusable[given])
        given = np.where(chance < noise, wrong, given)
        given = np.where(missing < o.missing_expression, -1, given)
        true, given = true.astype(np.int32), given.astype(np.int32)
        return _Labels(person, video, true, given, mixture)

    def _record(self, index: int, labels: _Labels, row: int) -> Record:
        o = self.options
        person_id, video, true = (int(x[row]) for x in (labels.person, labels.video, labels.true))
        person_key, video_key, background_key, frame_key = self._streams
        keys = [
            hashing.extend(person_key, person_id),
            hashing.extend(video_key, person_id, video),
            hashing.extend(background_key, person_id, video),
            hashing.extend(frame_key, person_id, index),
        ]
        traits, (u, n), (blobs, _), ((grain_x, grain_y, *missing), jitter) = hashing.draw(
            keys, [identity.NUMBERS, clip.NUMBERS, (clip.BLOBS, 0), (4, 2)]
        )
        person = identity.describe(*traits)
        time = o.frame_time * (index % o.frames_per_video)
        shifted = o.domain == "b"
        size = max(self.image_size, _MIN_CANVAS)

        head, votes = clip.STILL, {}
        if labels.mixture is None:
            muscles, valence_arousal = clip.expression(true, person, u, n, jitter, time)
        else:
            mixture = labels.mixture.of(row)
            muscles, head, valence_arousal = clip.fine_expression(
                mixture, person, u, n, jitter, time
            )
            votes = {"expression_probs": mixture.dense()[0]}
        scene, obstacle = clip.scene_numbers(u)
        painter = Painter(
            person,
            muscles,
            geometry.landmarks(person, muscles),
            clip.camera(u, n, time, size, shifted, head),
            clip.light(u, n),
            clip.background(u, blobs, size),
            scene,
            obstacle,
        )
        sensor = sensor_model.draw(clip.sensor_numbers(u), shifted)
        image = sensor_model.expose(painter.paint(), sensor, grain_x, grain_y)
        landmarks = painter.landmarks
        if size != self.image_size:
            shape = (self.image_size, self.image_size)
            image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
            landmarks = (landmarks + 0.5) * (self.image_size / size) - 0.5
        landmarks = landmarks.astype(np.float32)
        x, y = landmarks.T.tolist()
        x0, y0, x1, y1 = min(x), min(y), max(x), max(y)
        if missing[0] < o.missing_valence_arousal:
            valence_arousal = np.full(2, np.nan, np.float32)
        if missing[1] < o.missing_landmarks:
            landmarks = np.full_like(landmarks, np.nan)
        return {
            "image": image,
            "expression": np.int32(labels.given[row]),
            "true_expression": np.int32(true),
            "valence_arousal": valence_arousal,
            "landmarks": landmarks,
            "box": np.array([x0, y0 - FOREHEAD * (y1 - y0), x1, y1], np.float32),
            "group": np.int32(video),
            "attributes": np.array(person.attributes, np.int32),
            **votes,
        }


def render(
    seed: int,
    index: int,
    *,
    split: str = "train",
    image_size: int = 128,
    version: int = VERSION,
    **options: Any,
) -> Record:
    """Return the record at `index` of a `SyntheticFaces` with these settings."""
    source = SyntheticFaces(
        index + 1, seed=seed, split=split, image_size=image_size, version=version, **options
    )
    return source._record(index, source._draw_labels(np.array([index])), 0)


def synthetic_sources(section: SyntheticConfig) -> dict[str, SyntheticFaces]:
    """Return train, validation and test sources of `data.synthetic`.

    Errors are those that the sources raise.
    """
    sizes = {
        "train": section.num_train,
        "validation": section.num_validation,
        "test": section.num_test,
    }
    return {
        split: SyntheticFaces(
            size,
            seed=section.seed,
            split=split,
            image_size=section.render_size,
            version=section.version,
            **dataclasses.asdict(section.options(split)),
        )
        for split, size in sizes.items()
    }
