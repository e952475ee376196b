"""Names of the rows of results that hold a context of `evaluation.contexts`."""

import re

from affect_jax.models.relations_settings import CONTEXTS


def bank_row(size: int) -> str:
    """Return the name of the context of a bank of another size."""
    return f"bank{size}"


def column(context: str) -> str | None:
    """Return the heading of a context in a table; None: it is not a context."""
    if found := re.fullmatch(r"bank(\d+)", context):
        return f"bank of {found[1]}"
    return f"context {context}" if context in CONTEXTS else None
