"""gunicorn's configuration for all five services: `PORT=5051 gunicorn -c telemetry/gunicorn.py digit.app:app`."""

import os

from telemetry import tracing

bind = f"{os.environ.get('BIND_ADDRESS') or '127.0.0.1'}:{os.environ['PORT']}"
workers = 2
worker_class = "gthread"
threads = 8
graceful_timeout = 10
# The workers share the memory of what is imported before the fork; tracing starts after it.
preload_app = True
control_socket_disable = True
# Heartbeats of a worker are files: in memory, where the system has such a place.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None


def post_fork(server, worker):
    tracing.start(worker.app.wsgi().import_name.partition(".")[0])


def worker_exit(server, worker):
    tracing.stop()
