"""Files that are whole at every moment."""

import resource

import pytest

from ivggt_jax.writers.files import LineFile, NumberedFiles, ResumeError, WriteError, numbered, replacing


@pytest.fixture
def small_disk():
    """Files of more than 1 MiB cannot be written: the kernel's own refusal, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_replaced_file_appears_at_once(tmp_path):
    path = tmp_path / "folder" / "file"
    with replacing(path) as file:
        file.write(b"first")
        assert not path.exists()
    with replacing(path) as file:
        file.write(b"second")
        file.flush()
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"second"


def test_a_failed_block_leaves_the_old_file_and_no_part(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(KeyError), replacing(tmp_path / "file") as file:
        file.write(b"half")
        raise KeyError
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path, small_disk):
    (tmp_path / "file").write_bytes(b"old")
    message = r"cannot write .*/file: File too large.*Free space.*--resume"
    with pytest.raises(WriteError, match=message), replacing(tmp_path / "file") as file:
        file.write(bytes(2**21))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_lines_are_whole_on_a_full_disk(tmp_path, small_disk):
    lines = LineFile(tmp_path / "lines", 0)
    with pytest.raises(WriteError, match="cannot write .*/lines"):
        for _ in range(12_000):
            lines.append("x" * 98)
    lines.close()
    assert (tmp_path / "lines").read_text() == ("x" * 98 + "\n") * (2**20 // 99)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="cannot write .*/file/inside/lines"):
        LineFile(tmp_path / "file" / "inside" / "lines", 0)


@pytest.mark.parametrize("header", ["", "names"])
def test_lines_are_cut_to_the_frames_kept(header, tmp_path):
    lines = LineFile(tmp_path / "lines", 0, header)
    for number in range(5):
        lines.append(f"{number}")
    lines.close()
    with (tmp_path / "lines").open("ab") as file:
        file.write(b"half a li")
    lines = LineFile(tmp_path / "lines", 3, header)
    lines.append("next")
    lines.close()
    assert (tmp_path / "lines").read_text().splitlines() == [*filter(None, [header]), "0", "1", "2", "next"]
    with pytest.raises(ResumeError, match="holds 4 finished frames.* 5"):
        LineFile(tmp_path / "lines", 5, header)
    with pytest.raises(ResumeError, match="holds 0 finished frames"):
        LineFile(tmp_path / "missing", 5, header)


def test_numbered_files_are_in_the_order_of_their_numbers(tmp_path):
    files = NumberedFiles(tmp_path, ".png", 0)
    for index in (999_998, 999_999, 1_000_000, 7):
        files.path(index).write_bytes(b"")
    (tmp_path / "notes.png").write_bytes(b"")
    names = ["000007.png", "999998.png", "999999.png", "1000000.png"]
    assert [path.name for path in numbered(tmp_path, ".png")] == names
    NumberedFiles(tmp_path, ".png", 3)
    assert [path.name for path in numbered(tmp_path, ".png")] == names[:3]
    with pytest.raises(ResumeError, match="holds 3 finished frames"):
        NumberedFiles(tmp_path, ".png", 4)
