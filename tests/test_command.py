"""What the commands share."""

from pathlib import Path

import pytest

from ivggt_jax import command


@pytest.mark.parametrize(("limit", "expected"), [("3000000", 3_000_000 - 2_000_000 + 500_000), ("max", None)])
def test_free_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit, expected):
    """Its limit less what is used, of which the cache of inactive files can be given up; "max" is no limit."""
    monkeypatch.setattr(command, "CONTAINER", tmp_path)
    machine = command.free_memory()
    assert machine > 10**8
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    (tmp_path / "memory.stat").write_text("anon 1200000\nfile 800000\ninactive_file 500000\n")
    if expected is None:
        assert command.free_memory() > machine / 2
    else:
        assert command.free_memory() == expected
