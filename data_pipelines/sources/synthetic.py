"""Synthetic faces with expressions: a labelled picture from (seed, index), nothing stored.

Every random choice is a hash of the seed and of what it belongs to (person, video, frame), so that
record i is the same in every process, in any order and for any size of the source. Frames of a
video share person, light and expression and move smoothly; persons are disjoint between splits.
The drawing is in `data_pipelines.rendering`; `docs/synthetic.md` describes the model.
"""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from data_pipelines.rendering import camera as sensor_model
from data_pipelines.rendering import clip, expressions, geometry, hashing, identity
from data_pipelines.rendering.painter import Painter
from data_pipelines.schema import FOREHEAD, DataError

VERSION = 1
CLASS_NAMES = expressions.CLASS_NAMES
# Each split owns 2^40 person numbers.
SPLITS = {"train": 0, "validation": 1, "test": 2}
_SPLIT_STRIDE = 1 << 40
_MAX_SIZE = 1 << 31
# Pairs that people confuse: neutral-sad, happy-contempt, surprise-fear, disgust-anger.
_CONFUSABLE = np.array([2, 7, 0, 4, 3, 6, 5, 1])
# Smaller pictures are drawn at this size and scaled down.
_MIN_CANVAS = 96
# Streams of random numbers: an argument of `hashing.fold`.
_PERSON, _VIDEO, _CLASS, _FRAME, _LABEL, _BACKGROUND = range(6)


@dataclasses.dataclass(frozen=True)
class Options:
    """Knobs of the source; shares are probabilities in [0, 1].

    Attributes:
      frames_per_video: consecutive indices that form one video.
      videos_per_person: consecutive videos of one person.
      frame_time: time between frames; an expression's intensity swings once in 1.3 to 4 units, a
        head sways once in 1.7 to 5.
      imbalance: ratio of the most to the least frequent class; 1 is balanced. Frequencies fall
        geometrically in the order neutral, happy, sad, surprise, fear, disgust, anger, contempt.
      symmetric_noise: share of expression labels replaced by another class at random.
      confusable_noise: share replaced by the class that it is most often mistaken for.
      missing_expression, missing_valence_arousal, missing_landmarks: shares of missing labels.
      domain: "a", or "b" for a second camera: colder, flatter, coarser, and heads turned further.
    """

    frames_per_video: int = 4
    videos_per_person: int = 4
    frame_time: float = clip.FRAME_TIME
    imbalance: float = 1.0
    symmetric_noise: float = 0.0
    confusable_noise: float = 0.0
    missing_expression: float = 0.0
    missing_valence_arousal: float = 0.0
    missing_landmarks: float = 0.0
    domain: str = "a"

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name.endswith(("_video", "_person", "imbalance")):
                bad = not value >= 1 and "at least 1"
            elif name == "domain":
                bad = value not in ("a", "b") and '"a" or "b"'
            elif name == "frame_time":
                bad = not value > 0 and "positive"
            else:
                bad = not 0.0 <= value <= 1.0 and "in [0, 1]"
            if bad:
                raise DataError(f"synthetic faces: {name} must be {bad}, not {value!r}")
        if self.symmetric_noise + self.confusable_noise > 1.0:
            raise DataError("synthetic faces: symmetric_noise + confusable_noise exceed 1")


# Knobs that spoil labels or their balance: only the training split gets them from a config.
_TRAINING_ONLY = (
    "imbalance",
    "symmetric_noise",
    "confusable_noise",
    "missing_expression",
    "missing_valence_arousal",
    "missing_landmarks",
)


def _known(names: Mapping[str, Any], known: list[str]) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
            raise DataError(f"synthetic faces have no knob {name!r}{hint}")


@dataclasses.dataclass(frozen=True)
class _Labels:
    """What is known of records without drawing them; arrays of one length."""

    person: np.ndarray
    video: np.ndarray
    true: np.ndarray
    given: np.ndarray


