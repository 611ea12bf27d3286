"""What a job is made of: folders, patterns, lists, tables and addresses."""

import functools
import http.server
import json
import threading
from pathlib import Path

import pytest
from jobs import job, table, touch

from ivggt_jax.batch import process
from ivggt_jax.batch.inputs import Input, find_inputs, local
from ivggt_jax.sources import SourceError


def test_what_names_stand_for(tmp_path):
    touch(tmp_path, "videos/b.mp4", "videos/a.MOV", "videos/c.mcap", "videos/notes.md", "videos/.d.mp4")
    touch(tmp_path, "room/1.png", "room/film.mp4", "bag/metadata.yaml", "bag/a.mcap", "empty/notes.md")
    place = f"{tmp_path}/"
    found = find_inputs((place + "videos", place + "room", place + "bag", place + "empty", place + "videos/b.mp4"))
    names = ["videos/a.MOV", "videos/b.mp4", "videos/c.mcap", "room", "bag", "empty"]
    assert found == [Input(place + name) for name in names]
    assert find_inputs((place + "videos/*.mp4", place + "missing.mp4")) == [
        Input(place + "videos/b.mp4"), Input(place + "missing.mp4"),
    ]  # fmt: skip
    (tmp_path / "list.txt").write_text("# mine\nvideos/b.mp4\n\nroom\n")
    assert find_inputs((place + "list.txt",)) == [Input(place + "videos/b.mp4"), Input(place + "room")]
    for name, words in (("*.avi", "nothing matches"), ("cam:0", "run it with infer"), ("rtsp://a/b", "with infer")):
        with pytest.raises(SourceError, match=words):
            find_inputs((place + name if name == "*.avi" else name,))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_table_has_options_of_its_own_for_each(tmp_path, ending):
    rows = [
        {"source": "a.mp4", "fps": 2.5, "heads": ["camera"], "exif": False, "on_error": None},
        {"source": "/b.mp4", "fps": None, "heads": None, "exif": None, "on_error": "skip"},
    ]
    path = tmp_path / f"table.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    first, second = find_inputs((str(path),))
    assert (first.source, second.source) == (str(tmp_path / "a.mp4"), "/b.mp4")
    config = job(tmp_path, checkpoint="x").of(first.source, tmp_path / "o", first.options)
    assert (config.source.fps, config.heads, config.source.exif, config.checkpoint) == (2.5, ("camera",), False, "x")
    assert config.source.frames == str(tmp_path / "a.mp4") and config.resume and not config.view
    assert job(tmp_path).of("/b", tmp_path, second.options).source.on_error == "skip"
    with pytest.raises(ValueError, match="--colour red are no options of infer"):
        job(tmp_path).of("/b", tmp_path, ("--colour", "red"))
    path.write_bytes(b"{}\n" if ending == "jsonl" else b"nonsense")
    with pytest.raises(SourceError, match="has no source|is not a table"):
        find_inputs((str(path),))


@pytest.mark.parametrize("column", ["view", "out", "overwrite", "frames", "port", "resume"])
def test_a_table_does_not_take_over_the_job(tmp_path, column):
    with pytest.raises(SourceError, match=f"the column {column} is the job's"):
        find_inputs((table(tmp_path, {"source": "/a.mp4", column: "1"}),))


def test_numbers_of_a_table_as_programs_write_them(tmp_path):
    """Of a column of whole numbers with empty cells they make floats; a line ends only with a line end."""
    found = find_inputs((table(tmp_path, {"source": "/a\u2028b.mp4", "max_frames": 300.0, "fps": None, "start": 1.5}),))
    assert found == [Input("/a\u2028b.mp4", ("--max-frames", "300", "--start", "1.5"))]


def test_an_empty_cell_may_be_nan(tmp_path):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [{"source": "/a.mp4", "max_frames": 300.0}, {"source": "/b.mp4", "max_frames": float("nan")}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table.parquet")
    found = find_inputs((str(tmp_path / "table.parquet"),))
    assert found == [Input("/a.mp4", ("--max-frames", "300")), Input("/b.mp4")]


def test_a_source_has_one_set_of_options(tmp_path):
    """Two parts of a video would be one entry of the manifest, and one would be left out without a word."""
    rows = [{"source": "/v.mp4", "end": 10}, {"source": "/v.mp4", "start": 10}]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SourceError, match="v.mp4 stands there twice, with the options --end 10 and with --start 10"):
        find_inputs((str(tmp_path / "table.jsonl"),))
    (tmp_path / "table.jsonl").write_text(2 * (json.dumps(rows[0]) + "\n"))
    assert find_inputs((str(tmp_path / "table.jsonl"),)) == [Input("/v.mp4", ("--end", "10"))]


