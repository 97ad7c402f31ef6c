"""`site serve`: the server of a built site, and clients that behave badly."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import peftonomy
from peftonomy import UsageError, site


@pytest.fixture
def port(kb: peftonomy.KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a served folder."""
    (tmp_path / "index.html").write_text("served")
    servers, ready = list[site._Server](), threading.Event()
    bound = site._bound

    def kept(*arguments: object) -> site._Server:
        server = bound(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(server, "serve_forever", partial(server.serve_forever, 0.01))   # ends sooner
        servers.append(server)
        return server

    monkeypatch.setattr(site, "_bound", kept)
    options = {"port": 0, "ready": lambda url: ready.set()}
    thread = threading.Thread(target=site.serve, args=(kb, tmp_path), kwargs=options)
    thread.start()
    assert ready.wait(60)
    yield servers[0].server_address[1]
    servers[0].shutdown()
    thread.join()


def answer(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection._validate_path = lambda url: None  # type: ignore[attr-defined]  # strange paths are the point
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_client_that_ends_the_connection_early_prints_nothing(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    for request in (b"", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\n\r\n", b"\x00\xff" * 100, b"GET " + b"/" * 70_000):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
        client.sendall(request)
        client.close()
    assert answer(port, "/") == 200  # served after them
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("path", ["/%00", "/a%00b.html", "/" + "a" * 5_000, "/%ff", "/../../etc/passwd", "//x"])
def test_a_strange_path_is_not_found(port: int, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert answer(port, path) == 404
    assert capfd.readouterr() == ("", "")


def test_the_last_port_that_is_taken_is_one_line(kb: peftonomy.KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("served")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 65535))
        taken.listen()
        with pytest.raises(UsageError, match="no free port between 65535 and 65535"):
            site.serve(kb, tmp_path, port=65535)
