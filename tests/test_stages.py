"""What is said of how long a thing will take: what was measured here before, and nothing else."""

import dataclasses

import jax
import pytest

from ivggt_jax import CacheConfig, init_stream
from ivggt_jax.runs import stages
from ivggt_jax.runs.progress import Progress
from ivggt_jax.runs.stages import Thing, expected, first_frame, loading, stage, took

SMALL, LARGE = Thing("a", "kind", "112×84"), Thing("b", "kind", "518×392")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "compiled_folder", lambda: tmp_path)
    return tmp_path


def test_nothing_is_said_of_what_was_never_done():
    assert expected(SMALL) == ""


def test_the_first_time_bounds_the_second_and_the_last_time_tells_the_next():
    took(SMALL, 21.4)
    assert expected(SMALL) == " (the first time took about 21 s)"
    took(SMALL, 2.6)
    assert expected(SMALL) == " (about 3 s, as last time)"
    took(SMALL, 0.3)
    assert expected(SMALL) == " (less than a second, as last time)"


def test_another_size_is_named_for_what_it_is():
    took(SMALL, 240)
    took(SMALL, 3)
    assert expected(LARGE) == " (another size took about 4 minutes)"
    assert expected(dataclasses.replace(LARGE, name=SMALL.name)) == (
        " (the same size with other settings took about 4 minutes)"
    )
    assert expected(dataclasses.replace(LARGE, kind="other")) == ""


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"a": 1}', '{"a": {"first": "x", "again": null, "kind": "", "name": ""}}']
)
def test_a_damaged_record_says_nothing_and_is_replaced(folder, content):
    (folder / stages.FILE).write_text(content)
    assert expected(SMALL) == ""
    took(SMALL, 5)
    assert "first time" in expected(SMALL)


def test_only_so_many_things_are_remembered(monkeypatch):
    monkeypatch.setattr(stages, "MOST", 2)
    for number in range(4):
        took(Thing(f"{number}", f"{number}", ""), 5)
    assert [bool(expected(Thing(f"{number}", f"{number}", ""))) for number in range(4)] == [False, False, True, True]


def test_a_stage_that_fails_is_not_remembered(capsys):
    with pytest.raises(ZeroDivisionError), stage("loading x", loading("x", "auto")):
        1 / 0  # noqa: B018
    assert expected(loading("x", "auto")) == ""
    with stage("loading x", loading("x", "auto")):
        pass
    assert expected(loading("x", "auto")) and not expected(loading("x", "float32"))
    assert capsys.readouterr().err == "loading x\nloading x\n"


def test_a_runs_first_frame_is_remembered_once_and_a_live_ones_is_not(tiny, capsys):
    state = init_stream(tiny, CacheConfig(total_budget=200), height=28, width=42)
    lengths = jax.device_get(state.lengths[0])
    Progress(None, 0, state, live=True).advance(lengths)
    assert expected(first_frame(state)) == ""
    progress = Progress(None, 0, state)
    progress.advance(lengths)
    progress.pause()
    progress.advance(lengths)
    assert capsys.readouterr().err.count("the first frame is done") == 2  # one of each
    assert expected(first_frame(state)) == " (the first time took less than a second)"
    other = init_stream(tiny, CacheConfig(total_budget=200), height=28, width=28)
    assert expected(first_frame(other)) == " (another size took less than a second)"
