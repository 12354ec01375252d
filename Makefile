PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: install demo demo-full test browser lint format clean
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

browser:
	command -v chromium && command -v chromedriver || (apt-get update -q && \
	apt-get install --quiet --yes --no-install-recommends chromium chromium-driver fonts-dejavu-core)

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf .venv build dist demo demo-full *.egg-info
