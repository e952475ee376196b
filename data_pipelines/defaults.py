"""Every field of `config.data`: meaning, default and allowed values.

`configs/base.py` fills its section `data` from here. `DataConfig.of` turns a section, or a mapping
of some of its fields, into a checked `DataConfig`, which sources and pipelines take.
"""

import dataclasses
import difflib
import functools
import math
import numbers
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Self

from data_pipelines.schema import DataError

# Kind of source -> the fields that say where its data are.
PLACES = {
    "manifest": ("manifest",),
    "folder": ("folder",),
    "tfds": ("dataset", "data_dir"),
    "features": ("features",),
}
PROTOCOLS = ("split", "folds", "leave_one_out")


def _field(
    default: Any,
    low: float | None = None,
    high: float = math.inf,
    *,
    without: float | None = None,
    choices: tuple[str, ...] = (),
    records: bool = False,
    free: bool = False,
) -> Any:
    """Declare a field with its default.

    Args:
      default: the value; a class, for a new object of it.
      low, high: range of a number, `without` one of its ends; `int` fields are whole numbers.
      choices: of a text.
      records: the field decides which records there are, their labels, or their splits.
      free: a run may be resumed with another value.
    """
    metadata = {"range": (low, high, without), "choices": choices, "records": records, "free": free}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


_record_field = functools.partial(_field, records=True)


def _check(section: Any, prefix: str, unused: tuple[str, ...] = ()) -> None:
    """Raise DataError for a value of a dataclass that its field does not allow."""
    for field in dataclasses.fields(section):
        name, value = prefix + field.name, getattr(section, field.name)
        choices = field.metadata["choices"]
        if choices and value not in choices:
            raise DataError(f"{name} is {value!r}; known: {', '.join(choices)}")
        low, high, without = field.metadata["range"]
        if low is None or field.name in unused:
            continue
        kind = numbers.Integral if field.type is int else numbers.Real
        number = isinstance(value, kind) and not isinstance(value, bool)
        # A comparison with NaN is False.
        if number and low <= value <= high and value not in (without, math.inf):
            continue
        what = "a whole number" if field.type is int else "a number"
        if high == math.inf:
            limits = f"above {low}" if low == without else f"of at least {low}"
        else:
            limits = f"from {low} to {'less than ' if high == without else ''}{high}"
        raise DataError(f"{name} = {value}; it must be {what} {limits}")


