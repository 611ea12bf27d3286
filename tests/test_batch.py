"""Many videos: what a job is made of, who does it, what dies, and what is recorded. The videos themselves are played by
`fake_process`; tests/e2e/test_fleet.py runs them."""

import dataclasses
import functools
import http.server
import json
import threading
import time
from pathlib import Path

import pytest

from ivggt_jax.batch import here, manifest, on_ray, process, worker
from ivggt_jax.batch.__main__ import batch
from ivggt_jax.batch.inputs import Input, find_inputs, local
from ivggt_jax.batch.manifest import Row
from ivggt_jax.batch.options import BatchConfig, EachSource, ray_word
from ivggt_jax.inference.earlier import for_records
from ivggt_jax.runs.output_folder import MARKER
from ivggt_jax.sources import SourceError
from ivggt_jax.writers import write_run_json

ROOT = Path(__file__).parents[1]


@pytest.fixture
def faked(monkeypatch):
    monkeypatch.setattr(worker, "PROCESS", "fake_process")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=":")


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def job(out, *sources, **options):
    return BatchConfig(sources=tuple(map(str, sources)), out=out, **options)


def rows_of(out):
    return {Path(row.source).name: row for row in manifest.read(out)}


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


def test_who_does_not_wait_leaves_no_process(faked, tmp_path):
    """As when the manifest cannot be written, or after a second Ctrl-C: nothing is waited for."""
    touch(tmp_path, "in/a", "in/slow", "in/deaf")
    tasks = [worker.Task(Row(str(tmp_path / "in" / name), name)) for name in ("a", "slow", "deaf")]
    rows = here.rows_here(job(tmp_path, workers=3), tmp_path, tasks)
    assert next(rows).path == "a"
    begun = time.monotonic()
    rows.close()
    assert time.monotonic() - begun < 30
    assert not (tmp_path / "slow" / "run.json").exists()


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


def table(folder, *rows):
    path = folder / "table.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


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


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"max_frames": 2.5}, "/a.mp4: Error parsing --max-frames: no type matching"),
        ({"colour": "red"}, "/a.mp4: Unrecognized options: --colour"),
        ({"export": "foo"}, "invalid choice 'foo' for argument '--export'"),
        ({"fps": -1}, "fps must be positive, not -1.0"),
    ],
)
def test_what_is_no_option_is_said_before_anything_runs(tmp_path, capfd, row, words):
    with pytest.raises(ValueError) as error:
        batch(job(tmp_path / "out", table(tmp_path, {"source": "/b.mp4"}, {"source": "/a.mp4", **row})))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "") and not (tmp_path / "out").exists()


def test_finished_sources_with_other_options_are_said(faked, tmp_path):
    """They stay as they are; what does not decide what is written may change."""
    touch(tmp_path, "in/a.mp4", "in/b.mp4")
    rows = [{"source": str(tmp_path / "in" / name), "fps": fps} for name, fps in (("a.mp4", 2), ("b.mp4", 3))]
    out = tmp_path / "out"
    assert batch(job(out, table(tmp_path, *rows))) == 0
    for number, name in ((2, "a"), (3, "b")):
        config = job(out).of(rows[number - 2]["source"], out / name, ("--fps", str(number)))
        settings = dataclasses.replace(for_records(config), export=config.outputs)
        write_run_json(out / name, {"settings": settings})
    assert batch(job(out, table(tmp_path, *rows), workers=2, save_every=7)) == 0
    with pytest.raises(
        ValueError, match=r"2 of 2 finished sources .* such as .*a\.mp4 with --size None, now 28: --overwrite"
    ):
        batch(job(out, table(tmp_path, *rows), source=EachSource(size=28)))
    rows[1]["fps"] = 4
    with pytest.raises(
        ValueError, match=r"1 of 2 finished sources .* such as .*b\.mp4 with --fps 3.0, now 4.0: --overwrite"
    ):
        batch(job(out, table(tmp_path, *rows)))
    assert not list(out.glob("*/try2"))
    assert batch(job(out, table(tmp_path, *rows), overwrite=True)) == 0


def test_a_source_has_one_set_of_options(tmp_path):
    """Two parts of a video would be one entry of the manifest, and one would be left out without a word."""
    rows = [{"source": "/v.mp4", "end": 10}, {"source": "/v.mp4", "start": 10}]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SourceError, match="v.mp4 stands there twice, with the options --end 10 and with --start 10"):
        find_inputs((str(tmp_path / "table.jsonl"),))
    (tmp_path / "table.jsonl").write_text(2 * (json.dumps(rows[0]) + "\n"))
    assert find_inputs((str(tmp_path / "table.jsonl"),)) == [Input("/v.mp4", ("--end", "10"))]


