# Every target sets up .venv by itself, when pyproject.toml changed and only then.
PYTHON ?= python3
BIN := .venv/bin
PYTEST = $(BIN)/python -m pytest -q --dist worksteal

# Tests and chapters start thousands of processes: what was compiled is kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help lab test long builds debug every compose chaos simulate check load notebooks book serve demo up env clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 18

lab: .venv/ready  ## open JupyterLab on the chapters (it prints its URL)
	@$(BIN)/labserver lab

test: .venv/ready  ## the tests of each part, in three minutes
	@$(PYTEST) -n 6 -m "not long and not second and not alone and not builds and not docker"

long: .venv/ready  ## whole programs (chapters, judgements, load, demo): nine minutes
	@$(PYTEST) -n 4 -m "long and not second and not builds"
	@$(BIN)/python -m pytest -q -m alone tests/server/test_turns.py

builds: .venv/ready  ## each well-known wrong part of a chapter is recognised
	@$(PYTEST) -n 3 -m builds

debug: .venv/ready  ## the promises on asyncio's own loop, which looks for mistakes
	@$(PYTEST) -n 6 -m "second and not alone"

every: long  ## all of them but builds, in thirteen minutes
	@$(PYTEST) -n 6 -m "not long and not alone and not builds and not docker"

compose: .venv/ready  ## bring docker-compose.yml up, test it, take it down (minutes)
	@$(BIN)/python -m pytest -q -m docker -rs

chaos: .venv/ready  ## two minutes of random faults over a cluster, and a verdict
	@$(BIN)/python -m chaos --minutes 2

simulate: .venv/ready  ## a minute of simulated worlds, each with other faults, by seed
	@$(BIN)/python -m labserver.simulated --seconds 60

check: .venv/ready  ## lint, formatting, types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

load: .venv/ready  ## every load test on a cluster of its own, and a page, in 4 minutes
	@$(BIN)/python -m loadtests

peers: .venv/peers  ## the server against others on the same load, about 7 minutes
	@$(BIN)/python -m bench

verdicts: .venv/peers  ## which promises other servers keep, about 3 minutes
	@$(BIN)/python -m bench.verdicts

ledger: .venv/peers  ## what each stage costs, about 5 minutes
	@$(BIN)/python -m bench.ledger

notebooks: .venv/ready  ## execute every chapter again
	@$(BIN)/python notebooks/build.py

book: .venv/book  ## the chapters and these pages as a book to read, in dist/book
	@$(BIN)/python -m sphinx -qW --keep-going -c notebooks/book -d build/book . dist/book

serve: .venv/ready  ## run the last stage on port 8080
	@$(BIN)/labserver serve

demo: .venv/ready  ## a cluster that is broken on purpose, and what its clients lost
	@$(BIN)/labserver demo

up: env  ## docker-compose.yml: replicas, router, Redis, Locust, Jupyter
	@docker info >/dev/null 2>&1 || { echo "no Docker engine answers (docker info says \
	why); make demo needs none" >&2; exit 2; }
	@docker compose version >/dev/null 2>&1 && exec docker compose up --build; \
	exec docker-compose up --build

env:  ## the secrets of docker-compose.yml, in the folder secrets, those that are missing
	@umask 077 && mkdir -p secrets && for name in lab_secret redis_password jupyter_token; do \
	[ -s secrets/$$name ] || $(PYTHON) -c "import secrets; \
	print(secrets.token_urlsafe(32), end='')" > secrets/$$name && chmod 444 secrets/$$name; done
	@grep -qs "^LAB_SECRETS=." .env || echo LAB_SECRETS=./secrets >> .env

clean:  ## remove what was made here
	rm -rf .venv results dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/peers: .venv/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[peers]'
	@touch $@

.venv/book: .venv/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[book]'
	@touch $@

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import shutil, sys; sys.version_info >= (3, 14) and not any( \
	map(shutil.which, ("redis-server", "valkey-server"))) and print("Python 3.14: \
	install Redis, too (apt install redis-server, or brew install redis)")'
	@echo "setting up .venv (once, about a minute)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[notebooks,load,dev]'
	@touch $@
