"""The house: imports run down, never up or in a circle, and every room is lived in."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("affect_jax", "data_pipelines")
MOST_LINES = 400

# From top to bottom. A module imports from its own room, from rooms further down, and from nothing
# on its own floor: rooms of one floor do not know each other.
FLOORS = (
    (
        "affect_jax.main",
        "affect_jax.convert",
        "affect_jax.export",
        "affect_jax.predict",
        "affect_jax.benchmark",
        "affect_jax.report.__main__",
        "affect_jax.evaluation.baseline",
        "data_pipelines.prepare",
    ),
    ("affect_jax.experiments", "affect_jax.exporting"),
    ("affect_jax.training", "affect_jax.report", "affect_jax.inference"),
    ("affect_jax.evaluation", "affect_jax.weights"),
    ("affect_jax.overrides",),
    ("affect_jax.systems",),
    ("affect_jax.losses",),
    ("affect_jax.data_record",),
    ("affect_jax.batches",),
    ("affect_jax.config",),
    ("affect_jax.models", "affect_jax.metrics"),
    ("affect_jax.runtime",),
    ("affect_jax",),
    ("affect_jax.errors", "affect_jax.version"),
    (
        "data_pipelines.augment",
        "data_pipelines.splits",
        "data_pipelines.rendering.sheet",
        "data_pipelines.box_faces",
    ),
    ("data_pipelines.datasets",),
    ("data_pipelines.face_finder", "data_pipelines.landmarker"),
    ("data_pipelines.loading",),
    ("data_pipelines.sources",),
    ("data_pipelines.protocols", "data_pipelines.rendering"),
    ("data_pipelines.images",),
    ("data_pipelines.defaults", "data_pipelines.dataset_names", "data_pipelines.hierarchies"),
    ("data_pipelines.schema", "data_pipelines.locks", "data_pipelines.disk", "data_pipelines"),
)
# Run with `python -m`, or by name: imported by no module.
COMMANDS = (
    "affect_jax.main",
    "affect_jax.convert",
    "affect_jax.export",
    "affect_jax.predict",
    "affect_jax.evaluation.baseline",
    "data_pipelines.prepare",
    "data_pipelines.splits",
    "data_pipelines.augment",
    "data_pipelines.box_faces",
    "data_pipelines.rendering.sheet",
)
# Inside functions: `affect_jax.load`, and what a model or the detector finds for `prepare`.
UPWARD = {
    ("affect_jax", "affect_jax.inference.predictor"),
    ("data_pipelines.face_finder", "affect_jax.inference.detection"),
    ("data_pipelines.landmarker", "affect_jax"),
    ("data_pipelines.landmarker", "affect_jax.models.landmarks"),
}
PLUGINS = ("affect_jax.benchmark.", "data_pipelines.datasets.")  # found by their names


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports() -> dict[str, frozenset[str]]:
    """Modules of the project that each module imports, at its head or inside a function."""
    known = modules()
    found = {}
    for module, path in known.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    names.add(inner if inner in known else node.module)
        names = names & known.keys() - {module}
        found[module] = frozenset(name for name in names if (module, name) not in UPWARD)
    return found


def place(module: str) -> tuple[int, str]:
    """Floor and room of a module: the longest entry of FLOORS that it is or lies in."""
    fits = [
        (len(room), floor, room)
        for floor, rooms in enumerate(FLOORS)
        for room in rooms
        if module == room or (module.startswith(f"{room}.") and "." in room)
    ]
    assert fits, f"{module} has no floor: add its room to FLOORS"
    return max(fits)[1:]


def upward(module: str, imported: str) -> bool:
    floor, room = place(module)
    other_floor, other_room = place(imported)
    return other_floor < floor or (other_floor == floor and other_room != room)


@pytest.mark.parametrize("module", modules())
def test_imports_run_down(module):
    wrong = sorted(name for name in imports()[module] if upward(module, name))
    assert not wrong, f"{module} imports {', '.join(wrong)}, which lie above or on the same floor"


def test_no_circles():
    open_, done = [], set()

    def visit(module):
        if module in open_:
            pytest.fail("circle: " + " > ".join([*open_[open_.index(module) :], module]))
        if module in done:
            return
        open_.append(module)
        for name in sorted(imports()[module]):
            visit(name)
        done.add(open_.pop())

    for module in modules():
        visit(module)


def test_every_module_is_used():
    used = frozenset().union(*imports().values(), (name for _, name in UPWARD))
    idle = [
        name
        for name, path in modules().items()
        if name not in used
        and path.name not in ("__init__.py", "__main__.py")
        and name not in COMMANDS
        and not name.startswith(PLUGINS)
    ]
    assert not idle, f"imported by no module and no command: {', '.join(idle)}"


def test_commands_exist():
    for name in COMMANDS:
        assert "__main__" in modules()[name].read_text(), f"{name} is no command"


def test_files_are_short():
    long = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    long = {name: count for name, count in long.items() if count > MOST_LINES}
    assert not long, f"more than {MOST_LINES} lines: {long}"


def test_a_wrong_import_is_found():
    assert upward("affect_jax.models.vit", "affect_jax.training.loop")
    assert upward("affect_jax.training.step", "affect_jax.report.build")
    assert upward("data_pipelines.schema", "affect_jax.errors")
    assert not upward("affect_jax.training.loop", "affect_jax.evaluation.evaluator")
    assert not upward("affect_jax.report.page", "affect_jax.report.figures.style")
