"""The formats of an exported model: written, compared with the live model, and recorded.

MODEL/formats.json   what the program takes and gives, and for every format its files with
                     SHA-256, the versions that wrote it, and the largest difference from the live
                     model
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np

from affect_jax.errors import UserError, nearest
from affect_jax.exporting import onnx, orbax, savedmodel, stablehlo
from affect_jax.exporting.markdown import code
from affect_jax.exporting.program import BATCH, Outputs, Program
from affect_jax.runtime.tables import markdown_table
from affect_jax.version import __version__
from affect_jax.weights import checksums
from affect_jax.weights.model_dir import MODEL_FILE, arrays_of

log = logging.getLogger(__name__)

FORMATS_FILE = "formats.json"
FORMATS: Mapping[str, Any] = {
    "orbax": orbax,
    "stablehlo": stablehlo,
    "onnx": onnx,
    "savedmodel": savedmodel,
}
BATCH_SIZES = (3, 1)  # that a format is checked with
# Largest difference over the largest output, or over 1 if that is larger.
_LIMITS = {"orbax": 0.0, "stablehlo": 1e-5, "onnx": 1e-4, "savedmodel": 1e-4}
_LIMIT_16_BITS = 0.05
TITLE = "## Formats"


@dataclasses.dataclass(frozen=True)
class Written:
    """A format that was written and checked.

    Attributes:
      name: key of `FORMATS`.
      path: of its file or folder in the model directory.
      differences: output -> largest difference from the live model; of "orbax" there are
        "params" and "stats" instead of outputs.
      files: path in the model directory -> SHA-256.
    """

    name: str
    path: str
    differences: Mapping[str, float]
    files: Mapping[str, str]

    @property
    def difference(self) -> float:
        """The largest difference of all outputs."""
        return max(self.differences.values(), default=0.0)


def parse(text: str) -> tuple[str, ...]:
    """Return the formats in a list such as "orbax,onnx"; "orbax" is always one of them.

    Raises:
      UserError: an unknown format.
    """
    asked = [name.strip() for name in text.split(",") if name.strip()]
    for name in asked:
        if name not in FORMATS:
            raise UserError(f"--formats names {name!r}; {nearest(name, FORMATS)}")
    return tuple(name for name in FORMATS if name in {"orbax", *asked})


def write(program: Program, folder: pathlib.Path, formats: Sequence[str]) -> list[Written]:
    """Write formats into a model directory, check each, and write `formats.json`.

    Args:
      program: of the model in the directory.
      folder: the directory, with its arrays.
      formats: keys of `FORMATS`.

    Raises:
      UserError: a format cannot be written, or differs too much from the live model; the message
        names it.
      OSError: a file cannot be written.
    """
    expected = _expected(program) if set(formats) - {"orbax"} else []
    written = []
    for name in formats:
        log.info("writing the format %s", name)
        path = folder / FORMATS[name].FILE
        with _named(name):
            FORMATS[name].write(program, path)
            if name == "orbax":
                differences = _of_arrays(program, path)
            else:
                differences = _of_outputs(FORMATS[name].read(path), expected)
            _check(program, name, differences, expected)
        files = checksums.digests(folder, [FORMATS[name].FILE])
        written.append(Written(name, FORMATS[name].FILE, differences, files))
    record = _record(program, written, expected)
    (folder / FORMATS_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return written


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn any error into one that names the format."""
    try:
        yield
    except OSError:
        raise
    except UserError as error:
        raise UserError(f"the format {name}: {error}") from error
    except Exception as error:  # exporters and runtimes raise many kinds
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"the format {name} cannot be written for this model ({type(error).__name__}: "
            f"{reason}); nothing was written. Leave it out of --formats"
        ) from error


def _expected(program: Program) -> list[tuple[np.ndarray, Outputs]]:
    """Return batches with the outputs of the live model."""
    most, least = BATCH_SIZES
    batch = program.example(most)
    found = program.live(batch)
    first: Outputs = {name: value[:least] for name, value in found.items()}
    if program.mixes_examples:
        first = program.live(batch[:least])
    return [(batch, found), (batch[:least], first)]


def _of_arrays(program: Program, path: pathlib.Path) -> dict[str, float]:
    kept, own = orbax.read(path), arrays_of(program.loaded.model)
    found = {}
    for part, arrays in own.items():
        if kept.get(part, {}).keys() != arrays.keys():
            raise UserError(f"{part} in {path.name} are not the model's")
        pairs = ((np.asarray(value), kept[part][name]) for name, value in arrays.items())
        found[part] = max((_difference(*pair) for pair in pairs), default=0.0)
    return found


