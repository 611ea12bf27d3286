"""Helpers of the tests of `batch`: files, a table of sources, and the options of a job."""

import json

from ivggt_jax.batch.options import BatchConfig


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def job(out, *sources, **options):
    return BatchConfig(sources=tuple(map(str, sources)), out=out, **options)


def table(folder, *rows):
    path = folder / "table.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)
