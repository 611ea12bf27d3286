"""`ivggt`, or `python -m ivggt_jax`: all commands as one program; without a command's name it runs `infer`."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import NoReturn

from ivggt_jax.inference.options import InferConfig, source_first
from ivggt_jax.options.words import nearest
from ivggt_jax.runs.command import run_command

COMMANDS = {
    "view": ("ivggt_jax.view", "show a run in the browser, during the run or afterwards"),
    "export": ("ivggt_jax.export", "write files for other tools from a run's saved frames"),
    "batch": ("ivggt_jax.batch.__main__", "process many videos, on one machine or on a Ray cluster"),
    "convert": ("ivggt_jax.convert.__main__", "convert PyTorch checkpoints to this project's format and back"),
    "push": ("ivggt_jax.push", "upload a trained or converted model to the Hugging Face Hub"),
    "train": ("ivggt_jax.train.__main__", "distil a teacher, or train on ground truth"),
    "evaluate": ("ivggt_jax.evaluate.__main__", "measure accuracy, and how well memory policies remember"),
    "compile": ("ivggt_jax.compile.__main__", "write programs to deploy that need JAX but not this package"),
    "bench": ("ivggt_jax.bench.__main__", "measure time and memory per frame"),
    "serve": ("ivggt_jax.serve.__main__", "follow live cameras, for programs and for a browser"),
    "doctor": ("ivggt_jax.doctor", "check the installation, and what fits in memory"),
}
"""Modules with a `main(arguments, program)`, imported when needed, and the description of each command."""
ABOUT = """Estimate camera poses, depth and points from a video, a folder of images or a camera, in constant memory.

Other commands, each with a --help of its own:
{commands}

{program} --version; {program} --completion bash (or zsh) prints a completion script for that shell.
"""


def main(arguments: Sequence[str] | None = None, program: str = "ivggt") -> None:
    """Run the command that the arguments name, or `infer`, and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--version"]:
        print(f"{program} {version('ivggt_jax')}")
        sys.exit(0)
    if words[:1] == ["--completion"]:
        run_command(dict, lambda _: _complete(words), [], program)
    if words[:1] and words[0] in COMMANDS:
        try:
            module = import_module(COMMANDS[words[0]][0])
        except ModuleNotFoundError as error:
            if words[0] != "train":  # the others import what is optional when it is needed
                raise
            missing = f"training needs {error.name}: pip install 'ivggt_jax[train]'"
            run_command(dict, lambda _: _refuse(missing), [], program)
        module.main(words[1:], f"{program} {words[0]}")
    if problem := _misread(words, program):
        run_command(dict, lambda _: _refuse(problem), [], program)
    lines = [f"  {program} {name:<9} {purpose}" for name, (_, purpose) in COMMANDS.items()]
    about = ABOUT.format(program=program, commands="\n".join(lines))
    run_command(InferConfig, _infer, source_first(words or ["--help"]), program, about)


def _misread(words: Sequence[str], program: str) -> str | None:
    """What is wrong with a misspelt command, or a pattern that the shell replaced by the files; None if neither is there."""
    first = words[0] if words else ""
    if first.isidentifier() and not Path(first).exists() and (name := nearest(first, COMMANDS)):
        again = shlex.join([*program.split(), name, *words[1:]])
        return f"{first}: there is no such command, nor such a file or folder; did you mean: {again}"
    for begin, word in enumerate(words):
        files = list(takewhile(_is_file, words[begin:]))
        if len(files) > 1 and (begin == 0 or not words[begin - 1].startswith("--")):
            return (
                "several files were given: put the pattern in quotes, or name their folder, "
                f"{shlex.quote(str(Path(word).parent))}; for several videos there is {program} batch"
            )
    return None


def _is_file(word: str) -> bool:
    with suppress(OSError):  # the name is too long
        return Path(word).is_file()
    return False


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)


def _complete(words: list[str]) -> int:
    from ivggt_jax.inference.completion import print_completion  # it imports the modules of all commands

    print_completion(words[1] if len(words) > 1 else "")
    return 0


def _infer(config: InferConfig) -> int:
    from ivggt_jax.infer import infer  # it imports JAX, which parsing does not need

    return infer(config)


if __name__ == "__main__":
    main(program="python -m ivggt_jax")
