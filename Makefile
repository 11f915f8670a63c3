# Every target makes or repairs .venv first; see scripts/setup.sh.
# make demo ARGS="--glass-images DIR"   make test ARGS="-k geometry"   make setup PYTHON=python3.12

BIN := .venv/bin
NOTEBOOKS = $(wildcard notebooks/*.ipynb dashboards/*.ipynb)
STRIP = $(BIN)/nbstripout --keep-id --drop-tagged-cells=injected-parameters \
	--extra-keys="metadata.papermill cell.metadata.papermill"
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup demo test lab dashboard screenshots check strip

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## make .venv, or bring it up to date
	@scripts/setup.sh

demo: setup ## the whole job on drawn slides, from glass to result
	$(BIN)/histo-nb demo $(ARGS)

# One process a core with one thread each: PyTorch's own threads would fight over the cores.
test: check ## check, then all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lab: setup ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks $(ARGS)

dashboard: setup ## the pathologist's page
	$(BIN)/histo-nb dashboard $(ARGS)

screenshots: setup ## the pictures of the README
	$(BIN)/python scripts/screenshots.py $(ARGS)

check: setup ## lint, format, types, who imports whom, notebooks without outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(STRIP) --verify $(NOTEBOOKS)

strip: setup ## clear the outputs of the notebooks
	$(STRIP) $(NOTEBOOKS)
