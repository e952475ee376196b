"""What is known of the data that a model was trained on, for its card."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from affect_jax import config as config_lib
from affect_jax import data_record
from affect_jax.errors import UserError
from affect_jax.exporting.markdown import bullets, code, plain
from affect_jax.runtime.tables import markdown_table
from affect_jax.weights import load_run, model_dir
from data_pipelines.dataset_names import BUILDERS
from data_pipelines.schema import DataError
from data_pipelines.sources import features
from data_pipelines.sources.fingerprint import Records, decode

NOT_RECORDED = "not recorded"


@dataclasses.dataclass(frozen=True)
class Origin:
    """Data that a model has learnt from.

    Attributes:
      role: what they were used for.
      text: what they are.
      synthetic: whether they are drawn faces; None: not known.
    """

    role: str
    text: str
    synthetic: bool | None


@dataclasses.dataclass(frozen=True)
class Split:
    """Numbers of a split.

    Attributes:
      images: how many.
      per_class: images of each class, by name.
      persons: names of the persons, or of videos or groups where persons are not named; None: lost.
      nameless: images without such a name.
    """

    images: int
    per_class: Mapping[str, int]
    persons: frozenset[str] | None
    nameless: int


def origins(config: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> list[Origin]:
    """Return all data that a run has learnt from, also by way of other models.

    Weights that the run began with, and its teacher, are followed as far as their folders exist.

    Args:
      config: of the run, plain.
      seen: folders of models that are being followed.
    """
    found = [Origin("Training images", *_of_data(config["data"]))]
    stage = config.get("landmark_stage", {})
    if stage.get("steps") and stage.get("data") == "synthetic":
        found.append(Origin("Landmarks, learnt first", *_SYNTHETIC))
    for path in weight_paths(config.get("init_from", "")):
        found += _of_weights("First weights", path, seen)
    if teacher := config.get("loss", {}).get("teacher"):
        found += _of_weights("Teacher", teacher, seen)
    return found


def weight_paths(init_from: str) -> list[str]:
    """Return the paths that `config.init_from` names."""
    if not init_from or pathlib.Path(init_from).exists():
        return [init_from] if init_from else []
    return [part.strip() for part in init_from.split(",")]


_SYNTHETIC = ("synthetic faces, drawn by this package", True)


def _of_data(data: Mapping[str, Any]) -> tuple[str, bool | None]:
    """Return what the data of a `config.data` are, and whether they are synthetic."""
    source = data["source"]
    if source == "synthetic":
        return _SYNTHETIC
    if source == "tfds":
        return f"the data set {code(data['dataset'])}", False
    name = code(pathlib.Path(data[source]).name)
    if source != "features":
        return f"images of the {source} {name}", None
    made_from = _data_of_features(data)
    if made_from is None:
        return f"the stored features {name}; the images behind them are {NOT_RECORDED}", None
    text, synthetic = _of_data(made_from)
    return f"the stored features {name}, made from {text}", synthetic


def _data_of_features(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the data that a file of features was made from; None if not known."""
    try:
        made_from = features.read(data["features"]).made_from.get("data")
    except DataError:  # it was moved
        return None
    return made_from if isinstance(made_from, Mapping) and made_from.get("source") else None


def _of_weights(role: str, path: str, seen: frozenset[str]) -> list[Origin]:
    place = str(pathlib.Path(path).expanduser().resolve())
    role = f"{role}, {code(pathlib.Path(path).name)}"
    config = None if place in seen else _config_of(place)
    if config is None:
        return [Origin(role, f"their training data are {NOT_RECORDED} here", None)]
    return [
        dataclasses.replace(origin, role=f"{role}: {_lower(origin.role)}")
        for origin in origins(config, seen | {place})
    ]


def _lower(role: str) -> str:
    return role[0].lower() + role[1:]


def _config_of(place: str) -> Mapping[str, Any] | None:
    """Return the config that a run or model directory was trained with, if it is there."""
    try:
        if load_run.is_workdir(place):
            return config_lib.to_plain(config_lib.read_workdir_config(place))
        if model_dir.is_model_dir(place):
            return model_dir.read_record(place).get("provenance", {}).get("workdir_config")
    except UserError:
        return None
    return None


