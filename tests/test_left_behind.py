"""What is read back of an output folder, whatever lies there: other programs' files, damaged ones, other releases'."""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivggt_jax import Model, infer
from ivggt_jax.inference.options import InferConfig, MemoryOptions
from ivggt_jax.runs.advice import infer_command, next_steps, note_on_demo, saved_run
from ivggt_jax.runs.output_folder import MARKER, begin_anew, check_replaceable, describe, earlier_run
from ivggt_jax.runs.resume import RECORD, STATE_FILE, Unfinished, begin, read_state, restore_stream
from ivggt_jax.sources import SourceConfig
from ivggt_jax.viewer.page import saved_lengths
from ivggt_jax.weights.tensor_file import CheckpointError, write_safetensors
from ivggt_jax.writers import ExportOptions, Writers, write_run_json
from ivggt_jax.writers.run_json import plain, read_run_json, recorded

FOREIGN = {
    "a list": b"[1,2]",
    "null": b"null",
    "a number": b"3",
    "a text": b'"x"',
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "empty": b"",
    "cut short": b'{"frames": 3, "settings": {"sour',
    "not UTF-8": '{"frames": 3, "name": "é"}'.encode("latin-1"),
    "UTF-16": '{"frames": 3}'.encode("utf-16"),
    "NaN": b'{"frames": NaN}',
    "a name twice": b'{"frames": 3, "frames": 4}',
    "long numbers": b'{"frames": ' + b"9" * 5000 + b"}",
    "zero bytes": bytes(100),
    "too long": b'{"frames": 3, "a": "' + b"x" * (17 << 20) + b'"}',
    "frames are a text": b'{"frames": "three"}',
    "frames are true": b'{"frames": true}',
    "other things": b'{"tokens_kept": [1], "settings": [2], "conventions": 3}',
    "settings of other kinds": b'{"settings": {"source": {"frames": 7}, "export": 8}, "tokens_kept": {"by_layer": {"a": 1}}}',
    "lengths of other kinds": b'{"tokens_kept": {"by_layer": [[1], [2, 3]]}, "settings": {"source": null}}',
}
"""Contents of a run.json that is not ours, or not whole."""


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_record_is_no_run_and_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(FOREIGN[kind])
    found = earlier_run(tmp_path)
    assert found is not None and found.description == "what is left of a run that cannot be resumed"
    assert saved_lengths(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="holds no saved frames"):
        saved_run(tmp_path)
    if kind != "other things":  # which has what our records have
        with pytest.raises(ValueError, match=r"holds run.json, which may be no results"):
            begin_anew(tmp_path)
    assert path.read_bytes() == FOREIGN[kind]
    (tmp_path / MARKER).touch()
    check_replaceable(tmp_path)
    begin_anew(tmp_path)
    assert not path.exists()


