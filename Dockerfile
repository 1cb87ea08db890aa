# syntax=docker/dockerfile:1
# The gateway as an image: built with a compiler, run without one, as nobody in particular.
#
#   docker build -t release-gateway .
#   docker run -p 8080:8080 -e GATEWAY_TOKEN -v ./gateway.yaml:/etc/gateway/gateway.yaml:ro \
#       -v gateway-state:/var/lib/gateway release-gateway

FROM python:3.13-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/lock.txt requirements/lock.txt
RUN python -m venv /opt/gateway \
    && /opt/gateway/bin/pip install --no-cache-dir -c requirements/lock.txt setuptools Cython
COPY pyproject.toml setup.py README.md ./
COPY gateway gateway
# An image whose hot modules did not compile is a mistake, not a slower image: the grep fails it.
RUN /opt/gateway/bin/pip install --no-cache-dir -c requirements/lock.txt --no-build-isolation . \
    && cd / && /opt/gateway/bin/gateway --version | grep -F "(compiled,"

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/gateway --shell /usr/sbin/nologin gateway \
    && install --directory --owner gateway --group gateway /var/lib/gateway /etc/gateway
COPY --from=build /opt/gateway /opt/gateway
COPY config/container.yaml /etc/gateway/gateway.yaml
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1
USER gateway
# Relative paths of a configuration end up on the volume.
WORKDIR /var/lib/gateway
VOLUME /var/lib/gateway
EXPOSE 8080
# Alive, not ready: a gateway whose backends are down must not be restarted for it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9090/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["gateway", "run", "--config", "/etc/gateway/gateway.yaml"]
