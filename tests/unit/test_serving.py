"""The server of all web apps, over real sockets: clients that are slow on purpose, names it may be asked by, its end"""

import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPResponse

import pytest
from flask import Flask, request

from serving import Server, server
from tests.stack.checkout import wait_for

FOR_EVER = 3600
MINIMUM = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def start():
    """A function that serves a WSGI app at an address; returns the Server."""
    running = []

    def start(app, host: str = "127.0.0.1") -> Server:
        started = Server(app, host, 0)
        thread = threading.Thread(target=started.run, daemon=True)
        thread.start()
        running.append((started, thread))
        return started

    yield start
    for started, thread in running:
        started.close()
        thread.join()


@pytest.fixture
def echo():
    """An app that answers with what it was sent."""
    app = Flask("echo")
    app.add_url_rule("/", view_func=lambda: request.get_data(), methods=["GET", "POST"])
    return app


def get(port: int, host: str = "127.0.0.1", **headers: str) -> tuple[int, str]:
    connection = HTTPConnection(host, port, timeout=120)
    connection.request("GET", "/", headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def connect(port: int, sends: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.sendall(sends)
    return connection


def is_closed(connection: socket.socket) -> bool:
    with suppress(ConnectionError):
        return connection.recv(1) == b""
    return True


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 4096:
        pytest.skip(f"a process may have {hard} open files here, too few for both ends of 500 connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("count", "sends"),
    [
        (500, b""),
        (500, b"GET / HTTP/1.1\r\nHost: loc"),
        (100, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf"),
        (100, b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
    ids=["silent", "half a header", "half a body", "no chunk"],
)
def test_clients_that_send_nothing_keep_no_other_waiting(start, echo, monkeypatch, many_files, count, sends):
    monkeypatch.setattr(server, "SILENT_SECONDS", FOR_EVER)
    monkeypatch.setattr(server, "REQUEST_SECONDS", FOR_EVER)
    port = start(echo).port
    with ExitStack() as held:
        for _ in range(count):
            held.enter_context(connect(port, sends))
        assert get(port)[0] == 200


@pytest.mark.parametrize("sends", [b"", MINIMUM[:-2], MINIMUM], ids=["silent", "half a header", "an answered request"])
def test_an_idle_connection_is_closed(start, echo, monkeypatch, sends):
    monkeypatch.setattr(server, "SILENT_SECONDS", 1)
    with connect(start(echo).port, sends) as connection:
        while connection.recv(4096):
            pass


@pytest.mark.parametrize(
    "begins", [b"GET /", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"], ids=["header", "body"]
)
def test_a_request_that_comes_byte_by_byte_is_given_up(start, echo, monkeypatch, begins):
    monkeypatch.setattr(server, "SILENT_SECONDS", FOR_EVER)
    monkeypatch.setattr(server, "REQUEST_SECONDS", 1)
    with connect(start(echo).port, begins) as connection:
        connection.settimeout(0.05)

        def given_up() -> bool:
            try:
                connection.sendall(b"x")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        wait_for(given_up, "the end of the connection")


def test_an_endless_answer_that_nobody_reads_is_given_up(start, monkeypatch):
    monkeypatch.setattr(server, "SILENT_SECONDS", 1)
    given_up = threading.Event()

    def endless(environ, start_response) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield bytes(2**20)
        finally:
            given_up.set()

    with connect(start(endless).port, MINIMUM):
        assert given_up.wait(120)


@pytest.mark.parametrize(
    ("asks", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n40000\r\n" + bytes(0x40000), b"413"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * server.MAX_HEADER_BYTES, b"431"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_what_is_too_large_or_no_http_is_refused(start, echo, asks, status):
    port = start(echo).port
    with connect(port) as connection:
        with suppress(ConnectionError):
            connection.sendall(asks)
        assert connection.recv(12) == b"HTTP/1.1 " + status or connection.recv(0) == b""
    assert get(port)[0] == 200


def test_a_body_arrives_whole(start, echo):
    body = bytes(range(256)) * 500
    connection = HTTPConnection("127.0.0.1", start(echo).port, timeout=120)
    for chunked in (False, True):
        connection.request("POST", "/", iter([body]) if chunked else body, encode_chunked=chunked)
        assert connection.getresponse().read() == body


def test_what_is_under_way_at_the_end_is_answered(start):
    begun, go_on = threading.Event(), threading.Event()

    def slow(environ, start_response):
        begun.set()
        assert go_on.wait(120)
        start_response("200 OK", [("Content-Length", "5000000")])
        return [bytes(5_000_000)]

    started = start(slow)
    with connect(started.port, MINIMUM) as connection:
        assert begun.wait(120)
        started.close()

        def refused() -> bool:
            try:
                connect(started.port).close()
                return False
            except ConnectionError:
                return True

        wait_for(refused, "the end of listening")
        go_on.set()
        answer = HTTPResponse(connection)
        answer.begin()
        assert len(answer.read()) == 5_000_000


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:3000",
        "127.0.0.1",
        "127.0.0.1:3000",
        "192.0.2.7",
        "[::1]",
        "[::1]:3000",
        "[2001:db8::1]:1",
        "demo.example",
        "demo.example:8080",
        "a.b.example.org",
        "example.org",
    ],
)
def test_addresses_and_known_names_are_answered(start, echo, monkeypatch, host):
    monkeypatch.setenv("ALLOWED_HOSTS", " Demo.example ,.example.org,")
    assert get(start(echo).port, Host=host) == (200, "")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:3000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evildemo.example",
        "a.demo.example",
        "",
        ":3000",
        "[evil.example]",
        "127.0.0.1:3000@evil.example",
        "localhost, evil.example",
        "<b>",
    ],
)
def test_another_name_is_refused_and_told_the_way(start, echo, monkeypatch, host):
    monkeypatch.setenv("ALLOWED_HOSTS", "demo.example")
    status, text = get(start(echo).port, Host=host)
    assert status == 400
    assert f"{host!a} is not known here" in text
    assert "ALLOWED_HOSTS" in text and len(text.splitlines()) == 1


def test_a_request_without_a_host_is_answered(start, echo):
    with connect(start(echo).port, b"GET / HTTP/1.0\r\n\r\n") as connection:
        assert connection.recv(12) == b"HTTP/1.0 200"


def test_where_others_reach_it_this_machines_name_is_known(start, echo):
    name = socket.gethostname()
    assert get(start(echo, "0.0.0.0").port, Host=name)[0] == 200
    assert get(start(echo, "127.0.0.1").port, Host=name)[0] == (200 if name.startswith("localhost") else 400)


def test_it_listens_on_ipv6(start, echo):
    try:
        started = start(echo, "::1")
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    assert get(started.port, "::1") == (200, "")


@pytest.mark.parametrize("names", ["http://demo.example", "two words", "demo.example:80", "*", "a..b", "x" * 64])
def test_what_is_no_name_is_named(echo, monkeypatch, names):
    monkeypatch.setenv("ALLOWED_HOSTS", f"demo.example,{names}")
    with pytest.raises(ValueError, match="ALLOWED_HOSTS: '.*' is no host name"):
        Server(echo, "127.0.0.1", 0)


def test_a_port_in_use_is_an_error(start, echo):
    with pytest.raises(OSError):
        Server(echo, "127.0.0.1", start(echo).port)