def test_brackets_in_folders_are_no_pattern(tmp_path, monkeypatch):
    place = touch(tmp_path / "videos [2024]", "a.mp4", "b.mp4")
    (place / "list.txt").write_text("gone.mp4\n*.mp4\n")
    both = [Input(str(place / name)) for name in ("a.mp4", "b.mp4")]
    assert find_inputs((str(place / "list.txt"),)) == [Input(str(place / "gone.mp4")), *both]
    monkeypatch.chdir(place)
    assert find_inputs(("*.mp4",)) == both
    assert find_inputs(("[b].mp4", "gone.mp4")) == [both[1], Input(str(place / "gone.mp4"))]


def test_files_in_options_of_a_table_start_at_the_table(tmp_path):
    """What is not there is taken as written: `depth` may be a topic, `camera` numbers."""
    touch(tmp_path, "masks/a.png", "rig.yaml")
    row = {"source": "a.mp4", "masks": "masks", "depth": "/camera/depth", "camera": "fisheye:rig.yaml#left",
           "align-to": "rig.yaml", "scale_from": "gone.txt", "images": ""}  # fmt: skip
    (tmp_path / "table.jsonl").write_text(json.dumps(row))
    (found,) = find_inputs((str(tmp_path / "table.jsonl"),))
    masks, rig = (str(tmp_path / name) for name in ("masks", "rig.yaml"))
    assert found.options == (
        "--masks", masks, "--depth", "/camera/depth", "--camera", f"fisheye:{rig}#left", "--align-to", rig,
        "--scale-from", "gone.txt", "--images", "",
    )  # fmt: skip


