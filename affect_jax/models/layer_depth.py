"""Depth of each parameter in a model, for layer-wise learning-rate decay."""

from collections.abc import Iterator

from flax import nnx


def layer_numbers(model: nnx.Module) -> dict[str, int]:
    """Return path -> number of the layer of each parameter, from 0 at the input.

    The blocks of a model are the members of its lists, in the order of construction. They are
    layers 1, 2 and so on. Parameters constructed before the first block are layer 0 (stem, patches,
    tokens, positions). Parameters between two blocks belong to the second. Parameters after the
    last block are one more layer (last norm, squeeze and excitation, head). Vision transformers get
    the numbers of BEiT's recipe.
    """
    numbers: dict[str, int] = {}
    last, previous, waiting = 0, None, []
    for path, block in _walk(model, ()):
        if block is None:
            waiting.append(path)
            continue
        if block != previous:
            last, previous = last + 1, block
        for between in waiting:
            numbers[between] = last if last > 1 else 0
        waiting = []
        numbers[path] = last
    for path in waiting:
        numbers[path] = last + 1
    return numbers


def _walk(
    node: nnx.Module, path: tuple[str, ...], block: tuple[str, ...] | None = None
) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """Yield (path, path of its block) of every parameter, in construction order."""
    if isinstance(node, nnx.List):
        children = [(str(i), child) for i, child in enumerate(node)]
    else:
        children = list(vars(node).items())
    for name, child in children:
        own = (*path, name)
        if isinstance(child, nnx.Param):
            yield "/".join(own), block
        elif isinstance(child, nnx.Module):
            starts = isinstance(node, nnx.List) and not isinstance(child, nnx.List)
            yield from _walk(child, own, own if starts and block is None else block)
