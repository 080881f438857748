"""A promscale that runs as a process of its own, which a test can kill and start again."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2
from prometheus_client.parser import text_string_to_metric_families

from promscale.server import TRACE_SERVICE
from tests.waiting import free_port, wait_until


class Process:
    """A running `python -m promscale`, with its standard error in the file `log`. `grpc`, host:port, is a free port of
    127.0.0.1 by default."""

    def __init__(self, dsn: str, log: Path, grpc: str = "", **environment: str) -> None:
        self.log = log
        self.grpc, self.web = grpc or f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self._environment = {
            "PROMSCALE_DB_URI": dsn,
            "PROMSCALE_TRACING_GRPC_SERVER_ADDRESS": self.grpc,
            "PROMSCALE_WEB_LISTEN_ADDRESS": self.web,
        } | environment
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            command = [sys.executable, "-m", "promscale"]
            self.process = subprocess.Popen(command, env=os.environ | self._environment, stderr=log)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(urllib.request.Request(f"http://{self.web}{path}", headers=headers)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def health(self) -> int:
        with grpc.insecure_channel(self.grpc) as channel:
            check: grpc.UnaryUnaryMultiCallable = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            return check(health_pb2.HealthCheckRequest(service=TRACE_SERVICE), timeout=10).status

    def metric(self, name: str) -> float:
        """The value of a metric without labels; 0 while promscale does not answer."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return next((sample.value for family in families for sample in family.samples if sample.name == name), 0)

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.get("/readyz")[0] == 200, "readiness")

    def logged(self) -> str:
        return self.log.read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
