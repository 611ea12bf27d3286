"""`ivggt`: one program of all commands, quick to say what it can do, and the same under its other names."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from ivggt_jax.__main__ import COMMANDS, main
from ivggt_jax.inference.options import source_first


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in a process of its own."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=cwd)


def code_of(*arguments: str) -> object:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def test_help_comes_without_what_takes_long_to_import() -> None:
    """With JAX help would take seconds."""
    program = "import atexit, sys; atexit.register(lambda: print('jax' in sys.modules)); import ivggt_jax.__main__ as m"
    shown = python("-c", f"{program}; m.main(['--help'])")
    assert shown.returncode == 0 and shown.stdout.endswith("False\n"), shown.stderr


def test_help_names_all_commands_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("--help") == 0
    shown = capsys.readouterr().out
    for words in (
        *(f"ivggt {name} " for name in COMMANDS),
        "frame options",
        "memory options",
        "export options",
        "mapping options",
    ):
        assert words in shown
    assert code_of() == 0
    assert capsys.readouterr().out == shown


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("--version") == 0
    assert capsys.readouterr().out == f"ivggt {version('ivggt_jax')}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_how_it_is_called(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(name, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: ivggt {name} ")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["video.mp4", "--stride", "2"], ["video.mp4", "--stride", "2"]),
        (["--stride", "2", "--frames", "dir", "--resume"], ["dir", "--stride", "2", "--resume"]),
        (["--export", "tum", "--frames=dir"], ["dir", "--export", "tum"]),
        (["--frames"], ["--frames"]),
    ],
)
def test_the_source_has_no_name_or_its_older_one(written: list[str], read: list[str]) -> None:
    assert source_first(written) == read


def test_a_shell_completes_commands_options_and_values(tmp_path: Path) -> None:
    script = python("-m", "ivggt_jax", "--completion", "bash").stdout
    (tmp_path / "completion").write_text(
        script + '\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tyro_ivggt ivggt; echo "${COMPREPLY[@]}"\n'
    )

    def completed(*words: str) -> list[str]:
        line = ["bash", str(tmp_path / "completion"), *words]
        return subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=60).stdout.split()

    assert completed("ivggt", "ex") == ["export"]
    for command in COMMANDS:
        assert command in completed("ivggt", command)
    assert completed("ivggt", "video.mp4", "--bud") == ["--budget"]
    assert completed("ivggt", "video.mp4", "--policy", "div") == ["diversity"]
    assert completed("ivggt", "export", "out", "--to", "col") == ["colmap"]
    assert python("-m", "ivggt_jax", "--completion", "fish").stderr == (
        "error: --completion is for bash and zsh, not 'fish'\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "veiw out/room",
            "veiw: there is no such command, nor such a file or folder; did you mean: ivggt view out/room\n",
        ),
        ("walk/1.png walk/2.png", "several files were given: put the pattern in quotes, or name their folder, walk; "),
        ("--camera walk/c.txt walk/1.png walk/2.png --size 112", "several files were given: "),
        ("export out --to colmp ply", "\ncolmp: did you mean colmap?\n"),
        ("walk --policy=divresity", "\ndivresity: did you mean diversity?\n"),
    ],
)
def test_what_was_meant_is_said(words: str, said: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("walk").mkdir()
    for name in ("1.png", "2.png", "c.txt"):
        Path("walk", name).touch()
    assert code_of(*words.split())
    assert said in capsys.readouterr().err


def test_a_folder_called_like_a_misspelt_command_is_a_folder(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("views").mkdir()
    assert code_of("views") == 1
    assert "views: no images in this folder" in capsys.readouterr().err


EVERY_HELP = """
import sys
for words in ([], *([name] for name in sys.argv[1:])):
    for module in [name for name in sys.modules if name.partition(".")[0] == "ivggt_jax"]:
        del sys.modules[module]
    from ivggt_jax.__main__ import main
    try:
        main([*words, "--help"])
    except SystemExit as stopped:
        assert not stopped.code, (words, stopped.code)
"""


def test_modules_of_the_same_names_in_the_folder_are_not_ours(tmp_path: Path) -> None:
    """Every command where files are called like our modules, like folders of this repository, and like the library's.

    One process asks for the help of all, each time with none of our modules loaded yet.
    """
    inside = Path(__file__).parents[1] / "ivggt_jax"
    ours = {path.stem for path in inside.rglob("*.py")} | {path.name for path in inside.rglob("*") if path.is_dir()}
    for name in sorted(ours | {"json", "logging", "types", "random", "convert", "train", "view", "ivggt"}):
        if name.isidentifier() and not name.startswith("__"):
            (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file')\n")
    # As a console script runs: the script's folder is on the path, the current one is not.
    found = python("-P", "-c", EVERY_HELP, *COMMANDS, cwd=tmp_path)
    assert found.returncode == 0 and "the wrong file" not in found.stderr, found.stderr
    assert [found.stdout.count(f"usage: ivggt {name} ") for name in COMMANDS] == [1] * len(COMMANDS)
