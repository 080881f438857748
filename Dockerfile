# One image for the services, load, promscale and the explorer; each container runs one of them. .dockerignore lists its
# content.
FROM python:3.13-slim AS encoder
RUN apt-get update -q && apt-get install -qy --no-install-recommends cargo
COPY promscale/encoder /encoder
RUN python3 -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps --wheel-dir /wheels /encoder

FROM python:3.13-slim AS packages
COPY requirements/app.txt .
RUN python3 -m venv --without-pip /venv \
    && python3 -m pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --require-hashes --only-binary :all: -r app.txt
COPY --from=encoder /wheels /wheels
RUN python3 -m pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check --no-deps /wheels/*.whl

FROM python:3.13-slim
COPY --from=packages /venv /venv
WORKDIR /app
COPY . .
RUN /venv/bin/python -m compileall -q .
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