def test_addresses(tmp_path, monkeypatch):
    """file://, memory:// and an HTTP server on the loopback interface; a folder comes whole, and copies go again."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    touch(tmp_path, "in/a.mp4", "in/room/1.png", "in/room/deep/2.png")
    memory = fsspec.filesystem("memory")
    memory.pipe({"/videos/b.mp4": b"b", "/videos/c.mp4": b"c", "/videos/notes.md": b""})
    files = f"file://{tmp_path}/in"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "in"))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = find_inputs((files, f"{files}/room", "memory://videos", "memory://videos/*.mp4", f"{address}/a.mp4"))
        assert [item.source for item in found] == [
            f"{files}/a.mp4", f"{files}/room", "memory:///videos/b.mp4", "memory:///videos/c.mp4", f"{address}/a.mp4",
        ]  # fmt: skip
        for item, content in zip(found, (b"x", None, b"b", b"c", b"x"), strict=True):
            with local(item.source, tmp_path / "inputs") as place:
                if content is None:
                    inside = sorted(str(path.relative_to(place)) for path in Path(place).rglob("*.png"))
                    assert inside == ["1.png", "deep/2.png"]
                else:
                    assert Path(place).read_bytes() == content
            assert not Path(place).exists()
        for name in ("..", ""):
            memory.pipe({f"/up/{name}": b"0"})
            touch(tmp_path, "job/inputs/other/copy")
            with local(f"memory://up/{name}", tmp_path / "job" / "inputs" / "own") as place:
                assert Path(place).parent == tmp_path / "job" / "inputs" / "own"
            assert (tmp_path / "job" / "inputs" / "other" / "copy").exists()
        memory.pipe({"/pics/0.png": b"0", "/pics/../../../escaped": b"1"})
        with (
            pytest.raises(SourceError, match="outside the job's folder"),
            local("memory://pics", tmp_path / "job" / "inputs"),
        ):
            pass
        assert not list(tmp_path.rglob("escaped"))
        for missing in (f"{address}/none.mp4", "memory://none.mp4", "nonsense://a/b"):
            with (
                pytest.raises(SourceError, match="cannot be fetched|no address that fsspec knows"),
                local(missing, tmp_path / "inputs"),
            ):
                pass
        server.shutdown()
    memory.rm("/videos", recursive=True)


def test_what_is_fetched_is_run_and_what_cannot_be_is_recorded(tmp_path, monkeypatch):
    """By the process of the job, which may be stopped meanwhile. What a killed one left is fetched again."""
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe({"/some/a/1.png": b"a", "/some/a/2.png": b"b"})
    copy = tmp_path / "inputs" / "a" / "a"
    touch(copy, "1.png", "old.png")
    read = []

    def infer(config, load):
        read.append(sorted(path.name for path in Path(config.source.frames).iterdir()))
        config.out.mkdir()
        (config.out / "run.json").write_text('{"frames": 2}')
        return 0

    monkeypatch.setattr("ivggt_jax.infer.infer", infer)
    of = job(tmp_path, "memory://some").of
    assert process.outcome(of("memory://some/a", tmp_path / "a"), None) == {"status": "done", "frames": 2}
    assert read == [["1.png", "2.png"]] and not copy.exists()
    failed = process.outcome(of("memory://some/none.mp4", tmp_path / "b"), None)
    assert failed["status"] == "failed" and "cannot be fetched" in failed["error"]
    fsspec.filesystem("memory").rm("/some", recursive=True)


def test_a_signed_address_has_the_name_of_its_file(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    files = fsspec.filesystem("https")
    monkeypatch.setattr(files, "isdir", lambda *_: False)
    monkeypatch.setattr(files, "get_file", lambda path, place: Path(place).write_text(path))
    address = f"https://storage.example/videos/a.mcap?X-Amz-Signature={'0' * 300}"
    with local(address, tmp_path / "inputs") as place:
        assert Path(place).name == "a.mcap" and Path(place).read_text() == address


@pytest.mark.parametrize("source", ["cam:0", "rtsp://camera/1", "-"])
def test_a_camera_is_no_part_of_a_table_either(tmp_path, source):
    (tmp_path / "table.jsonl").write_text(json.dumps({"source": source}))
    with pytest.raises(SourceError, match="a camera is no part of a job"):
        find_inputs((str(tmp_path / "table.jsonl"),))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_as_people_have_them(tmp_path, encoding):
    """Byte-order marks, Windows' line ends, quotes, file:// addresses; in a table, too."""
    touch(tmp_path, "größe.mp4", "a b.mp4")
    lines = f"größe.mp4\r\n# no\r\n'a b.mp4'\r\nfile://{tmp_path}/a%20b.mp4\r\ns3://bucket/c.mp4\r\n"
    (tmp_path / "list.txt").write_bytes(lines.encode(encoding))
    (tmp_path / "table.jsonl").write_bytes('{"source": "größe.mp4"}\r\n\r\n{"source": "a b.mp4"}'.encode(encoding))
    here = [str(tmp_path / "größe.mp4"), str(tmp_path / "a b.mp4")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ivggt_jax.batch.inputs._at_address", lambda name: iter([Input(name)]))
        assert [item.source for item in find_inputs((str(tmp_path / "list.txt"),))] == [*here, "s3://bucket/c.mp4"]
    assert [item.source for item in find_inputs((str(tmp_path / "table.jsonl"),))] == here


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("own.txt", b"other.txt", "own.txt: lists itself"),
        ("zeros.txt", b"\0\0", "zeros.txt: is not a list of sources"),
        ("latin.txt", b"gr\xf6\xdfe.mp4", "is not in UTF-8: rename it"),
        ("deep.jsonl", b"[" * 100_000, "row 1 is nested more than 64 levels deep"),
        ("nan.jsonl", b'{"source": "a", "fps": NaN}', "row 1 is not JSON"),
        ("list.jsonl", b'{"source": "a"}\n["b"]', "row 2 holds a list"),
    ],
)
def test_a_list_that_is_none_is_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "other.txt").write_bytes(b"own.txt")
    with pytest.raises(SourceError, match=words):
        find_inputs((str(tmp_path / name),))


def test_a_damaged_table_is_one_line(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "other.parquet").write_bytes(b"PAR1xxxxPAR1")
    with pytest.raises(SourceError, match="other.parquet: is not a table of sources"):
        find_inputs((str(tmp_path / "other.parquet"),))
