"""What imports what, read off the source: no circle among modules, and rooms know only what lies below them."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("options", "disk", "transforms", "config", "kernels", "depth_colours", "client"),
    ("cameras", "geometry", "trajectories", "sources"),
    ("memory", "model", "synthetic"),
    ("mapping", "writers"),
    ("streaming", "weights"),
    ("",),  # the package's face: what `import ivggt_jax` gives
    ("runs", "split"),
    ("convert", "viewer"),
    ("infer", "inference", "export", "view", "push", "doctor", "evaluate", "bench", "batch", "serve", "compile"),
    ("train", "__main__"),
)
"""Rooms from the ground up. A room imports those below it and, without a circle of modules, its neighbours."""
LATER = {
    ("weights.loading", "convert.command"),
    ("weights.loading", "convert.assembly"),
    ("weights.loading", "convert.recognise"),
    ("runs.advice", "inference.options"),
}
"""Upward imports inside functions: foreign weights are rare, and advice repeats the options of `infer`."""
FORBIDDEN = {
    "memory": {"model"},
    "model": {"memory"},
    "infer": {"evaluate"},
    "runs": {"evaluate"},
    "train": {"writers"},
    "convert": {"", "writers"},
}
"""Rooms, beside those above them, that a room must not know."""
OF_CONVERT = {"weights", "bench", "convert", "inference"}
"""Rooms that know PyTorch's checkpoints."""


def modules() -> dict[str, Path]:
    """Every module by its name within the package, "" being the package itself."""
    found: dict[str, Path] = {}
    for folder, prefix in ((ROOT / "ivggt_jax", ()), (ROOT / "convert", ("convert",)), (ROOT / "train", ("train",))):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if prefix or parts[0] not in ("convert", "train"):
                found[".".join((*prefix, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = modules()


def imports(module: str, *, inside_functions: bool) -> Iterator[str]:
    """The package's modules that one imports, at its top or inside of functions."""
    tree = ast.parse(MODULES[module].read_text())
    inside = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ["ivggt_jax", *package][: 2 + len(package) - node.level] if node.level else []
            source = ".".join(chain(above, [node.module] if node.module else []))
            names = [f"{source}.{alias.name}" for alias in node.names]
        for name in names:
            if (id(node) in inside) == inside_functions and name.split(".")[0] == "ivggt_jax":
                yield nearest(name.split(".")[1:])


def nearest(parts: list[str]) -> str:
    """The module that holds a name: the name itself or what it is imported from."""
    while parts and ".".join(parts) not in MODULES:
        parts = parts[:-1]
    return ".".join(parts)


def packages(module: str) -> Iterator[str]:
    """The packages of ours that a module lies in, but for the whole."""
    parts = module.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)) if ".".join(parts[:length]) in MODULES)


def room(module: str) -> str:
    return module.split(".")[0]


def floor(module: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_room_has_its_floor():
    assert {room(module) for module in MODULES} == set(chain(*FLOORS))


def test_imports_are_read_in_every_form():
    assert "memory.token_memory" in imports("streaming.one_pass", inside_functions=False)
    assert "synthetic.rendering" in imports("synthetic", inside_functions=False), "relative"
    assert "geometry" in imports("mapping.submaps", inside_functions=False), "a module from the package"


def test_no_module_imports_itself_by_way_of_others():
    """Importing a module also runs the packages that it lies in, unless that is where the import came from."""
    graph = {}
    for module in MODULES:
        above = {module, *packages(module)}
        named = [x for x in imports(module, inside_functions=False) if x != module]
        graph[module] = {*named, *(package for x in named for package in packages(x) if package not in above)}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("where", ["at the top", "inside functions"])
def test_rooms_know_only_what_lies_below(where: str):
    inside = where == "inside functions"
    known = {(module, x) for module in MODULES for x in imports(module, inside_functions=inside)}
    upward = {(module, x) for module, x in known if floor(x) > floor(module)}
    assert upward == (LATER if inside else set())


def test_what_no_room_may_know():
    known = {(module, x) for module in MODULES for x in imports(module, inside_functions=False)}
    assert not {(module, x) for module, x in known if room(x) in FORBIDDEN.get(room(module), ())}
    assert {room(module) for module, x in known if room(x) == "convert"} <= OF_CONVERT
