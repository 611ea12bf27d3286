"""Names near the 255 bytes that file systems take: with an ending or a number they are shortened, and stay apart."""

import os
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image
from writer_scene import ALL, FITS, result, saved

from ivggt_jax.batch import manifest
from ivggt_jax.disk.beside import part_of, written_beside
from ivggt_jax.disk.names import LONGEST, fitting_name
from ivggt_jax.runs.output_folder import default_out
from ivggt_jax.writers.colmap import export_colmap
from ivggt_jax.writers.nerfstudio import export_nerfstudio


@pytest.mark.parametrize("letter", ["n", "ä", "映", "🎥", "\udcff"])
@pytest.mark.parametrize("length", [240, 249, 250, 255])
def test_names_fit_and_stay_apart(letter: str, length: int):
    size = len(os.fsencode(letter))
    name = letter * ((length - 2) // size)
    made = [fitting_name(".", f"{name}{end}", ".part") for end in ("01", "02")]
    for found in made:
        assert len(os.fsencode(found)) <= LONGEST and found.startswith(".") and found.endswith(".part")
        assert found[1] == letter or letter == "\udcff", "what is no text is left out"
    assert made[0] != made[1]
    assert fitting_name(".", name, "") == f".{name}"
    assert (made[0] == f".{name}01.part") == (len(os.fsencode(name)) + 8 <= LONGEST)


@pytest.mark.parametrize("folder", [False, True])
def test_a_name_of_any_length_is_written_beside(folder: bool, tmp_path: Path):
    for path in (tmp_path / ("n" * 250), tmp_path / ("ä" * 127)):
        with written_beside(path, folder=folder) as part:
            assert part == part_of(path) and part.exists() and not path.exists()
        assert path.exists() and not part.exists()


@pytest.mark.parametrize("length", [250, 255])
def test_pictures_with_long_names_are_exported(length: int, tmp_path: Path):
    """Grey ones, which are written anew with a further ending, and RGB ones, which are linked."""
    from dataclasses import replace

    items = []
    for index, mode in enumerate(("L", "RGB", "L")):
        item, name = result(index, FITS["resized"]), f"{index}".ljust(length - 4, "n") + ".png"
        path = tmp_path / name
        Image.new(mode, FITS["resized"].original_size, 100).save(path)
        items.append(replace(item, frame=replace(item.frame, name=name, path=path)))
    out = tmp_path / "out"
    out.mkdir()
    run = saved(out, items)
    export_colmap(run, out, ALL)
    export_nerfstudio(run, out, ALL)
    names = sorted(path.name for path in (out / "images").iterdir())
    assert [name[0] for name in names] == ["0", "1", "2"] and names[1] == items[1].frame.name
    text = (out / "transforms.json").read_text()
    binary = b"".join(path.read_bytes() for path in (out / "sparse/0").iterdir())
    assert all(name in text and name.encode() in binary for name in names)
    for name in names:
        assert np.asarray(Image.open(out / "images" / name)).shape[2:] == (3,)


def test_sources_of_one_long_name_have_folders_of_their_own(tmp_path: Path):
    rows = manifest.with_earlier([f"/{folder}/{'n' * 251}.mp4" for folder in "abc"] + ["/d/" + "n" * 255], [])
    paths = [row.path for row in rows]
    assert len(set(paths)) == 4 and max(map(len, paths)) <= LONGEST
    for path in paths:
        (tmp_path / path).mkdir()
    assert len(default_out(f"rtsp://camera/{'n' * 400}").name) == LONGEST
    assert PurePosixPath(paths[1]).name == paths[1]
