"""Read state dicts, {entry name: array}, from .pth, .npz and .safetensors files."""

import argparse
import dataclasses
import logging
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from affect_jax.errors import UserError, nearest
from affect_jax.weights.released import file_kinds

log = logging.getLogger(__name__)

TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt")
SUFFIXES = (*TORCH_SUFFIXES, ".npz", ".safetensors")

# Entries under which training scripts keep a state dict, the one to use first: averaged weights
# before raw ones, and the teacher of self-distillation before its student.
_WRAPPERS = (
    *("model_ema", "state_dict_ema", "ema_state_dict", "params_ema", "ema", "teacher"),
    *("state_dict", "model_state_dict", "model", "params", "net", "network", "student"),
)
# Words in names of averaged weights: `ema_model`, `SWA_state_dict`, `modelEMA`, `emamodel`.
_NETWORK = "(model|net|network|params|weights|state)"
_AVERAGED = re.compile(
    f"(ema|swa){_NETWORK}?|{_NETWORK}(ema|swa)|averaged|average|avg|polyak|shadow"
)
_BETWEEN_WORDS = re.compile(r"[\W_\d]+|(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Ranks of averaged weights and of entries that are not in `_WRAPPERS`.
_MEAN, _OTHER = -1, len(_WRAPPERS)
# Averaged weights have at least this part of the names of the largest state dict in the file;
# averaged losses have not.
_LEAST_NAMES = 0.25
# What torch.nn.DataParallel and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")
# The counter that torch.optim.swa_utils.AveragedModel keeps next to its network.
_N_AVERAGED = "n_averaged"
# Entries where a network lies next to the heads of its self-supervised training.
_SELF_SUPERVISED = ("teacher", "student")
_BACKBONE = "backbone."
_SAFETENSORS = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """The state dict of a file.

    Attributes:
      state: entry name -> array; floating-point ones are float32.
      entry: under which it lay in the file; "" for a file that is a state dict itself.
      others: further state dicts of the file, which were not used.
      left_out: entries without the prefix that was stripped, or outside of the backbone.
    """

    state: dict[str, np.ndarray]
    entry: str = ""
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def read_weights(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Return the state dict of `open_weights`; log the choice among several."""
    weights = open_weights(path)
    if weights.others:
        others = ", ".join(weights.others)
        log.info(
            "%s: the entry %s is used; there is %s too (choose with `convert --entry`)",
            path,
            weights.entry,
            others,
        )
    return weights.state


def open_weights(path: str | pathlib.Path, *, entry: str = "", strip_prefix: str = "") -> Weights:
    """Read the state dict of a file as NumPy arrays, floats as float32.

    The arrays may be the file itself or lie under an entry such as "state_dict" or "model". Of
    several state dicts, averaged weights come first. A prefix "module." or "_orig_mod." of all
    names is removed. Code in a file is not run.

    Args:
      path: .pth, .npz or .safetensors file.
      entry: the state dict to use from a file that holds several.
      strip_prefix: use only entries whose names begin with it, and remove it.

    Raises:
      UserError: if the file is missing, damaged, of another kind, or holds no such state dict.
      ImportError: if PyTorch or safetensors is needed and not installed, with the command.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(_no_file(path))
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} ends in {suffix!r}; weights are read from {', '.join(SUFFIXES)}")
    unreadable = f"{path} cannot be read as a {suffix} weights file"
    if reason := file_kinds.why_not(path):
        raise UserError(f"{unreadable}: {reason}")
    try:
        content = _READERS.get(suffix, _read_torch)(path)
    except ImportError as error:
        package = "safetensors" if suffix == ".safetensors" else "PyTorch"
        raise ImportError(
            f'{package} is needed to read this file: pip install "affect_jax[convert]" '
            "(or save the state dict as .npz, which needs nothing)"
        ) from error
    except Exception as error:  # every format raises its own kinds for damaged files
        if reason := file_kinds.pickled_objects(error):
            raise UserError(f"{unreadable}: {reason}") from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{unreadable} (truncated, or of another kind?): {lines[0]}") from error
    taken, others, content = _unwrap(content, path, entry)
    state, left_out = _strip(content, path, strip_prefix, taken)
    return Weights(
        {name: _to_numpy(value, name, path) for name, value in state.items()},
        taken,
        others,
        left_out,
    )


def _no_file(path: pathlib.Path) -> str:
    if not path.exists():
        return f"{path} does not exist"
    if not path.is_dir():
        return f"{path} is not a file"
    inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    return f"{path} is a folder; name a file in it" + (f": {', '.join(inside)}" if inside else "")


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    # NumPy writes bfloat16, which it does not know, as two bytes of no type.
    return {k: v.view(ml_dtypes.bfloat16) if v.dtype == "V2" else v for k, v in arrays.items()}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors import deserialize

    # The library's own reader for NumPy refuses the types that NumPy does not have.
    state = {}
    for name, tensor in deserialize(path.read_bytes()):
        if tensor["dtype"] not in _SAFETENSORS:
            raise ValueError(f"entry {name!r} has the type {tensor['dtype']}")
        array = np.frombuffer(tensor["data"], _SAFETENSORS[tensor["dtype"]])
        state[name] = array.reshape(tensor["shape"])
    return state


def _read_torch(path: pathlib.Path) -> Any:
    import torch

    # A checkpoint may hold the options and scores of its training, which run no code.
    scalar = np.float64(0).__reduce__()[0]
    assert callable(scalar)
    allowed: list[Callable | tuple[Callable, str]] = [
        argparse.Namespace,
        np.dtype,
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
    ]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


_READERS = {".npz": _read_npz, ".safetensors": _read_safetensors}


def _is_array(value: Any) -> bool:
    return hasattr(value, "detach") or isinstance(value, np.ndarray)


def _state_dicts(content: Mapping[str, Any]) -> dict[str, int]:
    """Return the keys under which state dicts lie with their ranks, the one to use first."""
    is_one = any(map(_is_array, content.values()))
    found = {
        str(key): _names(value)
        for key, value in content.items()
        if isinstance(value, Mapping)
        and value
        and (str(key) in _WRAPPERS or (not is_one and all(map(_is_array, value.values()))))
    }
    ranks = {key: _rank(key, found) for key in found}
    return dict(sorted(ranks.items(), key=lambda item: (item[1], item[0])))


def _names(content: Mapping[str, Any]) -> set[str]:
    """Return the names of the arrays in an entry and below it, without prefixes."""
    names: set[str] = set()
    for key, value in content.items():
        if isinstance(value, Mapping):
            names |= _names(value)
        elif _is_array(value):
            names.add(_without_prefixes(str(key)))
    return names - {_N_AVERAGED}


def _without_prefixes(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def _rank(key: str, found: Mapping[str, set[str]]) -> int:
    """Return the place of an entry: averaged weights, `_WRAPPERS`, entries of other names.

    An entry whose name says "averaged" may hold averaged losses. It counts as weights if it is the
    only one, or if another entry has most of its names.
    """
    if not any(_AVERAGED.fullmatch(word.lower()) for word in _BETWEEN_WORDS.split(key)):
        return _WRAPPERS.index(key) if key in _WRAPPERS else _OTHER
    names = found[key]
    shared = max((len(names & other) for k, other in found.items() if k != key), default=len(names))
    largest = max(map(len, found.values()))
    proved = 2 * shared > len(names) >= _LEAST_NAMES * largest
    return _MEAN if len(found) == 1 or proved else _OTHER


def _unwrap(
    content: Any, path: pathlib.Path, entry: str
) -> tuple[str, tuple[str, ...], Mapping[str, Any]]:
    """Return the entry used, the other entries, and the state dict itself."""
    taken = ""
    others: tuple[str, ...] = ()
    while isinstance(content, Mapping) and (inner := _state_dicts(content)):
        wanted = entry if not taken else ""
        if wanted and wanted not in inner:
            raise UserError(f"{path} has no state dict {wanted!r}; {nearest(wanted, inner)}")
        chosen = wanted or next(iter(inner))
        averaged = [key for key, rank in inner.items() if rank == _MEAN]
        if not wanted and len(averaged) > 1:
            raise UserError(
                f"{path} holds several averaged state dicts: {', '.join(averaged)}; choose one "
                "with --entry"
            )
        if not wanted and inner[chosen] == _OTHER and len(inner) > 1:
            raise UserError(
                f"{path} holds several state dicts: {', '.join(inner)}; choose one with --entry"
            )
        others = others or tuple(key for key in inner if key != chosen)
        taken = taken or chosen
        content = {str(key): value for key, value in content.items()}[chosen]
    if not isinstance(content, Mapping) or not content:
        raise UserError(
            f"{path} holds a {type(content).__name__} instead of a state dict; save "
            "model.state_dict() with PyTorch and convert that"
        )
    if entry and not taken:
        raise UserError(
            f"{path} is a state dict itself and has no entries to choose from; leave out --entry"
        )
    return taken, others, content


def _strip(
    state: Mapping[str, Any], path: pathlib.Path, prefix: str, entry: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the state dict without prefixes, and the names that were left out."""
    state = {str(name): value for name, value in state.items()}
    if not prefix:
        if all(name.startswith(_PREFIXES) for name in state.keys() - {_N_AVERAGED}):
            state.pop(_N_AVERAGED, None)
        while shared := [p for p in _PREFIXES if all(name.startswith(p) for name in state)]:
            state = {name.removeprefix(shared[0]): value for name, value in state.items()}
        if entry in _SELF_SUPERVISED and any(name.startswith(_BACKBONE) for name in state):
            prefix = _BACKBONE
    kept = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    if not kept:
        raise UserError(
            f"{path}: no entry begins with --strip_prefix={prefix!r}; its {len(state)} entries "
            f"begin with {', '.join(list(state)[:5])}"
        )
    return kept, tuple(name for name in state if not name.startswith(prefix))


def _to_numpy(value: Any, name: str, path: pathlib.Path) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor; NumPy has no bfloat16
        value = value.detach()
        value = (value.float() if value.is_floating_point() else value).cpu().numpy()
    if not isinstance(value, np.ndarray):
        raise UserError(
            f"{path}: entry {name!r} is a {type(value).__name__}, not an array; only state dicts "
            "can be converted"
        )
    if value.dtype.kind == "V" and value.dtype.name in ml_dtypes.__all__:
        value = value.astype(np.float32)
    if value.dtype.kind not in "fiub":
        raise UserError(
            f"{path}: entry {name!r} holds numbers of type {value.dtype}; real numbers are needed"
        )
    if value.dtype.kind == "f":
        value = value.astype(np.float32)
        if not np.isfinite(value).all():
            raise UserError(f"{path}: entry {name!r} has values that are not finite")
    return value
