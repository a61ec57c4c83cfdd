# Every target builds or refreshes .venv/ first, from nothing but Python 3.11 or newer, pip and make.
#
#   make PYTHON=python3.12 test     another interpreter (.venv/ is built anew when it changes)
#   make test PYTEST_ARGS='-x tests/unit'

# Four workers for two cores: tests of crashes and timeouts wait as much as they work.
PYTEST_ARGS ?= -n 4 --dist loadfile --no-loadscope-reorder
DATA ?= .data
PY := .venv/bin/python
READY := .venv/.ready
BOOTSTRAP := deploy/local/bootstrap.sh
CODE := contracts ledger_service image_service deploy tests

export PYTHON UPGRADE UV_VERSION
# A run of the tests starts hundreds of Pythons: where the environment forbids to keep what they compile, each compiles
# all of our packages and everybody's anew, for two seconds and more.
unexport PYTHONDONTWRITEBYTECODE

# A .venv/ that was made for another interpreter, or copied along with the folder, is made again.
ifneq ($(wildcard $(READY)),)
ifneq ($(shell cat .venv/.place 2>/dev/null),$(CURDIR))
$(READY): again
endif
ifdef PYTHON
ifneq ($(shell cat .venv/.python 2>/dev/null),$(PYTHON))
$(READY): again
endif
endif
endif

.PHONY: help demo run test promtool browser web lint typecheck format schemas docs docs-serve bench bench-history faults soak containers-test upgrades-test audit sbom lock clean again
.DEFAULT_GOAL := help

help: ## What can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do printf '  make %-16s %s\n' "$$name" "$$text"; done

$(READY): pyproject.toml requirements.lock $(BOOTSTRAP) deploy/local/bootstrap.txt
	@sh $(BOOTSTRAP)

demo: $(READY) ## The main job, once, on a throw-away data folder
	@$(PY) -m deploy.local.demo

run: $(READY) ## Everything on this machine, data kept in .data/
	@exec .venv/bin/usage-stack up --data $(DATA)

test: lint typecheck promtool browser ## Lint, format check, types, tests
	$(PY) -m pytest $(PYTEST_ARGS)

promtool: ## Fetch promtool, where Debian's packages can be had: the alert rules are tested with it
	@sh deploy/local/promtool.sh

browser: ## See to a Chromium and axe-core, where they can be had: the pages are tested in it
	@sh deploy/local/chromium.sh
	@sh deploy/web/vendor.sh --only-install

web: ## Take what browsers are sent of others' from npm, as deploy/web/package-lock.json has it
	@sh deploy/web/vendor.sh

lint: $(READY) ## Lint and format check
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)

typecheck: $(READY) ## Strict types
	$(PY) -m mypy

format: $(READY) ## Format the code, and mend what lint can mend
	$(PY) -m ruff check --fix $(CODE)
	$(PY) -m ruff format $(CODE)

schemas: $(READY) ## Write contracts/schemas/ from the models
	$(PY) -m contracts.generate

docs: $(READY) ## The documentation site, in build/site/
	@$(PY) -m deploy.docs build

docs-serve: $(READY) ## The same at http://localhost:8008
	@$(PY) -m deploy.docs serve

bench: $(READY) ## Speed, each figure beside its limit (BENCH_ARGS='--only checks': a part of it)
	@$(PY) -m tests.bench $(BENCH_ARGS)

HISTORY ?= .data/history
bench-history: $(READY) ## The same for what a history of ten million events makes slow, kept in HISTORY (20 GB)
	@$(PY) -m tests.bench.history --data $(HISTORY)
	@$(PY) -m tests.bench.long_history --data $(HISTORY)

faults: $(READY) ## Break real servers, networks, disks and clocks under load (FAULTS_SEED=7 repeats a run)
	$(PY) -m pytest -m faults $(FAULTS_ARGS) tests

soak: $(READY) ## A million random checks, each decision verified; MINUTES=60: mixed load for so long, a fault a minute
	$(PY) -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(SOAK_ARGS)

containers-test: $(READY) ## Build both images, and try compose.yaml on the Docker engine: demo, rolling restart (DOCKER_HOST)
	$(PY) -m pytest -m containers -s $(CONTAINERS_ARGS) tests/containers

upgrades-test: $(READY) ## Upgrade from the release before, go back and forth again, under load; needs the history of git
	$(PY) -m pytest -m "upgrades or not upgrades" $(UPGRADES_ARGS) tests/upgrades

audit: $(READY) ## Known vulnerabilities in what is locked (asks osv.dev)
	@$(PY) -m deploy.supply.audit

sbom: $(READY) ## What is locked, as CycloneDX, in build/
	@$(PY) -m deploy.supply.sbom

# pip's format, for it names no index: what it lists installs from any mirror, and its hashes say whether that is right.
lock: ## Follow pyproject.toml (UPGRADE=1 takes the newest versions, UV_VERSION=… another uv)
	@sh $(BOOTSTRAP) lock

clean: ## Remove what was built; .data/ stays
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
