# SafeLicensing. `make` lists what there is.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DATASET ?=
ARGS ?=
# Folders of CustomResourceDefinitions; an object must be valid in each that knows its kind.
CRDS ?= $(wildcard ../shared/crds ../shared/crds/kserve-0.18)
MANIFESTS := infra/kustomize infra/argocd infra/argocd/applications katib infra/kustomize/search \
  infra/kustomize/restore/mlflow infra/kustomize/restore/feast
# Most tests share the cores; those that want the machine for themselves are marked `alone`.
# A worker that dies ends the run and names its test; were it replaced, pytest-xdist could wait for ever.
SHARED_TESTS := $(BIN)/pytest -q -n logical --dist loadfile --max-worker-restart=0
export PYTHONWARNINGS ?= ignore

.DEFAULT_GOAL := help
.PHONY: help setup run test test-fast lint manifests format compile stop status clean benchmarks images

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Make .venv from constraints.txt (implied by the others)

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "python 3.11 is needed: set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "installing into $(VENV) (some minutes, once)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q -c constraints.txt -e '.[all,dev]' 2> $(VENV)/install.log || { tail -20 $(VENV)/install.log >&2; exit 1; }
	@touch $@

run: setup ## Run the whole pipeline here and leave the endpoint running (DATASET=folder|zip|s3://…|synthetic://…)
	@$(BIN)/platecrypt run $(if $(DATASET),--dataset '$(DATASET)') $(ARGS)

# Exit code 5: ARGS chose none of that half.
test: setup ## Run every test (trains small models, starts servers)
	@$(SHARED_TESTS) -m 'not alone' $(ARGS) || [ $$? -eq 5 ]
	@$(BIN)/pytest -q -m alone $(ARGS) || [ $$? -eq 5 ]

test-fast: setup ## Run the tests that need neither training nor servers
	@$(SHARED_TESTS) -m 'not slow' $(ARGS)

lint: setup ## Check style, types, import rules and that the compiled pipeline is fresh
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/platecrypt compile --check
	@$(MAKE) --no-print-directory manifests

manifests: setup ## Render the overlays and check them offline (CRDS='FOLDER…': schemas of custom resources)
	@$(BIN)/platecrypt check-manifests $(MANIFESTS) $(addprefix --crds ,$(CRDS))

format: setup ## Format the code
	@$(BIN)/ruff check --fix -q . || true
	@$(BIN)/ruff format .

compile: setup ## Write pipelines/compiled/training.yaml
	@$(BIN)/platecrypt compile

stop: setup ## Stop what `make run` left running
	@$(BIN)/platecrypt stop

status: setup ## List what is running
	@$(BIN)/platecrypt status

images: ## Build the container images (docker, podman or buildah; IMAGES='predictor …', REGISTRY, TAG)
	@infra/scripts/build-images.sh $(IMAGES)

benchmarks: setup ## Measure: tables and pictures go to build/benchmarks
	@failed=0; for script in benchmarks/*.py; do $(BIN)/python $$script || failed=1; done; exit $$failed

clean: ## Stop everything; remove .platecrypt and build output (never .venv)
	@if [ -x $(BIN)/platecrypt ]; then $(BIN)/platecrypt stop; fi
	@rm -rf .platecrypt build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
