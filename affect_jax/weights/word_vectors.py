"""Label vectors from word vectors: which words stand for a class, and what fills the gaps.

The vector of a class comes from its name. A name of several words (`awe struck`) is one word of the
file if it has that (`awe_struck`), else the mean of its words. A coarse class is the mean of its
classes (RALD, section 4.2). RALD never trains these vectors (eq. 2).
"""

import contextlib
import dataclasses
import hashlib
import logging
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from affect_jax.errors import UserError
from affect_jax.models.label_vectors import stand_in, with_coarse
from affect_jax.models.relations_settings import MISSING_WORDS
from affect_jax.weights import word_vector_files, word_vector_packages
from affect_jax.weights.word_vector_files import VectorFile
from affect_jax.weights.word_vector_packages import VectorPackage
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.schema import same_classes

log = logging.getLogger(__name__)


_GAPS = re.compile(r"[\s_\-]+")
_JOINTS = ("_", "-")


@dataclasses.dataclass(frozen=True)
class Found:
    """What a source has for one name.

    Attributes:
      vector: float32 [L]; None if a word is missing.
      words: words of the source that it was made of.
      missing: words that the source lacks.
    """

    vector: np.ndarray | None
    words: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def resolve(
    vectors: str,
    hierarchy: Hierarchy | None,
    class_names: Sequence[str],
    label_features: int,
    seed: int = 0,
    missing: str = "error",
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the label vectors of a config, and where they came from.

    Args:
      vectors: path of a file of word vectors, `package:NAME`, or "" for the stand-in.
      hierarchy: tree over the classes, in the same order; or None.
      class_names: of the N classes, in the order of their ids.
      label_features: L, the length of a vector.
      seed: of stand-in vectors.
      missing: what a class gets if a word of its name has no vector: "error" or "stand_in".

    Returns:
      float32 [C, L], classes first, then coarse classes; and facts that JSON can hold: `kind`
      ("stand_in", "file" or "package"), `name` (of the file or package, without folders), `form`,
      `bytes` (size of the file), `licence` ("" if unknown), `words` (class -> words used),
      `filled` (classes that got a stand-in vector), `seed`, `sha256` (of the label vectors) and
      `summary` (a sentence for people).

    Raises:
      UserError: the file is missing, damaged or of another width; or a word is missing.
      ValueError: the tree is over other classes, or `missing` is neither of the two.
    """
    if missing not in MISSING_WORDS:
        raise ValueError(f"missing must be one of {', '.join(MISSING_WORDS)}, got {missing!r}")
    if hierarchy is not None and not same_classes(hierarchy.fine, class_names):
        raise ValueError(
            f"the tree is over {', '.join(hierarchy.fine)}, but the classes are "
            f"{', '.join(class_names)}; use hierarchy.for_classes(class_names)"
        )
    if vectors:
        array, facts = _from_words(vectors, hierarchy, class_names, label_features, seed, missing)
    else:
        array = stand_in(hierarchy, class_names, length=label_features, seed=seed)
        how = "similar along the hierarchy" if hierarchy else "without a hierarchy all unlike"
        facts = {
            "kind": "stand_in",
            "name": "",
            "form": "",
            "bytes": 0,
            "licence": "",
            "words": {},
            "filled": list(class_names),
            "summary": f"stand-in, no word vectors ({how}; drawn from seed {seed})",
        }
    log.info("label vectors: %s", facts["summary"])
    digest = hashlib.sha256(array.astype("<f4").tobytes()).hexdigest()
    return array, {**facts, "seed": seed, "sha256": digest}


def read_vectors(source: VectorFile | VectorPackage, names: Iterable[str]) -> dict[str, Found]:
    """Look names up, reading no further than needed.

    A word is taken as it is given if the source has it so, else in lower case, as a title or in
    capitals. Of several words, the words joined by "_" or "-" come first, then their mean.

    Args:
      source: a file or package of word vectors.
      names: of classes; words are parted by spaces, "_" or "-".

    Returns:
      name -> what was found, in the order of the names.

    Raises:
      UserError: the source cannot be read.
    """
    wholes = {name: _wholes(name) for name in names}
    parts = {name: _words(name) for name in wholes}
    wanted = {form for forms in wholes.values() for form in forms}
    wanted |= {form for words in parts.values() for word in words for form in _cases(word)}
    best = {forms[0] for forms in wholes.values()}
    vectors: dict[str, np.ndarray] = {}
    with contextlib.closing(source.entries(wanted)) as entries:
        for word, vector in entries:
            vectors.setdefault(word, vector)
            best.discard(word)
            if not best:
                break
    return {name: _choose(wholes[name], parts[name], vectors) for name in wholes}


def _words(name: str) -> list[str]:
    return [word for word in _GAPS.split(name) if word]


def _cases(word: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((word, word.lower(), word.title(), word.upper())))


def _wholes(name: str) -> tuple[str, ...]:
    """Return the forms of a name as one word, the best first."""
    words = _words(name)
    joined = [joint.join(words) for joint in _JOINTS] if len(words) > 1 else [name.strip()]
    if not re.search(r"\s", name.strip()):
        joined.insert(0, name.strip())
    return tuple(dict.fromkeys(form for whole in joined for form in _cases(whole)))


def _choose(
    wholes: Sequence[str], parts: Sequence[str], vectors: Mapping[str, np.ndarray]
) -> Found:
    for form in wholes:
        if form in vectors:
            return Found(vectors[form], (form,))
    words = [next((form for form in _cases(part) if form in vectors), None) for part in parts]
    missing = tuple(part for part, word in zip(parts, words, strict=True) if word is None)
    if missing:
        return Found(None, missing=missing)
    used = tuple(word for word in words if word is not None)
    mean = np.stack([vectors[word] for word in used]).mean(0, dtype=np.float64)
    return Found(mean.astype(np.float32), used)


def _from_words(
    vectors: str,
    hierarchy: Hierarchy | None,
    class_names: Sequence[str],
    label_features: int,
    seed: int,
    missing: str,
) -> tuple[np.ndarray, dict[str, Any]]:
    if vectors.startswith(word_vector_packages.PREFIX):
        package = word_vector_packages.named(vectors)
        source: VectorFile | VectorPackage = package
        kind, name, licence = "package", package.name, package.licence
    else:
        source = word_vector_files.inspect(pathlib.Path(vectors).expanduser())
        kind, name, licence = "file", source.path.name, ""
    if source.features != label_features:
        raise UserError(
            f"{name} has vectors of {source.features} features, but "
            f"model.relations.label_features is {label_features}; set it to {source.features}, or "
            "name other vectors in model.relations.vectors"
        )
    size = source.path.stat().st_size
    log.info("reading vectors of %d classes from %s (%.0f MB)", len(class_names), name, size / 1e6)
    found = read_vectors(source, class_names)
    filled = [label for label, entry in found.items() if entry.vector is None]
    if filled and (missing == "error" or len(filled) == len(found)):
        raise UserError(_missing_words(name, found, missing))
    rows = _rows(found, stand_in(hierarchy, class_names, length=label_features, seed=seed))
    facts = {
        "kind": kind,
        "name": name,
        "form": source.form,
        "bytes": size,
        "licence": licence,
        "words": {label: list(entry.words) for label, entry in found.items()},
        "filled": filled,
        "summary": f"{name} ({source.form}, {label_features} features)"
        + (f"; stand-in label vectors for {', '.join(filled)}" if filled else ""),
    }
    return with_coarse(rows, hierarchy), facts


def _rows(found: Mapping[str, Found], stand_ins: np.ndarray) -> np.ndarray:
    """Return [N, L]: vectors that were found, and stand-ins of their mean length elsewhere."""
    vectors = [entry.vector for entry in found.values()]
    length = np.mean([np.linalg.norm(vector) for vector in vectors if vector is not None])
    return np.stack(
        [
            stand_ins[place] * length if vector is None else vector
            for place, vector in enumerate(vectors)
        ]
    )


def _missing_words(source: str, found: Mapping[str, Found], missing: str) -> str:
    words = [
        repr(word) if word == label else f"{word!r} (of {label!r})"
        for label, entry in found.items()
        for word in entry.missing
    ]
    lines = f"{source} has no vector for {', '.join(words)}"
    if missing == "stand_in":
        return f"{lines}, which are all classes; name other vectors, or none for the stand-in"
    return (
        f"{lines}; name vectors that have them, or fill these classes with stand-in vectors: "
        "--config.model.relations.missing_words=stand_in"
    )
