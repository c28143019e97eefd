# Two images: `server`, which is small, and `lab` with Locust and JupyterLab.
# What is only needed to build stays behind: neither has pip, nor a compiler.
# The dependencies are a layer of their own, made again only when they change; the
# package, which changes often, is a small one on top.
FROM python:3.12-slim-bookworm AS needs
COPY pyproject.toml /build/
# The server goes without the embedded Redis: a replica with one of its own would talk
# to itself. A chapter starts servers on its own machine, so the lab has it.
RUN cd /build && python -c "import tomllib; \
      project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      needs, extras = project['dependencies'], project['optional-dependencies']; \
      server = [each for each in needs if 'falkordb' not in each]; \
      lab = needs + extras['notebooks'] + extras['load'] + extras['sse']; \
      lab = [each for each in lab if not each.startswith('labserver[')]; \
      print(*server, sep='\n', file=open('server.txt', 'w')); \
      print(*lab, sep='\n', file=open('lab.txt', 'w'))"

FROM python:3.12-slim-bookworm AS pip
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/needs

FROM pip AS server-needs
COPY --from=needs /build/server.txt /build/
RUN /opt/needs/bin/pip install -r /build/server.txt && /opt/needs/bin/pip uninstall --yes pip

FROM pip AS package
COPY pyproject.toml README.md LICENSE /build/
COPY labserver /build/labserver
RUN /opt/needs/bin/pip install --no-deps --target /opt/labserver /build

FROM python:3.12-slim-bookworm AS server
ENV PATH=/opt/labserver/bin:/opt/needs/bin:$PATH PYTHONPATH=/opt/labserver \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8080
# Alive, not ready: a replica that cannot hear its broker must not be restarted for it.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["python", "-c", \
  "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["labserver"]
CMD ["serve", "--host", "0.0.0.0"]
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
COPY --from=server-needs /opt/needs /opt/needs
COPY --from=package /opt/labserver /opt/labserver

FROM pip AS lab-needs
COPY --from=needs /build/lab.txt /build/
RUN /opt/needs/bin/pip install -r /build/lab.txt && /opt/needs/bin/pip uninstall --yes pip

FROM python:3.12-slim-bookworm AS lab
# The home is where Jupyter and matplotlib keep what they need while they run.
ENV PATH=/opt/labserver/bin:/opt/needs/bin:$PATH PYTHONPATH=/opt/labserver \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
COPY --from=lab-needs /opt/needs /opt/needs
WORKDIR /lab
# Volumes take their owner from here.
RUN mkdir results && chown 10001:10001 results
COPY --chown=10001:10001 notebooks notebooks
COPY --from=package /opt/labserver /opt/labserver
# Beside the package, where chapter 9 looks for them.
COPY loadtests /opt/labserver/loadtests
USER 10001:10001

# The last stage is what `docker build .` makes.
FROM server
