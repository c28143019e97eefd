# What is only needed to build stays behind: the last stage has no pip and no source.
FROM python:3.12-slim-bookworm AS needs
WORKDIR /build
COPY pyproject.toml ./
# Without the embedded Redis: a replica with one of its own would talk to itself.
RUN python -c "import tomllib; \
      needs = tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']; \
      print(*(each for each in needs if 'falkordb' not in each), sep='\n')" \
      > requirements.txt

FROM python:3.12-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/labserver
# A layer of their own, made again only when the dependencies themselves change.
COPY --from=needs /build/requirements.txt ./
RUN /opt/labserver/bin/pip install -r requirements.txt
COPY pyproject.toml README.md ./
COPY labserver labserver
RUN /opt/labserver/bin/pip install --no-deps . \
    && /opt/labserver/bin/pip uninstall --yes pip

FROM python:3.12-slim-bookworm
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
