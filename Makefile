# The commands of this repository. Every one prepares `.venv` first, which takes no time when nothing changed.
#   make up ARGS="--once --json"   make test ARGS="tests/kernel -k ids"
ARGS ?=
# Called as `python -m`: a console script's first line may be longer than a kernel allows.
PY = .venv/bin/python
MAKEFLAGS += --no-print-directory

.PHONY: up test lint format bench fuzz lock clean help

help: ## Show the commands
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

up: ## Start everything on this machine
	@tools/bootstrap runtime
	@exec $(PY) -m probity up $(ARGS)

test: ## Lint, type-check and test everything
	@tools/bootstrap test
	@mkdir -p test-results
	@# Both, whatever the first says: one run names everything that is wrong.
	@PY=$(PY) tools/lint; lint=$$?; \
	$(PY) -m pytest -n auto --dist worksteal --junitxml=test-results/junit.xml $(ARGS) && exit $$lint

lint: ## Formatting, lint, types and layers
	@tools/bootstrap dev
	@PY=$(PY) tools/lint

format: ## Rewrite the code in the project's format
	@tools/bootstrap dev
	@$(PY) -m ruff check --fix --quiet .
	@$(PY) -m ruff format .

bench: ## Measure, beside rivals on this machine; writes bench/RESULTS.md
	@tools/bootstrap bench
	@exec $(PY) -m bench $(ARGS)

fuzz: ## Long searches: schema fuzzing and hundreds of kills, with a printed seed
	@tools/bootstrap test
	@PROBITY_FUZZ=1 PROBITY_FAULT_MOMENTS=500 exec $(PY) -m pytest tests/fuzz tests/faults -n auto --timeout=7200 -rP $(ARGS)

lock: ## Compile the pinned requirements after pyproject.toml changed
	@tools/bootstrap dev
	@tools/lock

clean: ## Remove what the other commands made, but not .probity, which is yours
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache test-results