def test_what_is_removed_in_part_is_no_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was removed before a kill; the mark goes last, and alone it is nothing."""
    (tmp_path / "frames").mkdir()
    for name in ("trajectory.txt", "frames/1.npz", "map.json", MARKER):
        (tmp_path / name).touch()
    (tmp_path / "run.json").write_text('{"frames": 1}')
    seen = []

    def look(path: Path) -> None:
        found = earlier_run(tmp_path)
        seen.append((path.name, found and (found.finished, found.unfinished)))

    unlink, rmtree = Path.unlink, shutil.rmtree
    monkeypatch.setattr(Path, "unlink", lambda path: (unlink(path), look(path)))
    monkeypatch.setattr(shutil, "rmtree", lambda path: (rmtree(path), look(path)))
    assert earlier_run(tmp_path).finished
    begin_anew(tmp_path)
    assert len(seen) == 5 and seen[-2:] == [("map.json", None), (MARKER, None)]
    assert {found for _, found in seen[:-2]} == {(False, None)}


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a dangling link"])
def test_a_record_that_is_no_file_is_none(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    {"a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path), "a dangling link": lambda: path.symlink_to("nowhere")}[
        kind
    ]()
    with pytest.raises(FileNotFoundError, match="run.json does not exist"):
        read_run_json(tmp_path)
    assert earlier_run(tmp_path) is None or not earlier_run(tmp_path).finished


SOUND: dict[str, Any] = {
    "options": {"frames": "/room"}, "frames": 3, "next_index": 3, "skipped": {"count": 0, "names": []},
    "last_skipped": -1, "stream": {},
}  # fmt: skip
RECORDS: dict[str, object] = {
    "a list": [1],
    "nothing": {},
    "a field more": {**SOUND, "colour": "red"},
    "a field less": {name: value for name, value in SOUND.items() if name != "stream"},
    "frames are a text": {**SOUND, "frames": "3"},
    "frames are true": {**SOUND, "frames": True},
    "frames are less than none": {**SOUND, "frames": -5},
    "frames without end": {**SOUND, "frames": 10**30},
    "next index is null": {**SOUND, "next_index": None},
    "options are a list": {**SOUND, "options": [1]},
    "skipped is a number": {**SOUND, "skipped": 3},
    "skipped names are numbers": {**SOUND, "skipped": {"count": 1, "names": [2]}},
    "skipped without a count": {**SOUND, "skipped": {"names": []}},
    "stream is a text": {**SOUND, "stream": "float32"},
}


def write_state(out: Path, record: bytes) -> None:
    tensor = np.frombuffer(record, np.uint8)
    write_safetensors(out / STATE_FILE, {RECORD: (tensor.shape, tensor.dtype)}, lambda _: tensor)


@pytest.mark.parametrize("kind", [*RECORDS, *FOREIGN])
def test_a_state_with_a_foreign_record_is_damaged(kind: str, tmp_path: Path) -> None:
    write_state(tmp_path, json.dumps(RECORDS[kind]).encode() if kind in RECORDS else FOREIGN[kind])
    with pytest.raises(CheckpointError, match=r"the state of a stopped run, is damaged: begin again with --overwrite"):
        read_state(tmp_path)
    assert describe(tmp_path) == "a damaged run" and saved_lengths(tmp_path) is None


@pytest.mark.parametrize("kind", ["empty", "text", "cut short", "no record", "a folder", "a pipe", "a dangling link"])
def test_a_state_that_is_none_is_damaged(kind: str, tmp_path: Path) -> None:
    path = tmp_path / STATE_FILE
    begin(tmp_path, {"frames": "/room"})
    whole = path.read_bytes()
    path.unlink()
    match kind:
        case "empty":
            path.touch()
        case "text":
            path.write_text("a state")
        case "cut short":
            path.write_bytes(whole[:-3])
        case "no record":
            write_safetensors(path, {"other": ((1,), np.dtype(np.uint8))}, lambda _: np.zeros(1, np.uint8))
        case "a folder":
            path.mkdir()
        case "a pipe":
            os.mkfifo(path)
        case "a dangling link":
            path.symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=r"is damaged: begin again with --overwrite"):
        read_state(tmp_path)


def test_what_is_handed_on_is_the_corrected_map_if_there_is_one(tmp_path: Path) -> None:
    for loops in (False, True):
        _, handed = next_steps(tmp_path, {"mapping": {"loops": loops}}, frames_saved=True, shown=False)
        assert (" --corrected " in handed) == loops


def test_a_sound_record_is_read(tmp_path: Path) -> None:
    write_state(tmp_path, json.dumps(SOUND).encode())
    assert read_state(tmp_path) == Unfinished(**SOUND)
    found = earlier_run(tmp_path)
    assert found is not None and found.description == "a run of /room that was stopped, with 3 frames saved"


STREAM: dict[str, Any] = {"cache": {"total_budget": 290}, "height": 56, "width": 70, "heads": ["camera", "depth"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"cache": {"total_budget": "many"}},
        {"cache": {"total_budgets": 290}},
        {"cache": [290]},
        {"cache": None},
        {"cache": {"total_budget": 290, "policy": "none"}},
        {"cache": {"total_budget": 290, "policy": 7}},
        {"cache": {"total_budget": 10**18}},
        {"height": "56"},
        {"height": 10**12 * 14},
        {"height": -14},
        {"width": None},
        {"heads": [["camera"]]},
        {"heads": ["smell"]},
        {"heads": 3},
        {"colour": "red"},
    ],
)
def test_a_stream_that_was_not_saved_so_is_refused(changes: dict[str, Any], tiny: Model) -> None:
    """Also one that no memory holds, before any is taken."""
    for stream in ({**STREAM, **changes}, {name: value for name, value in STREAM.items() if name not in changes}):
        with pytest.raises(CheckpointError):
            restore_stream(tiny, Unfinished({}, 3, stream=stream), lambda height, width: None)


@pytest.mark.parametrize("name", ["ply", "depth", "video"])
@pytest.mark.parametrize("state", [{}, {"keys": np.zeros((2, 2))}, {"unit": np.zeros(3)}, {"size": np.array("x")}])
def test_what_a_writer_did_not_save_is_one_error(name: str, state: dict[str, np.ndarray], tmp_path: Path) -> None:
    """A resumed run opens its writers with what the state holds for them."""
    (tmp_path / "depth").mkdir()
    with pytest.raises((ValueError, OSError)):
        Writers([name], tmp_path, ExportOptions(), 2, {f"{name}/{key}": array for key, array in state.items()})


def test_names_that_are_no_text_are_recorded(tmp_path: Path) -> None:
    """A file's name in Latin-1, on a system where names are UTF-8."""
    name = os.fsdecode("/scenes/café".encode("latin-1"))
    write_run_json(tmp_path, {"frames": 3, "settings": {"source": {"frames": Path(name)}}})
    assert earlier_run(tmp_path).source == "/scenes/caf\\xe9"
    begin(tmp_path, plain({"frames": name}))
    assert read_state(tmp_path).options == {"frames": "/scenes/caf\\xe9"}


