"""Reading state dicts: {entry name: array} from .pth, .npz and .safetensors files."""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from affect_jax.errors import UserError

TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt")
SUFFIXES = (*TORCH_SUFFIXES, ".npz", ".safetensors")

# Keys under which training scripts keep the state dict beside other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# What torch.nn.DataParallel puts before every name.
_PREFIX = "module."


def read_weights(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The state dict in a file, as NumPy arrays; floating-point entries as float32.

    The entries may be the file itself or lie under "state_dict" or "model"; a "module." that all
    names share is removed. PyTorch files are read without running any code in them.

    Raises:
      UserError: if the file is missing, damaged, of another kind, or holds no state dict.
      ImportError: if PyTorch or safetensors is needed and not installed, with the command.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist" if not path.exists() else f"{path} is no file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} ends in {suffix!r}; weights are read from {', '.join(SUFFIXES)}")
    if suffix == ".npz":
        read = _read_npz
    elif suffix == ".safetensors":
        read = _reader_safetensors()
    else:
        read = _reader_torch()
    try:
        content = read(path)
    except Exception as error:  # every format raises its own kinds for damaged files
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path} cannot be read as a {suffix} weights file (truncated, or of another kind?): "
            f"{reason[0]}"
        ) from error
    state = _strip_prefix(_unwrap(content, path))
    return {name: _to_numpy(value, name, path) for name, value in state.items()}


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    _check_zip(path)
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _reader_safetensors():
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise _missing("safetensors") from error
    return load_file


def _reader_torch():
    try:
        import torch
    except ImportError as error:
        raise _missing("PyTorch") from error

    def read(path: pathlib.Path) -> Any:
        with path.open("rb") as file:
            if file.read(2) == b"PK":  # those of PyTorch before 1.6 are no archives
                _check_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)

    return read


def _check_zip(path: pathlib.Path) -> None:
    # Said here, as NumPy and PyTorch advise on other things: pickles, invalid arguments.
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no whole zip archive")


def _missing(package: str) -> ImportError:
    return ImportError(
        f'{package} is needed to read this file: pip install "affect_jax[convert]" '
        "(or save the state dict as .npz, which needs nothing)"
    )


def _unwrap(content: Any, path: pathlib.Path) -> Mapping[str, Any]:
    while isinstance(content, Mapping):
        inner = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = content[inner[0]]
    if not isinstance(content, Mapping) or not content:
        raise UserError(
            f"{path} holds a {type(content).__name__} and no state dict; save "
            "model.state_dict() with PyTorch and convert that"
        )
    return content


def _strip_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    names = [str(name) for name in state]
    if all(name.startswith(_PREFIX) for name in names):
        names = [name.removeprefix(_PREFIX) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _to_numpy(value: Any, name: str, path: pathlib.Path) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor; NumPy has no bfloat16
        value = value.detach()
        value = (value.float() if value.is_floating_point() else value).cpu().numpy()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        raise UserError(
            f"{path}: entry {name!r} is a {type(value).__name__}, not an array; only state dicts "
            "can be converted"
        )
    if value.dtype.kind == "f":
        value = value.astype(np.float32)
        if not np.isfinite(value).all():
            raise UserError(f"{path}: entry {name!r} has values that are not finite")
    return value
