"""Synthetic faces with expressions: a labelled picture from (seed, index), random access, nothing stored.

Every random choice is a hash of the seed and of what it belongs to (person, video, frame), so that
record i is the same in every process, in any order and for any size of the source. Frames of a video
share person, light and expression and move smoothly; persons are disjoint between splits.
"""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from data_pipelines.example import DataError
from data_pipelines.rendering import camera as sensor_model
from data_pipelines.rendering import expressions, geometry, hashing, identity
from data_pipelines.rendering.painter import Painter
from data_pipelines.rendering.shading import Light

VERSION = 1
CLASS_NAMES = expressions.CLASS_NAMES
FIELDS = ("expression", "valence_arousal", "landmarks")
# Each split owns 2^40 person numbers.
SPLITS = {"train": 0, "validation": 1, "test": 2}
_SPLIT_STRIDE = 1 << 40
_CONFUSABLE = np.array(
    [2, 7, 0, 4, 3, 6, 5, 1]
)  # neutral-sad, happy-contempt, surprise-fear, disgust-anger

# Streams of random numbers; each is one argument of `hashing.fold`.
_PERSON, _VIDEO, _FRAME, _NOISE = range(4)


@dataclasses.dataclass(frozen=True)
class Options:
    """Knobs of the source; shares are probabilities in [0, 1].

    Attributes:
      frames_per_video: consecutive indices that form one video.
      videos_per_person: consecutive videos of one person.
      imbalance: ratio of the most to the least frequent class; 1 is balanced. Frequencies fall
        geometrically in the order neutral, happy, sad, surprise, fear, disgust, anger, contempt.
      symmetric_noise: share of expression labels replaced by another class at random.
      confusable_noise: share replaced by the class that it is most often mistaken for.
      missing_expression, missing_valence_arousal, missing_landmarks: shares of missing labels.
      domain: "a" or "b", the camera that takes the pictures.
    """

    frames_per_video: int = 4
    videos_per_person: int = 4
    imbalance: float = 1.0
    symmetric_noise: float = 0.0
    confusable_noise: float = 0.0
    missing_expression: float = 0.0
    missing_valence_arousal: float = 0.0
    missing_landmarks: float = 0.0
    domain: str = "a"

    def __post_init__(self) -> None:
        for name in ("frames_per_video", "videos_per_person"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"synthetic faces: {name} must be at least 1, not {getattr(self, name)}"
                )
        if self.imbalance < 1.0:
            raise ValueError(f"synthetic faces: imbalance must be at least 1, not {self.imbalance}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("missing_") or field.name.endswith("_noise"):
                if not 0.0 <= value <= 1.0:
                    raise ValueError(
                        f"synthetic faces: {field.name} must lie in [0, 1], not {value}"
                    )
        if self.domain not in ("a", "b"):
            raise ValueError(f'synthetic faces: domain must be "a" or "b", not {self.domain!r}')
        if self.symmetric_noise + self.confusable_noise > 1.0:
            raise ValueError("synthetic faces: symmetric_noise + confusable_noise exceed 1")


def _options(knobs: Mapping[str, Any]) -> Options:
    known = [field.name for field in dataclasses.fields(Options)]
    for name in knobs:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
            raise TypeError(f"synthetic faces have no knob {name!r}{hint}")
    return Options(**knobs)


@dataclasses.dataclass(frozen=True)
class _Labels:
    """What is known of many records without drawing them; arrays of one length."""

    person: np.ndarray
    video: np.ndarray
    frame: np.ndarray
    true: np.ndarray
    given: np.ndarray


class SyntheticFaces:
    """A source of synthetic faces (the `Source` protocol of `data_pipelines.sources`).

    `source[i]` is a dict: `image` uint8 [S, S, 3] RGB; `expression` int32, -1 when missing;
    `true_expression` int32, without label noise; `valence_arousal` float32 [2] in [-1, 1], NaN when
    missing; `landmarks` float32 [68, 2] pixels (integers are pixel centres), NaN when missing; `box`
    float32 [4] (x0, y0, x1, y1), brows to chin and some forehead; `group` int32, the video;
    `attributes` int32 [3] (see `attribute_names`).

    Args:
      size: number of records.
      seed: draws all persons, videos and labels.
      split: "train", "validation" or "test"; the same seed gives disjoint persons.
      image_size: side of the picture in pixels, at least 32.
      version: of appearance and labels; only the current one exists.
      knobs: fields of `Options`.

    Raises:
      ValueError: for an impossible argument. TypeError: for an unknown knob.
    """

    class_names = CLASS_NAMES
    num_classes = len(CLASS_NAMES)
    attribute_names = identity.ATTRIBUTE_NAMES
    has = frozenset({*FIELDS, "box", "group", "attributes"})

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
            raise ValueError(
                f"synthetic faces: split must be one of {', '.join(SPLITS)}, not {split!r}"
            )
        if version != VERSION:
            raise ValueError(
                f"synthetic faces: version {version} does not exist, the current one is {VERSION}"
            )
        if size < 0 or image_size < 32:
            raise ValueError(
                f"synthetic faces: size {size} must be >= 0 and image_size {image_size} >= 32"
            )
        self.size, self.seed, self.split, self.image_size = (
            int(size),
            int(seed),
            split,
            int(image_size),
        )
        self.version, self.options = version, _options(knobs)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"SyntheticFaces({self.size}, seed={self.seed}, split={self.split!r}, image_size={self.image_size})"

    def _draw_labels(self, index: np.ndarray) -> _Labels:
        o = self.options
        video, frame = np.divmod(index, o.frames_per_video)
        person = SPLITS[self.split] * _SPLIT_STRIDE + video // o.videos_per_person
        u = hashing.uniforms(hashing.fold(self.seed, VERSION, _VIDEO, person, video), 1)
        shares = o.imbalance ** (-np.arange(self.num_classes) / (self.num_classes - 1))
        edges = np.cumsum(shares / shares.sum())
        true = np.minimum(np.searchsorted(edges, u[:, 0], side="right"), self.num_classes - 1)
        n = hashing.uniforms(hashing.fold(self.seed, VERSION, _NOISE, person, index), 3)
        other = (true + 1 + (n[:, 1] * (self.num_classes - 1)).astype(np.int64)) % self.num_classes
        given = np.where(n[:, 0] < o.symmetric_noise, other, true)
        swap = (n[:, 0] >= o.symmetric_noise) & (n[:, 0] < o.symmetric_noise + o.confusable_noise)
        given = np.where(swap, _CONFUSABLE[true], given)
        given = np.where(n[:, 2] < o.missing_expression, -1, given)
        return _Labels(person, video, frame, true.astype(np.int32), given.astype(np.int32))

    @functools.cached_property
    def _all(self) -> _Labels:
        return self._draw_labels(np.arange(self.size))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_all"}

    @property
    def labels(self) -> np.ndarray:
        """int32 [n], the given expression labels (with noise; -1 = missing), without drawing."""
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
    def persons(self) -> np.ndarray:
        """int64 [n], the person of each record; disjoint between splits."""
        return self._all.person

    @property
    def attributes(self) -> np.ndarray:
        """int32 [n, 3], in the order of `attribute_names`, without drawing."""
        return identity.attributes(self._person_key(self._all.person))

    def _person_key(self, person: np.ndarray) -> np.ndarray:
        return hashing.fold(self.seed, VERSION, _PERSON, person)

    def describe(self, index: int) -> str:
        """Where record `index` comes from, for messages."""
        labels = self._draw_labels(np.array([index]))
        return (
            f"synthetic face {index} (split {self.split}, seed {self.seed}, person {labels.person[0]}, "
            f"video {labels.video[0]}, frame {labels.frame[0]}, {self.class_names[labels.true[0]]})"
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        if not -self.size <= index < self.size:
            raise IndexError(f"synthetic faces: index {index} is outside a source of {self.size}")
        return self._record(index % self.size)

    def _record(self, index: int) -> dict[str, Any]:
        labels = self._draw_labels(np.array([index]))
        person_id, video, frame = labels.person[0], labels.video[0], int(labels.frame[0])
        true = int(labels.true[0])
        key = self._person_key(labels.person)
        person = identity.draw(key)
        v = hashing.uniforms(hashing.fold(self.seed, VERSION, _VIDEO, person_id, video, 1), 64)[
            0
        ].tolist()
        vn = np.clip(
            hashing.normals(hashing.fold(self.seed, VERSION, _VIDEO, person_id, video, 2), 48)[0],
            -2.2,
            2.2,
        )
        f = hashing.uniforms(hashing.fold(self.seed, VERSION, _FRAME, person_id, index), 16)[
            0
        ].tolist()
        fn = np.clip(
            hashing.normals(hashing.fold(self.seed, VERSION, _FRAME, person_id, index, 1), 4)[0],
            -2.5,
            2.5,
        )
        time = frame * 0.35

        au, valence_arousal = _expression(true, person, v, vn, fn, time)
        size = max(self.image_size, 96)
        view = _camera(v, vn, time, size, self.options.domain)
        points = geometry.landmarks(person, au)
        painter = Painter(
            person, au, points, view, _light(v, vn), size, _background(v, size), v[40:]
        )
        image = painter.paint()
        image = sensor_model.expose(
            image, sensor_model.draw(v[30:38], self.options.domain == "b"), f[:3]
        )
        flat = painter.flat
        if size != self.image_size:
            image = cv2.resize(
                image, (self.image_size, self.image_size), interpolation=cv2.INTER_AREA
            )
            flat = (flat + 0.5) * (self.image_size / size) - 0.5
        flat = flat.astype(np.float32)
        x0, y0 = flat.min(0)
        x1, y1 = flat.max(0)
        box = np.array([x0, y0 - 0.15 * (y1 - y0), x1, y1], np.float32)
        if f[4] < self.options.missing_valence_arousal:
            valence_arousal = np.full(2, np.nan, np.float32)
        if f[5] < self.options.missing_landmarks:
            flat = np.full((68, 2), np.nan, np.float32)
        return {
            "image": image,
            "expression": np.int32(labels.given[0]),
            "true_expression": np.int32(true),
            "valence_arousal": valence_arousal,
            "landmarks": flat,
            "box": box,
            "group": np.int32(video),
            "attributes": identity.attributes(key)[0],
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
    """The record of (seed, index): what any `SyntheticFaces` of that seed and split holds there."""
    return SyntheticFaces(
        index + 1, seed=seed, split=split, image_size=image_size, version=version, **knobs
    )[index]


def _expression(
    true: int, person: identity.Person, v: list[float], vn: np.ndarray, fn: np.ndarray, time: float
) -> tuple[np.ndarray, np.ndarray]:
    """Action units [units, 2] and valence-arousal float32 [2] of one frame."""
    swing = np.sin(2 * np.pi * (v[1] + 0.5 * time * (0.5 + v[2])))
    strength = float(np.clip(0.55 + 0.45 * v[0] + 0.15 * swing, 0.35, 1.1)) * person.expressiveness
    full, offset = expressions.activations(true, v[3], int(v[4] < 0.5))
    units = full.shape[0]
    variation = 1.0 + 0.14 * vn[:units, None]
    au = full * variation * person.asymmetry * strength
    au += np.maximum(0.0, 0.05 * vn[units : 2 * units, None]) * (1.0 + 0.3 * swing)
    target = expressions.CIRCUMPLEX[true] + [0.0, offset]
    va = target * strength
    if v[5] < 0.2:  # a blend with a second, weaker expression
        second = int(v[6] * 8)
        extra, more = expressions.activations(second, v[7], int(v[4] < 0.5))
        part = (0.12 + 0.16 * v[8]) * strength
        au = au + extra * part
        va = va * (1 - 0.4 * part) + (expressions.CIRCUMPLEX[second] + [0.0, more]) * part
    va = va + 0.04 * vn[40:42] + 0.03 * fn[:2]
    return np.clip(au, 0.0, 1.2), np.clip(va, -1.0, 1.0).astype(np.float32)


def _camera(v: list[float], vn: np.ndarray, time: float, size: int, domain: str) -> geometry.Camera:
    spread = 1.35 if domain == "b" else 1.0
    sway = np.sin(2 * np.pi * (np.array(v[9:12]) + 0.4 * time * (0.5 + np.array(v[12:15]))))
    yaw = np.clip(13.0 * vn[42] + 4.0 * sway[0], -34, 34) * spread
    pitch = np.clip(6.0 * vn[43] + 3.0 * sway[1], -16, 16)
    roll = np.clip(6.0 * vn[44] + 2.5 * sway[2], -18, 18)
    scale = (0.51 + 0.11 * v[15]) * size / 128
    centre = (0.5 + (np.array(v[16:18]) - 0.5) * 0.10 + 0.01 * sway[:2]) * size - 0.5
    return geometry.Camera(
        *np.radians([yaw, pitch, roll]).tolist(),
        scale,
        tuple(centre.tolist()),
        600.0 + 800.0 * v[18],
    )


def _light(v: list[float], vn: np.ndarray) -> Light:
    azimuth, height = 1.2 * (2 * v[19] - 1), 0.15 + 0.75 * v[20]
    key = np.array(
        [np.sin(azimuth) * np.cos(height), -np.sin(height), np.cos(azimuth) * np.cos(height)]
    )
    warm = 0.06 * vn[45] * np.array([1.0, 0.1, -1.0])
    ambient = 0.30 + 0.22 * v[21]
    cool = 0.04 * vn[46] * np.array([-1.0, 0.0, 1.0])
    return Light(key, 1.0 + warm, ambient * (1.0 + cool), (0.62 + 0.3 * v[22]), 0.05 + 0.22 * v[23])


def _background(v: list[float], size: int) -> np.ndarray:
    coarse = hashing.uniforms(hashing.fold(int(v[24] * 2**50)), 5 * 5 * 3)[0].reshape(5, 5, 3)
    base = np.array(v[25:28])
    field = (base + (coarse - 0.5) * (0.1 + 0.5 * v[28])) * 215 + 20
    return cv2.resize(
        np.clip(field, 0, 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_CUBIC
    )


def make_sources(config: Mapping[str, Any]) -> dict[str, SyntheticFaces]:
    """The three splits of `config.data`, no person in two of them.

    `config["synthetic"]` holds `num_train`, `num_validation`, `num_test`, `image_size` (of the
    rendered picture), `seed`, `version` and the knobs of `Options`. Label noise and missing labels
    concern training alone: what is measured is measured against the true labels. `test_domain` is
    the camera of the test split, "" for the same one.

    Raises:
      DataError: for an impossible value, naming the field.
    """
    given = dict(config["synthetic"])
    sizes = {split: given.pop(f"num_{split}") for split in SPLITS}
    test_domain = given.pop("test_domain", "")
    shared = {k: given.pop(k) for k in ("image_size", "seed", "version") if k in given}
    clean = {
        k: v for k, v in given.items() if not (k.endswith("_noise") or k.startswith("missing_"))
    }
    try:
        return {
            "train": SyntheticFaces(sizes["train"], split="train", **shared, **given),
            "validation": SyntheticFaces(
                sizes["validation"], split="validation", **shared, **clean
            ),
            "test": SyntheticFaces(
                sizes["test"],
                split="test",
                **shared,
                **{**clean, **({"domain": test_domain} if test_domain else {})},
            ),
        }
    except (TypeError, ValueError) as error:
        raise DataError(f"config.data.synthetic: {error}") from None