def test_values_are_found_where_they_are() -> None:
    record = {"a": {"b": [1]}}
    assert recorded(record, "a", "b") == [1] and recorded(record) == record
    for names in (("b",), ("a", "c"), ("a", "b", "c"), ("a", "b", "0")):
        assert recorded(record, *names) is None


def settings(frames: str, **options: Any) -> dict[str, Any]:
    return plain(InferConfig(source=SourceConfig(frames=frames, **options.pop("source", {})), **options))


def parsed(command: str) -> InferConfig:
    """The options of a command, read by the command itself."""
    words = shlex.split(command)
    assert words[0] == "ivggt"
    found: list[InferConfig] = []

    def keep(config: InferConfig) -> int:
        found.append(config)
        return 0

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(infer, "infer", keep)
        infer.main(words[1:])
    return found[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"source": {"size": 42, "mode": "pad", "stride": 2, "exif": False}},
        {"source": {"fps": 2.5, "start": 1.5, "end": 9.0, "masks": Path("/a b/masks")}},
        {
            "heads": ("camera", "depth", "tracks"),
            "track_grid": 4,
            "memory": MemoryOptions(budget=9000, policy="segment"),
        },
        {"options": ExportOptions(confidence=20.0, voxel=0.01, sky="drop", shared_camera=True)},
        {"checkpoint": "/models/o'hara", "memory": MemoryOptions(precision="float32", max_memory="8GB")},
    ],
)
def test_a_command_gives_the_options_it_was_made_from(options: dict[str, Any]) -> None:
    config = InferConfig(source=SourceConfig(frames="/sc enes/room", **options.pop("source", {})), **options)
    command = infer_command(plain(config), out="/out/room", export=["tum", "npz"], overwrite=True)
    again = parsed(command)
    assert (again.out, again.export, again.overwrite) == (Path("/out/room"), ("tum", "npz"), True)
    assert plain(again) == plain(config) | {"out": "/out/room", "export": ["tum", "npz"], "overwrite": True}


def test_without_a_run_those_nearby_are_named(tmp_path: Path) -> None:
    for name in ("room", "walk", "shop", "yard"):
        (tmp_path / name).mkdir()
        write_run_json(tmp_path / name, {"frames": 1})
    with pytest.raises(FileNotFoundError, match=f"/rom: there is no such folder; did you mean {tmp_path}/room\\?$"):
        saved_run(tmp_path / "rom")
    for other in ("office", "sub/office"):
        with pytest.raises(FileNotFoundError, match=f"/{other}: there is no such folder$"):
            saved_run(tmp_path / other)
    named = ", ".join(f"{tmp_path}/{name}" for name in ("room", "shop", "walk"))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no run itself, but folders that do: {named}, …;"):
        saved_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="run.json: is a file; name the folder of a run"):
        saved_run(tmp_path / "room" / "run.json")
    assert earlier_run(tmp_path / "room").description == "a finished run of 1 frame of an unknown source"


def test_a_run_without_frames_names_the_command_that_keeps_them(tmp_path: Path) -> None:
    write_run_json(
        tmp_path,
        {"frames": 3, "settings": settings("/scenes/room", export=("tum",), memory=MemoryOptions(budget=9000))},
    )
    with pytest.raises(FileNotFoundError, match="holds no saved frames") as raised:
        saved_run(tmp_path)
    again = parsed(str(raised.value).partition("keeps them: ")[2])
    assert (again.source.frames, again.out, again.export, again.memory.budget) == (
        "/scenes/room",
        tmp_path,
        ("tum", "npz"),
        9000,
    )
    assert again.overwrite
    write_run_json(tmp_path, {"frames": 3, "settings": settings("rtsp://host/live", export=("tum",))})
    with pytest.raises(FileNotFoundError) as raised:
        saved_run(tmp_path)
    again = parsed(str(raised.value).partition("keeps them: ")[2])
    assert not again.overwrite and again.out == Path(f"{tmp_path}_with_frames"), "what a camera saw does not come again"


@pytest.mark.parametrize(
    ("frames", "checkpoint", "said"),
    [
        ("/anywhere/examples/room/frames", "demo", False),
        ("/anywhere/examples/room/frames/", "demo", False),
        ("/anywhere/frames", "demo", True),
        ("/mine/room/frames", "demo", True),
        ("/anywhere/examples/walk.mp4", "demo", False),
        ("/anywhere/examples/street.mp4", "demo", False),
        ("walk.mp4", "demo", True),
        ("cam:0", "demo", True),
        ("examples/room", "demo", True),
        ("walk.mp4", "lch01/StreamVGGT", False),
        ("walk.mp4", "/models/mine", False),
    ],
)
def test_the_demo_model_says_what_it_knows(frames: str, checkpoint: str, said: bool) -> None:
    note = note_on_demo(settings(frames, checkpoint=checkpoint))
    assert (note is not None) == said
    if note:
        assert note.startswith("NOTE: THE DEMO MODEL KNOWS RENDERED SCENES ONLY") and "non-commercial" in note
        assert parsed(note.partition(": ")[2].partition("5 GB): ")[2]).checkpoint == "lch01/StreamVGGT"