def _of_outputs(
    function: Callable[[np.ndarray], Outputs], expected: Sequence[tuple[np.ndarray, Outputs]]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for batch, wanted in expected:
        given = function(batch)
        if given.keys() != wanted.keys():
            raise UserError(f"it gives {', '.join(given)} instead of {', '.join(wanted)}")
        for name, value in wanted.items():
            found[name] = max(found.get(name, 0.0), _difference(value, np.asarray(given[name])))
    return found


def _difference(wanted: np.ndarray, given: np.ndarray) -> float:
    """Return the largest difference; numbers that are not finite must be the same."""
    if wanted.shape != given.shape or wanted.dtype != given.dtype:
        raise UserError(
            f"an array is {given.dtype} {given.shape} instead of {wanted.dtype} {wanted.shape}"
        )
    same = (wanted == given) | ((wanted != wanted) & (given != given))
    if same.all():
        return 0.0
    apart = np.abs(wanted[~same].astype(np.float64) - given[~same].astype(np.float64))
    return float(apart.max()) if np.isfinite(apart).all() else float("inf")


def _check(
    program: Program,
    name: str,
    differences: Mapping[str, float],
    expected: Sequence[tuple[np.ndarray, Outputs]],
) -> None:
    """Raise UserError if a format is further from the live model than rounding."""
    dtype = jax.numpy.dtype(program.loaded.arguments.get("dtype", "float32"))
    limit = _LIMIT_16_BITS if dtype.itemsize < 4 and _LIMITS[name] else _LIMITS[name]
    for output, difference in differences.items():
        largest = max(
            (_largest(found[output]) for _, found in expected if output in found), default=0
        )
        if not difference <= limit * max(1.0, largest):
            raise UserError(
                f"its {output} differ from the live model's by {difference:.2g}, more than "
                f"{limit:g} of their size; nothing was written. Leave it out of --formats"
            )


def _largest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def _record(
    program: Program, written: Sequence[Written], expected: Sequence[tuple[np.ndarray, Outputs]]
) -> dict[str, Any]:
    (batch,) = jax.export.symbolic_shape(BATCH)
    outputs = jax.eval_shape(program.function(), program.spec(batch))
    return {
        "affect_jax": __version__,
        "input": {
            "name": program.input_name,
            "dtype": program.input_dtype.name,
            "shape": [BATCH, *program.input_shape],
        },
        "outputs": {
            name: {
                "dtype": value.dtype.name,
                "shape": [n if isinstance(n, int) else str(n) for n in value.shape],
            }
            for name, value in outputs.items()
        },
        "depends_on_the_batch": program.mixes_examples,
        "checked_with_batches_of": [len(batch) for batch, _ in expected],
        "formats": {
            one.name: {
                "path": one.path,
                "largest_difference": one.difference,
                "differences": dict(one.differences),
                "versions": _versions(FORMATS[one.name].PACKAGES),
                "sha256": dict(one.files),
            }
            for one in written
        },
    }


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in ("jax", *packages):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def section(written: Sequence[Written]) -> str:
    """Return the section of a model card, as Markdown."""
    rows = [[one.name, code(one.path), f"{one.difference:.1g}"] for one in written]
    table = markdown_table(["format", "file", "largest difference from the live model"], rows)
    return (
        f"{TITLE}\n\n{table}\n\nMeasured when they were written, over all outputs of a fixed "
        f"batch. Inputs, outputs, versions and checksums: {code(FORMATS_FILE)}."
    )


def summary(directory: pathlib.Path) -> list[str]:
    """Return a line for every format of an exported model directory."""
    formats = json.loads((directory / FORMATS_FILE).read_text(encoding="utf-8"))["formats"]
    return [
        f"{name}: {one['path']}, at most {one['largest_difference']:.2g} from the live model"
        for name, one in formats.items()
    ]


def with_section(card: str, written: Sequence[Written]) -> str:
    """Return a model card with its section of formats replaced, or added at its end."""
    kept, own, rest = card.partition(f"\n{TITLE}\n")
    parts = [kept.rstrip(), section(written)]
    if own and (following := re.search(r"^#{1,2} ", rest, re.MULTILINE)):
        parts.append(rest[following.start() :].rstrip())
    return "\n\n".join(parts) + "\n"


def copy_others(source: pathlib.Path, folder: pathlib.Path, output: pathlib.Path) -> None:
    """Copy what people have put next to a model, and its card, into a new model directory.

    Args:
      source: the model directory.
      folder: the new one, as yet under another name.
      output: the new one; it may lie in `source`, and is not copied into itself.

    Raises:
      OSError: a file cannot be read or written.
    """
    own = {MODEL_FILE, FORMATS_FILE, *(one.FILE for one in FORMATS.values())}
    output = output.resolve()
    new = {folder.resolve(), output, *output.parents}
    for path in sorted(source.iterdir()):
        if path.name in own or path.resolve() in new:
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copy2(path, folder / path.name)
