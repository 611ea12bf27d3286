"""A small stand-in for the Hugging Face Hub on loopback, with the faults that a download meets; it takes uploads, too."""

import base64
import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves files by "owner/name/file" and misbehaves as told; `requests` has the method, path and range of each call."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.revisions = {"main", COMMIT, "v2", "refs%2Fpr%2F1"}
        """Those that every repository has."""
        self.refusals: dict[str, tuple[int, str]] = {}
        """Status and error code by repository."""
        self.cuts: list[int] = []
        """After how many bytes to cut the next connections."""
        self.missing_bytes = 0
        """How much shorter than HEAD says a file is when it is fetched."""
        self.strange = False
        """Whether it answers like any web server, without the Hub's headers."""
        self.commits: list[tuple[str, str, str]] = []
        """Repository, branch and message of each commit that was made."""
        self.private: set[str] = set()
        self.uploads: dict[str, bytes] = {}
        """Large files by digest."""
        self.token: str | None = None
        """Required where it is set."""
        self.url = ""

    def downloads(self) -> list[str | None]:
        """The ranges of all requests for a file's content."""
        return [span for method, path, span in self.requests if method == "GET" and "/resolve/" in path]


def json_or_lines(body: bytes) -> list[dict[str, Any]]:
    """One JSON object, or one on every line."""
    return [json.loads(line) for line in body.splitlines() if line]


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a stand-in on a free port of 127.0.0.1."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_POST(self) -> None:
            self.take(json_or_lines(self.rfile.read(int(self.headers["Content-Length"]))))

        def do_PUT(self) -> None:
            hub.uploads[self.path.strip("/").split("/")[-1]] = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply({})

        def take(self, said: list[dict[str, Any]]) -> None:
            """What an upload asks in turn: a repository, a look at the card, how each file goes, and the commit."""
            hub.requests.append((self.command, self.path, None))
            path = self.path.partition("?")[0].strip("/")
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.refuse(401, "Unauthorized")
            if path == "api/repos/create":
                name = f"{said[0]['organization']}/{said[0]['name']}"
                if name in hub.refusals:
                    return self.refuse(*hub.refusals[name])
                if said[0].get("private") or said[0].get("visibility") == "private":
                    hub.private.add(name)
                return self.reply({"url": f"{hub.url}/{name}", "name": name, "id": name})
            if path == "api/validate-yaml":
                return self.reply({"errors": [], "warnings": []})
            if path.endswith(".git/info/lfs/objects/batch"):
                where = [{"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}}
                         for o in said[0]["objects"]]  # fmt: skip
                return self.reply({"transfer": "basic", "objects": where})
            _, _, owner, name, action, *branch = path.split("/")
            if action == "branch":
                hub.revisions.add(branch[0])
                return self.reply({})
            if action == "preupload":
                ways = [{"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                         "shouldIgnore": False, "oid": None} for file in said[0]["files"]]  # fmt: skip
                return self.reply({"files": ways})
            for line in said:
                value = line["value"]
                if line["key"] == "file":
                    hub.files[f"{owner}/{name}/{value['path']}"] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[f"{owner}/{name}/{value['path']}"] = hub.uploads[value["oid"]]
                else:
                    hub.commits.append((f"{owner}/{name}", branch[0], value["summary"]))
            self.reply({"commitUrl": f"{hub.url}/{owner}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

        def reply(self, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, body: bool) -> None:
            span = self.headers.get("Range")
            hub.requests.append((self.command, self.path, span))
            # /owner/name/resolve/main/file, and /api/models/owner/name/revision/main for a list of files; the library also
            # asks for other things, which this Hub has not.
            path = self.path.partition("?")[0].strip("/")
            listing = path.startswith("api/models/")
            parts = path.removeprefix("api/models/").split("/", 4)
            repository, revision = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "main"
            key = f"{repository}/{parts[4] if len(parts) > 4 else ''}"
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.refuse(401, "GatedRepo")
            if repository in hub.refusals:
                return self.refuse(*hub.refusals[repository])
            if listing and not any(known.startswith(f"{repository}/") for known in hub.files):
                return self.refuse(404, "RepoNotFound")
            if revision not in hub.revisions:
                return self.refuse(404, "RevisionNotFound")
            if listing:
                return self.describe(repository)
            if key not in hub.files:
                return self.refuse(404, "EntryNotFound")
            data = hub.files[key]
            if body:
                data = data[: len(data) - hub.missing_bytes]
            start = int(span.removeprefix("bytes=").split("-")[0]) if span else 0
            self.send_response(206 if span else 200)
            self.send_header("Content-Length", str(len(data) - start))
            if span:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{zlib.crc32(hub.files[key]):08x}"')
            if not hub.strange:
                self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                end = start + hub.cuts.pop(0) if hub.cuts else len(data)
                self.wfile.write(data[start:end])
                self.close_connection = True

        def describe(self, repository: str) -> None:
            names = [name.removeprefix(f"{repository}/") for name in hub.files if name.startswith(f"{repository}/")]
            answer = {
                "id": repository,
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in names],
                "cardData": {"license": "mit"},
            }
            self.reply(answer)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
