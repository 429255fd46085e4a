"""A Hugging Face Hub on the loopback: what huggingface_hub asks of a hub, and nothing else."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Files by their paths, and who may have them."""

    files: dict[str, bytes]
    commit: str = "1" * 40
    token: str | None = None  # of those who may see it
    gated: bool = False  # seen, but not given away


@dataclass
class SmallHub:
    """Serves ``repositories`` at ``url`` while it is entered.

    Attributes:
        repositories: By name, ``"user/repo"``.
        breaks_after: A download ends after that many bytes, once; None: it does not.
        requests: What was asked: method, path, and where a download began.
    """

    repositories: dict[str, Repository]
    breaks_after: int | None = None
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> SmallHub:
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def downloads(self) -> list[tuple[str, int]]:
        """The files that were downloaded, and where each download began."""
        return [
            (path.split("/", 5)[-1], start)
            for method, path, start in self.requests
            if method == "GET" and "/resolve/" in path
        ]

    def answer(self, request: http.server.BaseHTTPRequestHandler, with_body: bool) -> None:
        """Answers one request."""
        path = unquote(urlsplit(request.path).path)
        start = int((re.match(r"bytes=(\d+)-", request.headers.get("Range", "")) or [0, 0])[1])
        self.requests.append((request.command, path, start))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?", path):
            self._information(request, found[1], found[2])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(request, found[1], found[2], found[3], start, with_body)
        else:
            self._send(request, 404, b"")

    def _allowed(
        self, request: http.server.BaseHTTPRequestHandler, name: str, revision: str | None
    ) -> Repository | None:
        """The repository; None: it was refused."""
        repository = self.repositories.get(name)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository is None or repository.token not in (None, token):
            self._send(request, 401, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        if revision not in (None, "main", repository.commit):
            self._send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository

    def _information(self, request: http.server.BaseHTTPRequestHandler, name: str, revision: str | None) -> None:
        repository = self._allowed(request, name, revision)
        if repository is None:
            return
        siblings = [{"rfilename": path} for path in repository.files]
        body = json.dumps({"id": name, "modelId": name, "sha": repository.commit, "siblings": siblings}).encode()
        self._send(request, 200, body, {"Content-Type": "application/json"})

    def _file(
        self,
        request: http.server.BaseHTTPRequestHandler,
        name: str,
        revision: str,
        path: str,
        start: int,
        with_body: bool,
    ) -> None:
        repository = self._allowed(request, name, revision)
        if repository is None:
            return
        if repository.gated:
            self._send(request, 403, b"", {"X-Error-Code": "GatedRepo"})
            return
        if path not in repository.files:
            self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = repository.files[path]
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": repository.commit,
            "Accept-Ranges": "bytes",
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(request, 206 if start else 200, data[start:], headers, with_body)

    def _send(
        self,
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        with_body: bool = True,
    ) -> None:
        request.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if not with_body:
            return
        if self.breaks_after is not None and "/resolve/" in request.path:
            body, self.breaks_after = body[: self.breaks_after], None
            request.close_connection = True
        request.wfile.write(body)
