"""Errors that users can mend: shown as one message, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An error whose message says what is wrong, where, and what to do."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a phrase that names the choice closest to `name`, or lists all choices."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(choices)}"
