# What a person types. Each target prepares .venv for itself (scripts/prepare) and needs no network the second time.
.DEFAULT_GOAL := help
.PHONY: help install run test bench bench-full faults-full mutants lint docs lock clean

PYTHON := .venv/bin/python
BY_ITSELF := browser or postgres or fault or interop
UV_COMPILE = $(PYTHON) -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--extra all --generate-hashes --no-header --no-annotate

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

install: ## Install everything into .venv: rfs, the reference service, the tests' and the developers' tools
	@scripts/prepare dev

run: ## Start the reference service with its traffic; Ctrl-C stops it (TRAFFIC=0: no traffic)
	@scripts/prepare run
	@cd examples/table_order && exec ../../$(PYTHON) -m app.run

test: ## Run all tests with branch coverage
	@scripts/prepare test
	@echo "rfs: first the tests that mind no neighbour, as many at once as there are processors"
	@status=0; \
	$(PYTHON) -m pytest -n logical --dist loadfile -m "not ($(BY_ITSELF))" --durations=10 --cov --cov-report= --cov-fail-under=0 || status=1; \
	echo "rfs: then those that start programs or measure the machine, one at a time"; \
	$(PYTHON) -m pytest -m "$(BY_ITSELF)" --durations=10 --cov --cov-append --cov-report=term || status=1; \
	exit $$status

bench: ## Measure RFS beside its peers and write benchmarks/RESULTS.md
	@scripts/prepare test
	@$(PYTHON) -m benchmarks.run

faults-full: ## Run the fault tests at their whole size and write benchmarks/FAULTS.md; takes most of an hour
	@scripts/prepare test
	@$(PYTHON) scripts/faults_full.py

bench-full: ## Everything that is measured, at its whole size
	@scripts/prepare test
	@$(PYTHON) -m benchmarks.run --full
	@$(MAKE) faults-full

mutants: ## Put small changes of the code to the tests and write benchmarks/MUTANTS.md; takes hours
	@scripts/prepare dev
	@$(PYTHON) scripts/mutants.py

lint: ## Check style, types and the direction of imports
	@scripts/prepare dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m basedpyright --pythonpath $(PYTHON)
	.venv/bin/lint-imports

docs: ## Build the documentation into site/
	@scripts/prepare dev
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet
	@echo "rfs: the documentation is in site/index.html"

lock: ## Renew requirements/*.lock from pyproject.toml, and those of the benchmarks' peers
	@scripts/prepare dev
	@$(UV_COMPILE) --group dev --upgrade -o requirements/dev.lock
	@for group in run test; do $(UV_COMPILE) --group $$group -c requirements/dev.lock -o requirements/$$group.lock; done
	@$(PYTHON) -m benchmarks.environments

clean: ## Remove what the other targets made
	rm -rf .venv .venv-* examples/table_order/.state site mutants htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
