"""Pieces of Markdown; names from data and paths are made safe."""

from collections.abc import Iterable


def bullets(lines: Iterable[str]) -> str:
    """Return a list of items."""
    return "\n".join(f"* {line}" for line in lines)


def plain(text: object) -> str:
    """Return a text on one line, in which nothing is HTML."""
    return " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")


def code(text: object) -> str:
    """Return a text on one line as code."""
    return f"`{' '.join(str(text).split()).replace('`', chr(39))}`"