def test_folders_keep_their_sources(tmp_path):
    first = manifest.with_earlier(["/x/cam0/a.mp4", "/x/cam1/a.mp4", "s3://b/manifest.jsonl"], [])
    assert [row.path for row in first] == ["a", "a-2", "b-manifest.jsonl"]
    manifest.write(tmp_path, first)
    again = manifest.with_earlier(["/x/cam2/a.mp4", "/x/cam1/a.mp4"], manifest.read(tmp_path))
    assert [row.path for row in again] == ["a", "a-2", "b-manifest.jsonl", "a-3"]
    manifest.write(tmp_path, again)
    third = manifest.with_earlier(["/x/cam3/a.mp4", "/x/cam0/a.mp4"], manifest.read(tmp_path))
    assert {row.source: row.path for row in third} == {row.source: row.path for row in again} | {"/x/cam3/a.mp4": "a-4"}
    (tmp_path / "manifest.jsonl").write_text('{"source": 1, "path": "a"}\n')
    with pytest.raises(ValueError, match="is not the manifest of a job"):
        manifest.read(tmp_path)


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


def test_an_earlier_run_is_not_taken_for_a_new_one_whose_process_died(faked, tmp_path):
    """With --overwrite the next process begins anew as long as none has begun, and resumes once one has."""
    touch(tmp_path, "in/clumsy", "in/late")
    for name, expected in (("clumsy", ["False True"] * 3), ("late", ["False True", "True False"])):
        out = tmp_path / "out" / name
        touch(out, MARKER)
        assert batch(job(tmp_path / "out", tmp_path / "in" / name, overwrite=True)) == 0
        tries = [out / f"try{number + 1}" for number in range(len(expected))]
        assert [path.read_text().removesuffix(" demo") for path in tries] == expected


def test_both_manifests_say_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [Row("/a", "a", "done", 5, 1.5, "host:1"), Row("/b", "b", "failed", error="no file"), Row("/ä", "c")]
    manifest.write(tmp_path, rows)
    assert manifest.read(tmp_path) == rows
    table = parquet.read_table(tmp_path / "manifest.parquet")
    assert table.column_names == ["source", "path", "status", "frames", "seconds", "worker", "error"]
    assert [Row(**record) for record in table.to_pylist()] == rows


def test_a_bare_ray_is_auto():
    assert ray_word(["a", "--ray", "--out", "b"]) == ["a", "--ray=auto", "--out", "b"]
    assert ray_word(["a", "--ray"]) == ["a", "--ray=auto"]
    assert ray_word(["--ray", "local", "a"]) == ["--ray", "local", "a"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_job_records_each_source_and_does_what_is_missing(faked, tmp_path, workers, capsys):
    touch(tmp_path, "in/a.mp4", "in/bad", "in/clumsy", "in/mortal", "in/b.mp4")
    sources = sorted((tmp_path / "in").iterdir())
    out = tmp_path / "out"
    assert batch(job(out, *sources, workers=workers)) == 1
    rows = rows_of(out)
    assert {name: row.status for name, row in rows.items()} == {
        **dict.fromkeys(("a.mp4", "b.mp4", "clumsy"), "done"), **dict.fromkeys(("bad", "mortal"), "failed"),
    }  # fmt: skip
    assert rows["a.mp4"].frames == 7 and rows["bad"].error == "it is bad" and rows["a.mp4"].seconds > 0
    assert rows["mortal"].error == "its worker died 3 times: signal 9, signal 9, signal 9"
    assert sorted(path.name for path in (out / "clumsy").glob("try*")) == ["try1", "try2", "try3"]
    assert len({row.worker for row in rows.values() if row.status == "done"}) <= workers + 5
    assert "failed: " in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in out.rglob("try*")}
    assert batch(job(out, *sources, workers=workers)) == 1
    again = {path for path in out.rglob("try*") if before.get(path) != path.stat().st_mtime_ns}
    assert {path.parent.name for path in again} == {"bad", "mortal"}
    (out / "a" / "run.json").unlink()
    assert batch(job(out, sources[0])) == 0
    assert (out / "a" / "try2").read_text() == "True False demo"
    assert batch(job(out, sources[0], overwrite=True)) == 0
    assert (out / "a" / "try3").read_text() == "False True demo"


@pytest.mark.parametrize("name", ["slow", "deaf"])
def test_a_video_that_takes_too_long_is_stopped_and_the_next_is_done(faked, tmp_path, monkeypatch, name):
    monkeypatch.setattr(worker, "SECONDS_TO_SAVE", 0.5)
    touch(tmp_path, f"in/{name}", "in/z.mp4")
    assert batch(job(tmp_path / "out", tmp_path / "in" / name, tmp_path / "in/z.mp4", time_limit=3)) == 1
    rows = rows_of(tmp_path / "out")
    assert (rows[name].status, rows[name].error) == ("failed", "not done after 3 s")
    assert rows["z.mp4"].status == "done"


