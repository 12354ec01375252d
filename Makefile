PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: install demo demo-full test browser lint format secrets clean
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,postgres]'
	touch $@

demo: install
	$(BIN)/searchsvc demo --dir demo

demo-full: install
	$(BIN)/searchsvc demo --full --dir demo-full

test: install
	$(BIN)/pytest -n 2 --dist worksteal

# The tests of the dashboard look at it with Debian's Chromium; needs root.
browser:
	command -v chromium && command -v chromedriver || { apt-get update -q && \
	  apt-get install --quiet --yes --no-install-recommends chromium chromium-driver fonts-dejavu-core; }

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# Readable by the containers' users, in a folder that is closed to everybody else here.
secrets:
	mkdir -p -m 700 secrets
	for name in postgres_password ray_token dashboard_token; do test -s secrets/$$name || \
	  $(PYTHON) -c 'import secrets; print(secrets.token_hex(32), end="")' > secrets/$$name; done
	chmod 444 secrets/*

clean:
	rm -rf .venv build dist demo demo-full *.egg-info
