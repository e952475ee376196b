"""What a compiled program sends between devices, read from its text."""

import math
import re
from typing import NamedTuple

_INSTRUCTION = re.compile(
    r"= (?P<shapes>[^=]*?) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_COMMENT = re.compile(r"/\*.*?\*/")  # numbers every fifth result
_SHAPE = re.compile(r"\b(?P<type>pred|bf16|[suf]\d+)\[(?P<sizes>[\d,]*)\]")
_HOST = re.compile(r'custom_call_target="[^"]*callback[^"]*"|\b(outfeed|infeed|send|recv)\(')


class Collective(NamedTuple):
    """One instruction: its kind, as "all-reduce", and the bytes of its results."""

    kind: str
    bytes: int


def collectives(text: str) -> list[Collective]:
    """Return the collectives of a compiled program, given as the text of its HLO.

    One in a loop counts once.
    """
    found = []
    for match in _INSTRUCTION.finditer(_COMMENT.sub("", text)):
        size = sum(_bytes(*shape) for shape in _SHAPE.findall(match["shapes"]))
        found.append(Collective(match["kind"], size))
    return found


def host_calls(text: str) -> list[str]:
    """Return the instructions by which a compiled program calls its host."""
    return [match.group(0) for match in _HOST.finditer(text)]


def _bytes(kind: str, sizes: str) -> int:
    width = 8 if kind == "pred" else int(kind.lstrip("sufb"))
    return math.prod(int(n) for n in sizes.split(",") if n) * width // 8