def test_ctrl_c_stops_what_runs_and_leaves_what_waits(faked, tmp_path):
    touch(tmp_path, "in/a", "in/slow", "in/z")
    tasks = [worker.Task(Row(str(tmp_path / "in" / name), name)) for name in ("a", "slow", "z")]
    rows = here.rows_here(job(tmp_path), tmp_path, tasks)
    assert next(rows).status == "done"
    deadline = time.monotonic() + 60
    while not (tmp_path / "slow" / "try1").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    row = rows.throw(KeyboardInterrupt)
    assert (row.path, row.status) == ("slow", "stopped")
    with pytest.raises(KeyboardInterrupt):
        next(rows)
    assert not (tmp_path / "z").exists()


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


def test_a_row_may_name_a_file_that_is_not_in_utf_8(tmp_path):
    """As JSON and as Parquet."""
    manifest.write(tmp_path, [Row("/a", "a", "failed", error="/a/1\udcff.png: is damaged")])
    assert manifest.read(tmp_path)[0].error == "/a/1\\xff.png: is damaged"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"out": None}, "--out is missing"), ({"workers": 0}, "at least 1"), ({"time_limit": 0.0}, "must be positive")],
)
def test_options_that_make_no_sense(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        batch(job(**{"out": tmp_path / "out", **options}))
    with pytest.raises(SourceError, match="there are no sources"):
        batch(job(tmp_path / "out"))
    with pytest.raises(ValueError, match="--ray took list.txt for the cluster's address"):
        batch(job(tmp_path / "out", ray="list.txt"))


@pytest.mark.parametrize("limit", [3e6, 1e300, float("inf")])
def test_a_time_limit_that_is_none(faked, tmp_path, limit):
    touch(tmp_path, "in/a.mp4")
    assert batch(job(tmp_path / "out", tmp_path / "in" / "a.mp4", time_limit=limit)) == 0


def test_examples_are_whole():
    """YAML that loads and a script that bash parses; no cluster is started."""
    yaml = pytest.importorskip("yaml")
    import subprocess

    folder = ROOT / "examples" / "ray"
    cluster = yaml.safe_load((folder / "cluster.yaml").read_text())
    assert cluster["available_node_types"].keys() >= {cluster["head_node_type"]}
    (kube,) = yaml.safe_load_all((folder / "kuberay.yaml").read_text())
    assert kube["kind"] == "RayJob" and "ivggt batch" in kube["spec"]["entrypoint"]
    subprocess.run(["bash", "-n", folder / "slurm.sh"], check=True)
    assert "ivggt batch" in (folder / "slurm.sh").read_text()


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


@pytest.mark.parametrize(
    "lines",
    [
        b"null",
        b"[" * 100_000,
        b'{"source": "\xff", "path": "b"}',
        b'{"source": "a", "path": "../../b"}',
        b'{"source": "a", "path": "/etc"}',
        b'{"source": "a", "path": "b/c"}',
        b'{"source": "a", "path": "workers"}',
        b'{"source": "a", "path": ".lock"}',
        b'{"source": "a", "path": ""}',
        b'{"source": "a", "path": "b", "frames": "many"}',
        b'{"source": "a", "path": "b", "frames": true}',
        b'{"source": "a", "path": "b", "seconds": []}',
        b'{"source": "a", "path": "b", "status": ["done"]}',
        b'{"source": "a", "path": "b", "error": {}}',
        b'{"source": "a", "path": "b"}\n{"source": "c", "path": "b"}',
    ],
)
def test_a_foreign_manifest_is_refused_and_nothing_runs_elsewhere(tmp_path, lines):
    (tmp_path / "manifest.jsonl").write_bytes(lines)
    with pytest.raises(ValueError, match="is not the manifest of a job"):
        manifest.read(tmp_path)


def test_no_source_gets_a_folder_of_the_jobs_own():
    sources = ["/v/.lock.mp4", "s3://..", "/v/workers.mp4", "/v/.manifest.jsonl.part.mp4"]
    paths = [row.path for row in manifest.with_earlier(sources, [])]
    assert paths == ["lock", "run", "workers-2", "manifest.jsonl.part"]


def test_workers_are_told_how_many_share_the_memory(faked, tmp_path):
    """No more than have something to do. On Ray those of one machine, or of one GPU."""
    touch(tmp_path, "in/a", "in/b")
    assert batch(job(tmp_path / "out", tmp_path / "in/a", tmp_path / "in/b", workers=5)) == 0
    assert (tmp_path / "out/a/among").read_text() == "--among 2"
    counts = [on_ray.among(4, gpus, machines) for gpus, machines in ((0, 1), (0, 2), (1, 1), (0.5, 2), (2, 1))]
    assert counts == [4, 1, 1, 2, 1]