def _check_names(values: Mapping[str, Any], kind: type, prefix: str) -> None:
    """Raise DataError for a name that is not a field of a dataclass."""
    known = [f.name for f in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise DataError(f"{prefix}{name}: there is no such field; {hint}")


@dataclasses.dataclass(frozen=True)
class FaceOptions:
    """Options of one set of synthetic faces."""

    # Labels: basic, 8 classes; fg_emotions, the 33 fine classes of FG-Emotions.
    classes: str = _field("basic", choices=("basic", "fg_emotions"))
    # fg_emotions: how much faces show of neighbouring classes. Each label is drawn from the mixture
    # that its face shows.
    ambiguity: float = _field(0.0, 0, 1)
    frames_per_video: int = _field(4, 1)  # consecutive records of one video
    videos_per_person: int = _field(4, 1)
    # Time between frames: expressions swing once in 1.3 to 4 units, heads sway once in 1.7 to 5.
    frame_time: float = _field(0.35, 0, without=0)
    # Frequency of the first class over the last; it falls geometrically in class order.
    imbalance: float = _field(1.0, 1)
    symmetric_noise: float = _field(0.0, 0, 1)  # fraction of labels replaced by another class
    confusable_noise: float = _field(0.0, 0, 1)  # ... by the most similar class
    missing_expression: float = _field(0.0, 0, 1)  # fraction of labels left out
    missing_valence_arousal: float = _field(0.0, 0, 1)
    missing_landmarks: float = _field(0.0, 0, 1)
    # Camera: a, or b, which is colder, flatter and coarser and sees heads turned further.
    domain: str = _field("a", choices=("a", "b"))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Return the options of a mapping; raise `DataError` for an unknown one."""
        _check_names(options, cls, "data.synthetic.")
        return cls(**options)

    def __post_init__(self) -> None:
        _check(self, "data.synthetic.")
        if self.symmetric_noise + self.confusable_noise > 1.0:
            raise DataError("data.synthetic: symmetric_noise + confusable_noise exceed 1")
        if self.ambiguity and self.classes == "basic":
            raise DataError(
                f"data.synthetic.ambiguity = {self.ambiguity} has no effect with "
                "data.synthetic.classes = 'basic'; use classes = 'fg_emotions', or ambiguity = 0"
            )


# Options that change labels but no images, and all options that only the training split gets.
SPOILING = (
    *("symmetric_noise", "confusable_noise"),
    *("missing_expression", "missing_valence_arousal", "missing_landmarks"),
)
TRAINING_ONLY = ("imbalance", *SPOILING)


@dataclasses.dataclass(frozen=True)
class SyntheticConfig(FaceOptions):
    """The section `data.synthetic`: drawn faces, no person in two splits.

    `TRAINING_ONLY` options apply to the training split alone.
    """

    num_train: int = _field(4096)
    num_validation: int = _field(512)
    num_test: int = _field(512)
    render_size: int = _field(128)  # side of the rendered image, pixels
    seed: int = _field(0)
    version: int = _field(1)  # of the renderer's appearance and labels
    test_domain: str = _field("", choices=("", "a", "b"))  # camera of the test split; "": the same

    def options(self, split: str) -> FaceOptions:
        """Return the options of one split."""
        names = [f.name for f in dataclasses.fields(FaceOptions)]
        if split != "train":
            names = [name for name in names if name not in TRAINING_ONLY]
        options = FaceOptions(**{name: getattr(self, name) for name in names})
        if split == "test" and self.test_domain:
            options = dataclasses.replace(options, domain=self.test_domain)
        return options


@dataclasses.dataclass(frozen=True)
class Refinement:
    """The section `data.refine`: sizes of an epoch of `sampling="refine"`."""

    per_group: int = _field(512, 1)  # maximum records of a group in the pool of an epoch
    per_class: int = _field(500, 1)  # examples of each class in an epoch

    def __post_init__(self) -> None:
        _check(self, "data.refine.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """All of `config.data`, checked."""

    # Where the data are.
    source: str = _record_field("manifest", choices=("synthetic", *PLACES))
    manifest: str = _record_field("")  # CSV or JSONL file, or several as "a.csv,b.csv"
    folder: str = _record_field("")  # folder with one subfolder per class
    dataset: str = _record_field("")  # tfds: name of a set prepared by data_pipelines.prepare
    data_dir: str = _record_field("")  # tfds: where it was prepared
    features: str = _record_field("")  # .npz file of stored features, see sources/features.py
    # features: fraction of the training labels that another class replaces, drawn by record. A
    # larger fraction keeps the replaced labels of a smaller one.
    features_noise: float = _record_field(0.0, 0, 1)
    features_noise_seed: int = _record_field(0, 0)
    synthetic: SyntheticConfig = _record_field(SyntheticConfig)  # noqa: RUF009
    # "": inferred; a known label order such as "affectnet8"; or "a,b,c". Labels that are numbers
    # are ids of that order; in a list they are positions from 0.
    classes: str | tuple[str, ...] = _record_field("")
    # Tree over the classes, for metrics: a name (fg_emotions) or the path of a TOML file; see
    # docs/hierarchies.md. "": the tree of the data set, if it has one.
    hierarchy: str = _field("")
    # AffectNet: drop training rows whose category contradicts their valence and arousal.
    clean: bool = _record_field(False)
    clean_eval: bool = _record_field(False)  # the same for validation and test
    # Text file with one path per line: wrong images to leave out of validation and test.
    exclude: str = _record_field("")
    exclude_train: bool = _record_field(False)  # leave them out of training as well

    # Splits by person.
    # Fraction of the training persons held out for model selection.
    validation_fraction: float = _record_field(0.15, 0, 1, without=1)
    # split; or one fold of a cross-validation: folds, leave_one_out. All records are then divided
    # into even folds by person, and test_fold is the test split; see --mode=crossval.
    protocol: str = _record_field("split", choices=PROTOCOLS)
    # Without a split column: test = sha256(person) mod folds == test_fold.
    folds: int = _record_field(4, 2)
    test_fold: int = _record_field(1, 0)
    split_seed: int = _record_field(0, 0)

    # Crop and augmentation.
    image_size: int = _field(256, 1)  # side of the network's input, pixels
    # auto (landmark box, else box, else whole), face (of a box without its forehead), landmarks,
    # box, whole
    crop: str = _field("auto")
    crop_scale: float = _field(0.0, 0)  # side of the crop over the box; 0: the preset's own
    augment: str = _field("emofan")  # emofan, arbex_heavy, poster, vit, none
    # Values that replace the preset's; see data_pipelines.images.presets.Params.
    augment_overrides: Mapping[str, Any] = _field(dict)
    max_pixels: int = _field(50_000_000, 1)  # larger images are refused before decoding

    # Delivery.
    # Whether training learns `expression_probs`, where the data have them, in place of the class
    # label. auto: the votes of annotators, but not the true mixtures of synthetic faces.
    votes: str = _field("auto", choices=("auto", "learn", "ignore"))
    sampling: str = _field("shuffle")  # shuffle, refine, inverse_frequency
    refine: Refinement = _field(Refinement)  # noqa: RUF009
    num_workers: int = _field(0, 0, free=True)  # worker processes; 0: threads only
    num_threads: int = _field(0, 0, free=True)  # 0: as many as usable cores
    prefetch: int = _field(0, 0, free=True)  # batches kept ready; 0: automatic
    cache: str = _field("none", choices=("none", "memory"))  # memory: decoded crops; small sets
    cache_megabytes: float = _field(2048, 0)
    # Maximum fraction of unreadable records tolerated.
    max_bad_fraction: float = _record_field(0.1, 0, 1, free=True)
    # Resume a run, sweep or cross-validation even if its data have changed, and record the new
    # data. False: such a run is refused, and the error names the difference.
    accept_changed: bool = _field(False, free=True)

    @classmethod
    def of(cls, section: "DataConfig | Mapping[str, Any]") -> "DataConfig":
        """Return the checked fields of a mapping; absent ones and None take defaults.

        Raises:
          DataError: naming a field that does not exist, or a value that is not allowed.
        """
        if isinstance(section, DataConfig):
            return section
        values = {name: value for name, value in section.items() if value is not None}
        _check_names(values, cls, "data.")
        if "synthetic" in values:
            values["synthetic"] = SyntheticConfig.of(dict(values["synthetic"]))
        if "refine" in values:
            sizes = dict(values["refine"])
            _check_names(sizes, Refinement, "data.refine.")
            values["refine"] = Refinement(**sizes)
        if not isinstance(values.get("classes", ""), str):
            values["classes"] = tuple(values["classes"])
        if "augment_overrides" in values:
            values["augment_overrides"] = dict(values["augment_overrides"])
        return cls(**values)

    def __post_init__(self) -> None:
        _check(self, "data.", unused=("folds",) if self.protocol == "leave_one_out" else ())
        if self.features_noise and self.source != "features":
            raise DataError(
                f"data.features_noise = {self.features_noise} has no effect with data.source = "
                f"{self.source!r}; it is for data.source = 'features'. Set it to 0"
            )
        if self.protocol == "split" and self.test_fold >= self.folds:
            raise DataError(
                f"data.test_fold = {self.test_fold}; the folds of data.folds = {self.folds} are 0 "
                f"to {self.folds - 1}"
            )

    @property
    def cache_bytes(self) -> int:
        """Bytes for decoded images in memory; 0 = none are kept."""
        return int(self.cache_megabytes * 1e6) if self.cache == "memory" else 0

    @property
    def learns_votes(self) -> bool:
        """Whether training batches hold `expression_probs`."""
        return self.votes == "learn" or (self.votes == "auto" and self.source != "synthetic")

    def source_key(self, without: Iterable[str] = ()) -> Hashable:
        """Return the values that decide which records there are.

        The fields in `without` are left out.
        """
        names = [f.name for f in dataclasses.fields(self) if f.metadata["records"]]
        return tuple((name, getattr(self, name)) for name in names if name not in without)


def section() -> dict[str, Any]:
    """Return the default of every field as nested dictionaries."""
    return dataclasses.asdict(DataConfig())


# Fields, as `data.NAME`, with which a run may be resumed at another value.
FREE = tuple(f"data.{f.name}" for f in dataclasses.fields(DataConfig) if f.metadata["free"])
