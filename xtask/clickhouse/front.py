"""ClickHouse's HTTP interface over its engine as a library (chdb), for tests on machines without its server.

Supports what clients use: queries in the URL or the body, parameters, settings, inserts in any format, compressed bodies,
users, error codes and summaries. Every request runs in a session of its own, so settings do not outlive it; requests
run in parallel as far as the engine allows. Stored data is in the data folder once a request has been answered, and
survives a killed process.
"""

import argparse
import base64
import hmac
import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import lz4.block
import lz4.frame
from chdb.session import Session

# Parameters of a URL that are not settings of the query.
NOT_SETTINGS = {
    "client_protocol_version",
    "compress",
    "database",
    "decompress",
    "default_format",
    "password",
    "query",
    "query_id",
    "quota_key",
    "role",
    "session_id",
    "session_timeout",
    "user",
}

# The HTTP status of a server's error code, if it is not 500.
STATUS_OF_CODE = {16: 404, 36: 400, 47: 404, 60: 404, 62: 400, 81: 404, 193: 401, 194: 401, 497: 403, 516: 403}

# As large as the server's own default for a query in memory, far above any batch in a test.
MAX_BODY_BYTES = 1 << 30

INSERT_WITH_DATA = re.compile(r"\s*(INSERT\s+INTO\s.*?)\s+FORMAT\s+(\w+)\s*;?\s*", re.IGNORECASE | re.DOTALL)
ERROR = re.compile(r"Code: (\d+)\. DB::")


