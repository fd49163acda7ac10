"""Programs that people use speak HTTP/2 with us: curl, nghttp, h2load, node, httpx. What is not installed is skipped."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.edge.conftest import Secure
from tests.support.backends import Backend, RawBackend

Make = Callable[..., RawBackend]


@pytest.fixture
def hashing(raw_backend: Make) -> RawBackend:
    """A backend that answers the SHA-256 of a body."""

    def serve(sock: socket.socket) -> None:
        while head := made.receive_head(sock):
            head, _, body = head.partition(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head.lower())
            left = int(found[1]) - len(body) if found else 0
            digest = hashlib.sha256(body)
            while left > 0 and (data := sock.recv(1 << 18)):
                digest.update(data)
                left -= len(data)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + digest.hexdigest().encode())

    made = raw_backend(serve)
    return made


def run(*command: object, timeout: float = 30.0) -> str:
    """What a program writes, which must succeed."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def curl(secure: Secure, host: str, path: str, *options: object) -> str:
    """What curl says over HTTP/2."""
    return run("curl", "-sS", "--http2", "--cacert", secure.authority.file, "--resolve", f"{host}:{secure.port}:127.0.0.1", *options,
               f"https://{host}:{secure.port}{path}")


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 20 MB."""
    path = tmp_path_factory.mktemp("upload") / "file"
    path.write_bytes(bytes(range(256)) * 80_000)
    return path


def test_curl_downloads_and_uploads(secure: Secure, backend: Backend, hashing: RawBackend, upload: Path) -> None:
    host = secure.route(backend.url)
    told = curl(secure, host, "/bytes/3000000", "-o", "/dev/null", "-w", "%{http_version} %{http_code} %{size_download}")
    assert told == "2 200 3000000"
    host = secure.route(hashing.url, max_body_size="100m")
    assert curl(secure, host, "/", "-T", upload) == hashlib.sha256(upload.read_bytes()).hexdigest()


def test_curl_asks_for_many_at_once(secure: Secure, backend: Backend) -> None:
    host = secure.route(backend.url)
    told = curl(secure, host, "/bytes/[1000-1030]", "-Z", "--parallel-max", 31, "-o", "/dev/null", "-w", "%{http_version} %{http_code}\n")
    assert told.split("\n")[:-1] == ["2 200"] * 31


def test_nghttp_gets_an_answer_and_no_fault(secure: Secure, backend: Backend) -> None:
    host = secure.route(backend.url)
    told = run("nghttp", "-nv", f"--header=:authority: {host}", f"https://127.0.0.1:{secure.port}/bytes/200000")
    assert ":status: 200" in told
    assert "RST_STREAM" not in told


@pytest.mark.parametrize(("streams", "path"), [(1, "/"), (50, "/"), (10, "/bytes/100000")])
def test_h2load_has_no_failed_request(streams: int, path: str, secure: Secure, backend: Backend) -> None:
    host = secure.route(backend.url)
    told = run("h2load", "-n", 300, "-c", 3, "-m", streams, f"--header=:authority: {host}", f"https://127.0.0.1:{secure.port}{path}")
    assert "300 succeeded, 0 failed, 0 errored, 0 timeout" in told
    assert "status codes: 300 2xx" in told


NODE = """
const http2 = require('http2'), fs = require('fs');
const [port, host, ca] = process.argv.slice(1);
const client = http2.connect(`https://${host}:${port}`, {ca: fs.readFileSync(ca), lookup: (name, options, found) =>
  options && options.all ? found(null, [{address: '127.0.0.1', family: 4}]) : found(null, '127.0.0.1', 4)});
const ask = (path, body) => new Promise((done, failed) => {
  const stream = client.request({':path': path, ':method': body ? 'POST' : 'GET'});
  let status = 0, size = 0;
  stream.on('response', headers => status = headers[':status']);
  stream.on('data', data => size += data.length);
  stream.on('end', () => done([status, size]));
  stream.on('error', failed);
  stream.end(body);
});
(async () => {
  const told = await Promise.all([ask('/bytes/500000'), ask('/slow?s=0.2'), ask('/bytes/10', Buffer.alloc(150000))]);
  console.log(JSON.stringify(told));
  client.close();
})().catch(error => { console.error(error); process.exit(1); });
"""


def test_node_asks_side_by_side(secure: Secure, backend: Backend) -> None:
    told = json.loads(run("node", "-e", NODE, secure.port, secure.route(backend.url), secure.authority.file))
    assert told == [[200, 500_000], [200, len(b"backend /slow\n")], [200, 10]]


HTTPX = """
import asyncio, hashlib, ssl, sys, httpx
port, host, ca, upload = sys.argv[1:]

async def main():
    async with httpx.AsyncClient(http2=True, verify=ssl.create_default_context(cafile=ca), timeout=20) as client:
        url = f"https://127.0.0.1:{port}/"
        ask = {"headers": {"Host": host}, "extensions": {"sni_hostname": host}}
        answer = await client.post(url, content=open(upload, "rb").read(), **ask)
        assert answer.http_version == "HTTP/2" and answer.text == hashlib.sha256(open(upload, "rb").read()).hexdigest(), answer
        answers = await asyncio.gather(*[client.get(url, **ask) for _ in range(20)])
        assert {one.status_code for one in answers} == {200}

asyncio.run(main())
"""


def test_httpx_uploads_megabytes(secure: Secure, hashing: RawBackend, tmp_path: Path) -> None:
    # Its own part of the work takes a second for 5 MB.
    upload = tmp_path / "file"
    upload.write_bytes(bytes(range(256)) * 20_000)
    run(sys.executable, "-c", HTTPX, secure.port, secure.route(hashing.url, max_body_size="100m"), secure.authority.file, upload)