class SyntheticFaces:
    """A source of synthetic faces (follows `data_pipelines.schema.Source`).

    `source[i]` is a dict: `image` uint8 [S, S, 3] RGB; `expression` int32, -1 when missing;
    `true_expression` int32, never missing and without label noise; `valence_arousal` float32 [2]
    in [-1, 1], NaN when missing; `landmarks` float32 [68, 2] in pixels, NaN when missing; `box`
    float32 [4] (x0, y0, x1, y1) around the face; `group` int32, the video; `attributes` int32 [3]
    in the order of `attribute_names`. Reading is thread-safe and a source can be pickled.

    Args:
      size: number of records, below 2^31.
      seed: draws all persons, videos and labels.
      split: "train", "validation" or "test"; one seed gives them different persons.
      image_size: side of the picture in pixels, at least 32.
      version: of appearance and labels; only the current one exists.
      knobs: fields of `Options`.

    Raises:
      DataError: an argument is impossible or a knob unknown.
    """

    class_names = CLASS_NAMES
    num_classes = len(CLASS_NAMES)
    attribute_names = identity.ATTRIBUTE_NAMES
    attribute_values = identity.ATTRIBUTE_VALUES
    has = frozenset({"expression", "valence_arousal", "landmarks", "attributes"})

    def __init__(
        self,
        size: int,
        *,
        seed: int = 0,
        split: str = "train",
        image_size: int = 128,
        version: int = VERSION,
        **knobs: Any,
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
        _known(knobs, [field.name for field in dataclasses.fields(Options)])
        self.size, self.seed, self.image_size = int(size), int(seed), int(image_size)
        self.split, self.version, self.options = split, version, Options(**knobs)
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
    def groups(self) -> np.ndarray:
        """int32 [n], the video of each record."""
        return self._all.video.astype(np.int32)

    @property
    def tracks(self) -> np.ndarray:
        """int32 [n], the same: frames of a video are neighbours."""
        return self.groups

    @property
    def persons(self) -> np.ndarray:
        """int64 [n], the person of each record; no person is in two splits."""
        return self._all.person

    @property
    def attributes(self) -> np.ndarray:
        """int32 [n, 3], in the order of `attribute_names`."""
        return identity.attributes(self._fold(_PERSON, self.persons))

    def record_columns(self) -> dict[str, Any]:
        """Returns what `fingerprint` compares of each record; the rest is drawn from `options`."""
        return {"person": [str(p) for p in self.persons.tolist()]}

    def record_facts(self) -> dict[str, Any]:
        """Returns what all records are drawn from."""
        drawn_from = {name: getattr(self, name) for name in ("seed", "version", "image_size")}
        return {"synthetic": drawn_from | dataclasses.asdict(self.options)}

    def describe(self, i: int) -> str:
        """Where record i comes from, for messages."""
        labels = self._draw_labels(np.array([i]))
        return (
            f"synthetic face {i} ({self.split}, seed {self.seed}, person {labels.person[0]}, "
            f"video {labels.video[0]}, {self.class_names[labels.true[0]]})"
        )

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Record i, drawn anew."""
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

        chance, which, missing = hashing.uniforms(self._fold(_LABEL, person, index), 3).T
        other = (true + 1 + (which * (classes - 1)).astype(int)) % classes
        noise = o.symmetric_noise + o.confusable_noise
        given = np.where(chance < noise, _CONFUSABLE[true], true)
        given = np.where(chance < o.symmetric_noise, other, given)
        given = np.where(missing < o.missing_expression, -1, given)
        return _Labels(person, video, true.astype(np.int32), given.astype(np.int32))

    def _record(self, index: int, labels: _Labels, row: int) -> dict[str, Any]:
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

        muscles, valence_arousal = clip.expression(true, person, u, n, jitter, time)
        scene, obstacle = clip.scene_numbers(u)
        painter = Painter(
            person,
            muscles,
            geometry.landmarks(person, muscles),
            clip.camera(u, n, time, size, shifted),
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
        }


def render(
    seed: int,
    index: int,
    *,
    split: str = "train",
    image_size: int = 128,
    version: int = VERSION,
    **knobs: Any,
) -> dict[str, Any]:
    """The record that every `SyntheticFaces` of this seed, split and knobs holds at `index`."""
    source = SyntheticFaces(
        index + 1, seed=seed, split=split, image_size=image_size, version=version, **knobs
    )
    return source._record(index, source._draw_labels(np.array([index])), 0)


def make_sources(config: Mapping[str, Any]) -> dict[str, SyntheticFaces]:
    """Training, validation and test sources of `config.data`; no person is in two of them.

    Reads the section `synthetic`: `num_train`, `num_validation`, `num_test`, `render_size`, `seed`,
    `version`, `test_domain` (`domain` of the test split alone; "": the same), and the knobs of
    `Options`. Label noise, missing labels and imbalance touch training only.

    Raises:
      DataError: a key is unknown or its value impossible.
    """
    section = dict(config.get("synthetic") or {})
    knobs = [field.name for field in dataclasses.fields(Options)]
    own = ["num_train", "num_validation", "num_test", "render_size", "seed", "version"]
    _known(section, [*own, "test_domain", *knobs])
    sizes = {
        "train": section.pop("num_train", 4096),
        "validation": section.pop("num_validation", 512),
        "test": section.pop("num_test", 512),
    }
    image_size, seed = section.pop("render_size", 128), section.pop("seed", 0)
    test_domain = section.pop("test_domain", "") or section.get("domain", "a")
    sources = {}
    for split, size in sizes.items():
        own = {k: v for k, v in section.items() if split == "train" or k not in _TRAINING_ONLY}
        if split == "test":
            own["domain"] = test_domain
        sources[split] = SyntheticFaces(size, seed=seed, split=split, image_size=image_size, **own)
    return sources
