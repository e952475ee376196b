"""Log lines: one format, above the progress bar, without the chatter of libraries."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from data_pipelines import disk

_OUR_PACKAGES = ("affect_jax", "data_pipelines")
_LIBRARIES = ("jax", "jax._src", "orbax", "grain", "etils", "flax", "matplotlib", "PIL")

# Warnings of Orbax at every read of a checkpoint; users cannot do anything about them.
_ORBAX_CHATTER = (
    "CheckpointManagerOptions.read_only=True, setting ",
    "Given directory is read only=",
    "Type handler registry type ",
    "Metadata file does not exist: ",
)
# Errors that only follow from another one: TensorStore logs one for every array that is ready
# after the first failed, and Orbax's threads log one when the command has ended meanwhile.
_ORBAX_ECHOES = ("Event loop is closed", "cannot schedule new futures after")
_ORBAX = frozenset({"orbax", "tensorstore"})
# An error of Orbax's threads passes through no code but theirs and these packages'.
_AROUND_ORBAX = _ORBAX | {"asyncio", "concurrent", "etils", "jax", "threading"}


class _LogHandler(logging.Handler):
    """Log lines to stderr, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
            if "tqdm" in sys.modules and sys.stderr.isatty():
                from tqdm import tqdm

                tqdm.write(message, file=sys.stderr)
            else:
                print(message, file=sys.stderr, flush=True)
        except Exception:  # a log line must never end a run
            self.handleError(record)


class _LogFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def setup_logging(*, is_main: bool = True) -> None:
    """Log this project's lines as `14:03:59 text`, and only warnings of libraries.

    Args:
        is_main: False in all processes but the first, which then log warnings only.
    """
    import absl.logging

    root = logging.getLogger()
    absl_handler = absl.logging.get_absl_handler()
    for handler in list(root.handlers):
        if isinstance(handler, _LogHandler) or handler is absl_handler or _is_default(handler):
            root.removeHandler(handler)
    handler = _LogHandler()
    handler.setFormatter(_LogFormatter())
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    # Only while its own handler is not on the root does absl's verbosity leave the root alone.
    absl.logging.set_verbosity(absl.logging.WARNING)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _OUR_PACKAGES:
        logging.getLogger(name).setLevel(logging.INFO if is_main else logging.WARNING)


def _is_default(handler: logging.Handler) -> bool:
    """Return whether `logging.basicConfig()` made it, as absl does when given a message."""
    formatter = handler.formatter if type(handler) is logging.StreamHandler else None
    return formatter is not None and formatter._fmt == logging.BASIC_FORMAT


def quiet_orbax() -> None:
    """Suppress Orbax's warnings at reads, and its echoes of a full disk.

    This also works in programs that set up no logging. Log lines and errors of other code pass.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_matters)  # the same one is added once
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)
    if not isinstance(threading.excepthook, _Hook):
        threading.excepthook = _Hook(threading.excepthook)


class _Hook:
    """An `excepthook` that leaves out echoes."""

    def __init__(self, show: Callable[[Any], object]):
        self._show = show

    def __call__(self, caught: Any) -> None:
        if not _is_echo(caught.exc_value):
            self._show(caught)


def _matters(record: logging.LogRecord) -> bool:
    if str(record.msg).startswith(_ORBAX_CHATTER):
        return False
    error = record.exc_info[1] if record.exc_info else None
    # The caller who waits for a save gets its error too; Orbax logs it in every thread.
    told = error is not None and disk.is_full(error) and _is_of_orbax(error)
    return not told and not _is_echo(error)


def _is_echo(error: BaseException | None) -> bool:
    if not isinstance(error, RuntimeError) or not str(error).startswith(_ORBAX_ECHOES):
        return False
    return _is_of_orbax(error)


def _is_of_orbax(error: BaseException) -> bool:
    """Return whether an error passed through Orbax, or only through code around it.

    TensorStore's own errors do not pass through Python code.
    """
    frames = traceback.walk_tb(error.__traceback__)
    packages = {f.f_globals.get("__name__", "").partition(".")[0] for f, _ in frames}
    return bool(packages & _ORBAX) or packages <= _AROUND_ORBAX