class Refusal(Exception):
    """An error in the server's own wording."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def decompressed(body):
    """Returns the content of blocks in the native clients' framing: checksum, method, sizes, data."""
    parts, offset = [], 0
    while offset < len(body):
        method, size, plain_size = struct.unpack_from("<BII", body, offset + 16)
        data = body[offset + 25 : offset + 16 + size]
        if len(data) != size - 9:
            raise Refusal(33, "Code: 33. DB::Exception: Cannot read all data. (CANNOT_READ_ALL_DATA)")
        if method == 0x82:
            parts.append(lz4.block.decompress(data, uncompressed_size=plain_size))
        elif method == 0x02:
            parts.append(data)
        else:
            text = f"Code: 432. DB::Exception: Unknown codec family code: {method}. (UNKNOWN_CODEC)"
            raise Refusal(432, text)
        offset += 16 + size
    return b"".join(parts)


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Engine:
    """The engine, and the user who may use it."""

    def __init__(self, folder, user, password):
        self.folder = os.path.abspath(folder)
        self.user = user
        self.password = password
        # Held open, because the engine shuts down with its last session.
        self.root = Session(self.folder)
        # Request bodies in transit; those that a killed process left behind are useless.
        self.incoming = os.path.join(self.folder, "incoming")
        shutil.rmtree(self.incoming, ignore_errors=True)
        os.makedirs(self.incoming)
        self.version = self.root.query("SELECT version()", "TabSeparated").bytes().decode().strip()

    def check(self, user, password):
        same_user = hmac.compare_digest(user.encode(), self.user.encode())
        same_password = hmac.compare_digest(password.encode(), self.password.encode())
        if not (same_user and same_password):
            text = (
                f"Code: 516. DB::Exception: {user}: Authentication failed: password is incorrect, or there is no user "
                "with such name. (AUTHENTICATION_FAILED)"
            )
            raise Refusal(516, text)

    def run(self, sql, data, arguments, parameters):
        """Runs a query. Returns its output and its summary."""
        session = Session(self.folder)
        try:
            if arguments.get("database"):
                session.query("USE `" + arguments["database"].replace("`", "``") + "`")
            settings = [
                f"{name} = {quoted(value)}"
                for name, value in arguments.items()
                if name not in NOT_SETTINGS and not name.startswith("param_")
            ]
            if settings:
                session.query("SET " + ", ".join(settings))
            insert = INSERT_WITH_DATA.fullmatch(sql)
            if insert and data is not None:
                return b"", self.insert(session, insert.group(1), insert.group(2), data)
            if data:
                sql = f"{sql}\n{data.decode()}"
            result = session.query(sql, arguments.get("default_format", "TabSeparated"), params=parameters or None)
            summary = {
                "read_rows": result.storage_rows_read(),
                "read_bytes": result.storage_bytes_read(),
                "written_rows": result.rows_written(),
                "written_bytes": result.bytes_written(),
                "elapsed_ns": int(result.elapsed() * 1e9),
            }
            return result.bytes() or b"", summary
        finally:
            session.close()

    def insert(self, session, statement, data_format, data):
        # Through a file: the library's own stream of data reports success even if the table refuses a row.
        with tempfile.NamedTemporaryFile(dir=self.incoming, suffix=".bin") as file:
            file.write(data)
            file.flush()
            done = session.query(f"{statement} FROM INFILE {quoted(file.name)} FORMAT {data_format}")
        return {
            "written_rows": done.rows_written(),
            "written_bytes": done.bytes_written(),
            "elapsed_ns": int(done.elapsed() * 1e9),
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are sent together.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        self.answer({"readonly": "2"})

    def do_POST(self):
        self.answer({})

    def answer(self, settings):
        url = urlsplit(self.path)
        try:
            body = self.body()
        except (ConnectionError, ValueError):
            # The client disconnected in the middle of its data, which therefore must not be stored.
            self.close_connection = True
            return
        if url.path in ("/ping", "/replicas_status"):
            self.reply(200, b"Ok.\n", {})
            return
        arguments = dict(parse_qsl(url.query, keep_blank_values=True)) | settings
        try:
            self.server.engine.check(*self.credentials(arguments))
            output, summary = self.run(arguments, body)
        except Exception as error:  # whatever it is, it is reported to the client and the front keeps running
            self.refuse(error)
            return
        texts = {name: str(value) for name, value in summary.items()}
        self.reply(200, output, {"X-ClickHouse-Summary": json.dumps(texts)})

    def run(self, arguments, body):
        if arguments.get("decompress") == "1":
            body = decompressed(body)
        parameters = {
            name.removeprefix("param_"): value for name, value in arguments.items() if name.startswith("param_")
        }
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            head = f"Content-Type: {content_type}\r\n\r\n".encode()
            form = {}
            for part in BytesParser().parsebytes(head + body).get_payload():
                name = part.get_param("name", header="content-disposition")
                form[name] = part.get_payload(decode=True).decode()
            parameters |= {
                name.removeprefix("param_"): value for name, value in form.items() if name.startswith("param_")
            }
            return self.server.engine.run(form.get("query", arguments.get("query")), None, arguments, parameters)
        if "query" in arguments:
            return self.server.engine.run(arguments["query"], body, arguments, parameters)
        return self.server.engine.run(body.decode(), None, arguments, parameters)

    def credentials(self, arguments):
        user = self.headers.get("X-ClickHouse-User")
        if user is not None:
            return user, self.headers.get("X-ClickHouse-Key", "")
        scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            user, _, password = base64.b64decode(encoded).decode().partition(":")
            return user, password
        return arguments.get("user", "default"), arguments.get("password", "")

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            if length > MAX_BODY_BYTES:
                raise ValueError("too large")
            return self.exactly(length)
        parts, total = [], 0
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            total += size
            if total > MAX_BODY_BYTES:
                raise ValueError("too large")
            if size:
                parts.append(self.exactly(size))
                self.rfile.readline()
            else:
                while self.rfile.readline() not in (b"\r\n", b"\n", b""):
                    pass
                return b"".join(parts)

    def exactly(self, length):
        data = self.rfile.read(length)
        if len(data) != length:
            raise ConnectionError("the body ends too early")
        return data

    def refuse(self, error):
        text = str(error)
        found = ERROR.search(text)
        if found:
            # The library puts its own words in front.
            text, code = text[found.start() :].strip(), int(found.group(1))
        else:
            text, code = f"Code: 1002. DB::Exception: {type(error).__name__}: {text}. (UNKNOWN_EXCEPTION)", 1002
        if "(version " not in text:
            text += f" (version {self.server.engine.version})"
        headers = {"X-ClickHouse-Exception-Code": str(code)}
        self.reply(STATUS_OF_CODE.get(code, 500), text.encode() + b"\n", headers)

    def reply(self, status, body, headers):
        if body and "lz4" in self.headers.get("Accept-Encoding", ""):
            body = lz4.frame.compress(body)
            headers = headers | {"Content-Encoding": "lz4"}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_request(self, code="-", size="-"):
        if not str(int(code)).startswith("2"):
            # Without the URL, which may contain the query.
            sys.stderr.write(f"{self.command} answered {int(code)}\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    address_family = socket.AF_INET

    def handle_error(self, request, client_address):
        # A client that disconnects is nothing to report.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the data; created if it is missing")
    parser.add_argument("--port", type=int, default=8123, help="port on 127.0.0.1")
    parser.add_argument("--user", default="default")
    parser.add_argument("--password", default="")
    options = parser.parse_args()
    server = Server(("127.0.0.1", options.port), Handler)
    server.engine = Engine(options.data, options.user, options.password)

    def stop(_signal, _frame):
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.serve_forever()
    server.engine.root.close()


if __name__ == "__main__":
    main()
