"""How large files and functions may be, read off the source: what is larger is divided before it is added to."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
FILES = {
    path.relative_to(ROOT): path.read_text()
    for room in ("ivggt_jax", "train", "convert")
    for path in (ROOT / room).rglob("*.py")
}
HEART = ("model", "memory", "streaming", "mapping", "kernels")
"""Rooms whose functions take few things. Elsewhere functions may have options by keyword."""
MORE_PARAMETERS = {
    "infer_clip": "a user's options, by keyword",
    "init_stream": "a user's options, by keyword",
    "stream": "a user's options, by keyword",
    "_clip": "the compiled part of `infer_clip`: its arrays and what it is compiled for",
    "follow": "what a submap and the next one say of the frames, and what a sensor does",
    "attend_in_place": "those of `attend_layer`, and the interpreter's switch for the tests",
}
"""Functions of the heart with more than six parameters, and what they are."""


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, text in FILES.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def test_files_are_few_at_the_root_and_short() -> None:
    lengths = {path: len(text.splitlines()) for path, text in FILES.items()}
    assert sum(path.parent == Path("ivggt_jax") for path in FILES) <= 12
    assert median(lengths.values()) <= 110
    assert not {path: length for path, length in lengths.items() if length > 350}


def test_functions_are_short() -> None:
    assert not [f"{path}: {node.name}" for path, node in functions() if node.end_lineno - node.lineno >= 60]


def test_functions_of_the_heart_take_few_things() -> None:
    """At most six, nested ones among them; what a user may say by keyword is an option, and named above."""
    many = {}
    for path, node in functions():
        if path.parts[1] in HEART and path.parts[0] == "ivggt_jax":
            given = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
            if len(given) + len(node.args.kwonlyargs) > 6:
                many[node.name] = len(given)
    assert many.keys() == MORE_PARAMETERS.keys()
    assert max(many[name] for name, what in MORE_PARAMETERS.items() if "by keyword" in what) <= 4
