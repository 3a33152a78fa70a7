# Two commands do everything: `make demo` runs the main job on the embedded model, `make test` runs every test.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: demo test setup browser lint types unit docs benchmarks clean

demo: setup
	$(BIN)/acestep demo --out demo --force

test: setup lint types docs unit

setup: $(READY)

# torch comes first and alone: where a CPU build is offered it is taken, and nothing later replaces it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@rm -f .venv/ready-*; touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict --quiet --site-dir build/docs

# Pages are tested in Debian's Chromium; where it cannot be installed, those tests say that they are skipped.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
		|| echo "Chromium is not here and cannot be installed; its tests are skipped"

unit: setup browser
	$(BIN)/pytest -n 2 --dist loadgroup

benchmarks: setup
	for script in benchmarks/*.py; do $(BIN)/python $$script; done

clean:
	rm -rf .venv build demo