def labellers(data: Mapping[str, Any]) -> str:
    """Return who labelled the images of a `config.data`."""
    source = data["source"]
    if source == "synthetic":
        return "no person; every face was drawn with its labels"
    if source == "features":
        made_from = _data_of_features(data)
        return labellers(made_from) if made_from is not None else NOT_RECORDED
    name = data.get("dataset", "").partition("/")[0]
    if source != "tfds" or name not in BUILDERS:
        return NOT_RECORDED
    from data_pipelines import datasets  # slow: imports TFDS

    return datasets.builder_class(name).card.labellers or NOT_RECORDED


def wrong_labels(data: Mapping[str, Any]) -> float:
    """Return the fraction of the training labels that was replaced on purpose."""
    if data["source"] == "features":
        return data.get("features_noise", 0.0)
    if data["source"] != "synthetic":
        return 0.0
    drawn = data.get("synthetic", {})
    return drawn.get("symmetric_noise", 0.0) + drawn.get("confusable_noise", 0.0)


def splits(workdir: pathlib.Path) -> dict[str, Split]:
    """Return the numbers of each split of a run; {} if they were not recorded.

    Raises:
      UserError: the record is damaged.
    """
    recorded = data_record.read(workdir)
    if recorded is None:
        return {}
    return {
        name: _numbers(records, recorded.class_names) for name, records in recorded.splits.items()
    }


def _numbers(records: Records, class_names: tuple[str, ...]) -> Split:
    per_class = dict(zip(class_names, records.per_class, strict=False))
    column = records.columns.get("person")
    if column is None:
        return Split(records.count, per_class, None, 0)
    names = decode(column) if records.count else []
    return Split(records.count, per_class, frozenset(filter(None, names)), names.count(""))


def disjoint(found: Mapping[str, Split]) -> str:
    """Return whether persons are in one split only, as a sentence."""
    everyone = [split.persons for split in found.values()]
    known = [persons for persons in everyone if persons is not None]
    if not found or len(known) < len(everyone):
        return f"whether a person is in two splits is {NOT_RECORDED}"
    if not any(known):
        return "the data name none, so images of one person may be in several splits"
    if shared := sum(map(len, known)) - len(frozenset().union(*known)):
        return (
            f"**not disjoint**: {shared:,} are in more than one split, so the results below are "
            "too good"
        )
    nameless = sum(split.nameless for split in found.values())
    if nameless:
        return f"none is in two splits, as far as they are named; {nameless:,} images name none"
    return "none is in two splits"


def section(
    about: Mapping[str, Any], origins: Sequence[Origin], splits: Mapping[str, Split]
) -> str:
    """Return the section of a model card, as Markdown.

    Args:
      about: provenance of a model, as `affect_jax.export` records it.
      origins: of its training data.
      splits: as `splits` returns them.
    """
    data = about["workdir_config"]["data"]
    fields = about["trained_for"]
    learnt = ", ".join(name.replace("_", " and ") for name in fields)
    lines = [
        *(f"{origin.role}: {origin.text}" for origin in origins),
        f"Labels learnt: {learnt}",
        f"Labelled by: {plain(about.get('labellers') or labellers(data))}",
    ]
    if wrong := wrong_labels(data):
        lines.append(f"Training labels that were replaced by wrong ones on purpose: {wrong:.0%}")
    if drawn := [_lower(origin.role) for origin in origins if origin.synthetic]:
        lines.append(f"**Synthetic faces**, drawings that show no person: {'; '.join(drawn)}")
    if origins[0].synthetic and "valence_arousal" in fields:
        lines.append(
            "**Valence and arousal were learnt from synthetic faces**: they are numbers of the "
            "renderer, not ratings by people"
        )
    lines.append(f"Persons, or else videos or groups: {disjoint(splits)}")
    parts = ["## Training data", bullets(lines)]
    if splits:
        parts.append(_table(splits))
    per_class = splits["train"].per_class if splits else {}
    if any(per_class.values()):
        listed = ", ".join(f"{plain(name)} {n:,}" for name, n in per_class.items())
        parts.append(f"Training images by class: {listed}.")
    return "\n\n".join(parts)


def _table(splits: Mapping[str, Split]) -> str:
    body = [["images", *(f"{split.images:,}" for split in splits.values())]]
    if any(split.persons for split in splits.values()):
        persons = (split.persons for split in splits.values())
        body.append(["named persons", *("-" if p is None else f"{len(p):,}" for p in persons)])
    return markdown_table(["", *splits], body)
