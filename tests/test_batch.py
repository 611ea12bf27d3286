"""Many videos: who does them, what dies, and what is recorded. The videos themselves are played by `fake_process`;
tests/e2e/test_fleet.py runs them."""

import dataclasses
import time
from pathlib import Path

import pytest
from jobs import job, table, touch

from ivggt_jax.batch import here, manifest, on_ray, worker
from ivggt_jax.batch.__main__ import batch
from ivggt_jax.batch.manifest import Row
from ivggt_jax.batch.options import EachSource, ray_word
from ivggt_jax.inference.earlier import for_records
from ivggt_jax.runs.output_folder import MARKER
from ivggt_jax.sources import SourceError
from ivggt_jax.writers import write_run_json

ROOT = Path(__file__).parents[1]


@pytest.fixture
def faked(monkeypatch):
    monkeypatch.setattr(worker, "PROCESS", "fake_process")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=":")


def rows_of(out):
    return {Path(row.source).name: row for row in manifest.read(out)}


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
    assert batch(job(tmp_path / "out", tmp_path / "in" / name, tmp_path / "in/z.mp4", time_limit=5)) == 1
    rows = rows_of(tmp_path / "out")
    assert (rows[name].status, rows[name].error) == ("failed", "not done after 5 s")
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
