# What there is to do here: make help.
#
# Everything runs on the Python of .venv, which scripts/bootstrap.py makes from the pinned files in requirements/. Nothing
# but make, git and a Python 3.11 or later has to be there before.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Without bytecode every start of Airflow costs over ten seconds of imports.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
unexport VIRTUAL_ENV

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.bootstrapped
AZ := .az/venv
AZ_STAMP := $(AZ)/.bootstrapped
LINEAGE := .lineage
LINEAGE_STAMP := $(LINEAGE)/.bootstrapped
# Any Python can run the bootstrap script; it picks the one for .venv itself.
BOOTSTRAP_PYTHON = $(firstword $(wildcard $(foreach version,3.11 3.12 3.13,/usr/bin/python$(version))) $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))

.PHONY: help az lineage demo test programs lint format bench bench-lab parity docs screenshots requirements clean

help:
	@echo 'make demo          from the public path to a private link, on this machine; KEEP=1 leaves it running'
	@echo 'make test          install, lint, and run all tests; TESTS="tests/unit" runs some'
	@echo 'make lint          ruff, mypy, import-linter'
	@echo 'make format        let ruff rewrite what it can'
	@echo 'make bench         compare with other executors; QUICK=1 takes under ten minutes'
	@echo 'make bench-lab     what the lab'"'"'s endpoints cost, and how fast its machine follows (root)'
	@echo 'make parity        run the DAGs that come with Airflow under LocalExecutor and on an agent, and compare'
	@echo 'make docs          write the generated tables in docs/ again'
	@echo 'make screenshots   take the pictures of docs/pages.md again (root)'
	@echo 'make requirements  resolve requirements/*.txt again from pyproject.toml'
	@echo 'make az            install the az command for the tests of the lab, in .az'
	@echo 'make lineage       install the OpenLineage provider for the test of it, in .lineage'
	@echo 'make clean         remove .venv, .az, .lineage, .demo, .bench and caches'

$(STAMP): requirements/dev.txt requirements/bootstrap.txt pyproject.toml scripts/bootstrap.py
	@test -n "$(BOOTSTRAP_PYTHON)" || { echo 'Python 3.11 or later is needed: apt-get install python3.11' >&2; exit 2; }
	@$(BOOTSTRAP_PYTHON) scripts/bootstrap.py --requirements requirements/dev.txt --stamp $(STAMP) $(VENV)

$(VENV): $(STAMP)

# Microsoft's command line, as the lab's tests drive it.
$(AZ_STAMP): requirements/az.txt requirements/bootstrap.txt scripts/bootstrap.py
	@test -n "$(BOOTSTRAP_PYTHON)" || { echo 'Python 3.11 or later is needed: apt-get install python3.11' >&2; exit 2; }
	@$(BOOTSTRAP_PYTHON) scripts/bootstrap.py --foreign --requirements requirements/az.txt --stamp $(AZ_STAMP) $(AZ)

az: $(AZ_STAMP)

# The OpenLineage provider, for the agent of one test; everything else of .venv does without.
$(LINEAGE_STAMP): requirements/lineage.txt scripts/bootstrap.py $(STAMP)
	@$(PYTHON) scripts/bootstrap.py --into $(LINEAGE) --requirements requirements/lineage.txt --stamp $(LINEAGE_STAMP) $(VENV)

lineage: $(LINEAGE_STAMP)

demo: $(STAMP)
	@$(PYTHON) scripts/programs.py demo
	@$(PYTHON) -m isthmus.cli.demo $(if $(KEEP),--keep)

test: lint $(AZ_STAMP) $(LINEAGE_STAMP) programs
	@$(PYTHON) scripts/lanes.py $(TESTS)

# nftables, dnsmasq, HAProxy: what the lab's packets and the ingress need beside Python.
programs: $(STAMP)
	@$(PYTHON) scripts/programs.py tests

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(STAMP)
	@$(MAKE) --no-print-directory -C bench $(if $(QUICK),QUICK=$(QUICK)) $(if $(ROUNDS),ROUNDS=$(ROUNDS))

bench-lab: $(STAMP) programs
	@$(PYTHON) -m bench.lab_paths $(if $(ROUNDS),--rounds $(ROUNDS))

parity: $(STAMP)
	@$(PYTHON) -m bench.parity

screenshots: $(STAMP) programs
	rm -rf docs/pages
	SCREENSHOTS=docs/pages $(PYTHON) -m pytest -q tests/network/link/test_looks.py

docs: $(STAMP)
	$(PYTHON) -m isthmus.cli.documenting docs

requirements: $(STAMP)
	$(PYTHON) scripts/pin.py

clean:
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m isthmus.cli.demo --clean || true; fi
	rm -rf $(VENV) .az .lineage .demo .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests examples scripts bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
