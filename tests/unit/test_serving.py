"""The web server of all apps, over real sockets: slow clients, the Host header, graceful shutdown."""

import re
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPResponse

import pytest
from flask import Flask, request

from serving import BodyLimits, Server, server
from tests.waiting import wait_until

MINIMUM = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def start():
    """A function that serves a WSGI app at an address, and returns the Server."""
    running = []

    def start(app, host: str = "127.0.0.1", limits: BodyLimits | None = None) -> Server:
        started = Server(app, host, 0, limits)
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
    """An app that returns the body of the request."""
    app = Flask("echo")

    @app.route("/", methods=["GET", "POST"])
    def body():
        return request.get_data()

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
        pytest.skip(f"the limit of {hard} open files is too low for both ends of 500 connections")
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
def test_clients_that_send_nothing_do_not_block_others(start, echo, slow_clients, many_files, count, sends):
    port = start(echo).port
    with ExitStack() as held:
        for _ in range(count):
            held.enter_context(connect(port, sends))
        assert get(port)[0] == 200


@pytest.mark.parametrize("sends", [b"", MINIMUM[:-2], MINIMUM], ids=["silent", "half a header", "an answered request"])
def test_an_idle_connection_is_closed(start, echo, monkeypatch, sends):
    monkeypatch.setattr(server, "IDLE_SECONDS", 1)
    with connect(start(echo).port, sends) as connection:
        while connection.recv(4096):
            pass


@pytest.mark.parametrize(
    "begins", [b"GET /", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"], ids=["header", "body"]
)
def test_a_request_that_arrives_byte_by_byte_is_closed(start, echo, monkeypatch, slow_clients, begins):
    monkeypatch.setattr(server, "REQUEST_SECONDS", 1)
    with connect(start(echo).port, begins) as connection:
        connection.settimeout(0.05)

        def is_refused() -> bool:
            try:
                connection.sendall(b"x")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        wait_until(is_refused, "the end of the connection")


def test_an_endless_response_that_nobody_reads_is_closed(start, monkeypatch):
    monkeypatch.setattr(server, "IDLE_SECONDS", 1)
    closed = threading.Event()

    def endless(environ, start_response) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield bytes(2**20)
        finally:
            closed.set()

    with connect(start(endless).port, MINIMUM):
        assert closed.wait(120)


@pytest.mark.parametrize(
    ("sends", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n40000\r\n" + bytes(0x40000), b"413"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * server.MAX_HEADER_BYTES, b"431"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_oversized_and_malformed_requests_are_refused(start, echo, sends, status):
    port = start(echo).port
    with connect(port) as connection:
        with suppress(ConnectionError):
            connection.sendall(sends)
        assert connection.recv(12)[len("HTTP/1.x ") :] == status
    assert get(port)[0] == 200


@pytest.mark.parametrize("limits", [None, BodyLimits(128_000, 128_000)])
def test_a_body_arrives_byte_for_byte(start, echo, limits):
    body = bytes(range(256)) * 500
    connection = HTTPConnection("127.0.0.1", start(echo, limits=limits).port, timeout=120)
    for chunked in (False, True, False):
        connection.request("POST", "/", iter([body]) if chunked else body, encode_chunked=chunked)
        assert connection.getresponse().read() == body


def test_a_body_beyond_the_limits_is_answered_when_it_is_received(start, echo, slow_clients):
    port = start(echo, limits=BodyLimits(1_000_000, 1_500_000)).port

    def post(size: int) -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", "/", bytes(size))
        return connection.getresponse()

    assert post(1_000_000).status == 200
    assert post(1_000_001).status == post(20_000_000).status == 413
    half = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + bytes(900_000)
    with ExitStack() as held:

        def is_refused() -> bool:
            held.enter_context(connect(port, half))
            return post(1_000_000).status == 429

        wait_until(is_refused, "no memory beside half a body")
        assert post(1_000_000).getheader("Retry-After") == "1"
        assert post(100_000).status == 200
    wait_until(lambda: post(1_000_000).status == 200, "the memory of the closed connection")


@pytest.mark.parametrize("begins", [b"1;", b"1\r\nx\r\n0\r\nX: "], ids=["header of a chunk", "trailer"])
def test_an_endless_line_between_chunks_is_refused(start, echo, begins):
    port = start(echo, limits=BodyLimits(1_000_000, 1_000_000)).port
    with connect(port, b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n") as connection:
        with suppress(ConnectionError):
            connection.sendall(begins + b"x" * 100_000)
        assert connection.recv(12) == b"HTTP/1.1 400"


def test_a_graceful_shutdown_answers_the_requests_that_it_has(start, monkeypatch):
    monkeypatch.setattr(server, "GRACE_SECONDS", 120)
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

        wait_until(refused, "the end of listening")
        go_on.set()
        answer = HTTPResponse(connection)
        answer.begin()
        assert len(answer.read()) == 5_000_000


# The Host header -----------------------------------------------------------------------------------------------------


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
def test_addresses_and_allowed_names_are_answered(start, echo, monkeypatch, host):
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
def test_another_name_is_refused_with_advice(start, echo, monkeypatch, host):
    monkeypatch.setenv("ALLOWED_HOSTS", "demo.example")
    status, text = get(start(echo).port, Host=host)
    assert status == 400
    assert f"{host!a} is not known here" in text
    assert "ALLOWED_HOSTS" in text and len(text.splitlines()) == 1


def test_a_request_without_a_host_header_is_answered(start, echo):
    with connect(start(echo).port, b"GET / HTTP/1.0\r\n\r\n") as connection:
        assert connection.recv(12) == b"HTTP/1.0 200"


def test_the_machines_own_name_is_allowed_when_others_can_reach_it(start, echo):
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
def test_an_invalid_name_is_quoted_in_the_error(echo, monkeypatch, names):
    monkeypatch.setenv("ALLOWED_HOSTS", f"demo.example,{names}")
    with pytest.raises(ValueError, match=rf"ALLOWED_HOSTS: {re.escape(repr(names))} is not a host name"):
        Server(echo, "127.0.0.1", 0)


def test_a_port_in_use_is_an_error(start, echo):
    with pytest.raises(OSError, match="in use"):
        Server(echo, "127.0.0.1", start(echo).port)
