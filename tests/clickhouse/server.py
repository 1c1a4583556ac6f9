"""
A ClickHouse server for tests: the engine itself (chdb, in this process) behind its HTTP interface, as far as a client needs it.

``python server.py <directory>`` prints its port and serves 127.0.0.1 until its standard input ends. It runs in an environment of its
own, for the engine is large and may be in a process only once.

``POST /-/faults`` with a JSON object says by table what happens to the next inserts, one by one: ``"error"`` is answered with
500 and not done, ``"lost"`` is done but not answered, ``"hang"`` is not answered and not done, ``"late"`` is done once the
client has gone, ``""`` is done. ``GET /-/seen`` tells of the inserts that came, and clears the list.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import sys
import tempfile
import threading
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

try:
    import pyarrow as pa
    from chdb.session import Session
except ImportError:  # where only the names of this module are wanted
    pass

USER, PASSWORD = "tester", "open sesame/ß"
# What is no setting of the engine but of the HTTP interface.
_INTERFACE = {
    "client_protocol_version",
    "database",
    "default_format",
    "enable_http_compression",
    "query",
    "query_id",
    "send_progress_in_http_headers",
    "http_headers_progress_interval_ms",
    "session_id",
    "wait_end_of_query",
}
_INSERT = re.compile(rb"\s*(INSERT\s+INTO\s+.*?)\s+FORMAT\s+Native\s*?\n", re.IGNORECASE | re.DOTALL)
_FORMAT = re.compile(r"\sFORMAT\s+(\w+)\s*\Z", re.IGNORECASE)


class Engine:
    """One session, one question at a time."""

    def __init__(self, directory: str) -> None:
        self._session = Session(directory)
        self._lock = threading.Lock()
        self.faults: dict[str, list[str]] = {}
        self.seen: list[dict[str, Any]] = []

    def ask(self, query: str, parameters: dict[str, str], body: bytes | None) -> bytes:
        settings = {name: value for name, value in parameters.items() if name not in _INTERFACE}
        bound = {
            name.removeprefix("param_"): settings.pop(name) for name in list(settings) if name.startswith("param_")
        }
        clause = ", ".join(f"{name} = {_quoted(value)}" for name, value in settings.items())
        with self._lock, tempfile.NamedTemporaryFile() as file:
            self._run(f"USE `{parameters.get('database') or 'default'}`")
            for name, value in bound.items():
                self._run(f"SET param_{name} = {_quoted(value)}")
            if body is not None:
                file.write(body)
                file.flush()
                return self._run(
                    f"{query} FROM INFILE {_quoted(file.name)}"
                    + f" SETTINGS {clause}" * bool(clause)
                    + " FORMAT Native"
                )
            match = _FORMAT.search(query)
            form = match[1] if match else parameters.get("default_format", "TabSeparated")
            query = query[: match.start()] if match else query
            if clause and re.match(r"\s*(SELECT|WITH)\b", query, re.IGNORECASE):
                query += f" SETTINGS {clause}"
            return self._run(query, form)

    def _run(self, query: str, form: str = "TabSeparated") -> bytes:
        return self._session.query(query, form).bytes() or b""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of an answer at once
    server: Server

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        if self.path == "/ping":
            self._answer(200, b"Ok.\n")
        elif self.path == "/-/seen":
            seen, self.server.engine.seen = self.server.engine.seen, []
            self._answer(200, json.dumps(seen).encode())
        else:
            self._query(b"")

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/-/faults":
            self.server.engine.faults = json.loads(body)
            self._answer(200, b"")
        else:
            self._query(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces: list[bytes] = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(pieces)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        encoding = self.headers.get("Content-Encoding")
        return _decompressed(body, encoding) if encoding else body

    def _query(self, body: bytes) -> None:
        engine = self.server.engine
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        if self.headers.get("Content-Type", "").startswith("multipart/form-data"):
            parameters |= _form(self.headers["Content-Type"], body)
            body = b""
        if not self._may_ask():
            text = f"Code: 516. DB::Exception: {USER}: Authentication failed. (AUTHENTICATION_FAILED)"
            self._answer(403, text.encode(), code=516)
            return
        match = _INSERT.match(body)
        fault = ""
        if match:
            token = parameters.get("insert_deduplication_token", "")
            table = match[1].decode().split()[2].strip("`")
            faults = engine.faults.get(table)
            fault = faults.pop(0) if faults else ""
            engine.seen.append(
                {"table": table, "token": token, "fault": fault, "encoding": self.headers.get("Content-Encoding")}
            )
        if fault == "error":
            self._answer(500, b"Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)", code=241)
            return
        if fault in {"hang", "late"}:
            select.select([self.connection], [], [], 60)  # until the client has gone
            self.close_connection = True
            if fault == "hang":
                return
        try:
            if match:
                found = engine.ask(match[1].decode(), parameters, body[match.end() :])
            else:
                query = "\n".join(filter(None, (parameters.get("query", ""), body.decode())))
                found = engine.ask(query, parameters, None)
        except RuntimeError as error:
            code = re.search(r"Code: (\d+)", str(error))
            self._answer(500, str(error).encode(), code=int(code[1]) if code else 1002)
            return
        if fault in {"lost", "late"}:
            self.close_connection = True
            self.connection.close()
            return
        self._answer(200, found)

    def _may_ask(self) -> bool:
        given = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        return given == f"{USER}:{PASSWORD}"

    def _answer(self, status: int, body: bytes, *, code: int = 0) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        if "zstd" in self.headers.get("Accept-Encoding", "") and len(body) > 1_000:
            body = _compressed(body)
            self.send_header("Content-Encoding", "zstd")
        self.send_header("X-ClickHouse-Summary", "{}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, engine: Engine) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.engine = engine

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no fault here."""


def _decompressed(body: bytes, encoding: str) -> bytes:
    return bytes(pa.CompressedInputStream(pa.BufferReader(body), encoding).read())


def _compressed(body: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(body)
    return bytes(sink.getvalue())


def _form(content_type: str, body: bytes) -> dict[str, str]:
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message: EmailMessage = BytesParser(EmailMessage, policy=HTTP).parsebytes(head + body)
    found = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="Content-Disposition")
        found[str(name)] = bytes(part.get_payload(decode=True)).decode()
    return found


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def main() -> None:
    """Serve until nobody wants it any more."""
    directory = sys.argv[1]
    Path(directory).mkdir(parents=True, exist_ok=True)
    server = Server(Engine(directory))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)  # noqa: T201 - whoever started it reads this
    sys.stdin.read()
    os._exit(0)  # the engine's own end takes long, and nothing of it is kept


if __name__ == "__main__":
    main()
