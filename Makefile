# make run | test | lint | wheel. The first one that needs it makes .venv.

PYTHON ?= python3.11
ifeq (, $(shell command -v $(PYTHON)))
PYTHON := python3
endif
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help run test lint wheel docs profile fuzz faults clean

help:
	@echo 'make run      serve examples/mixed.jsonl under policies/slo.pol; pictures and report in out/'
	@echo 'make test     all tests'
	@echo 'make lint     style, types and import rules'
	@echo 'make wheel    a wheel in dist/'
	@echo 'make docs     the reference pages that are made from code'
	@echo 'make profile  measure the embedded model on this machine'
	@echo 'make fuzz     100,000 generated programs and as many random texts through the policy language'
	@echo 'make faults   break real systems some 2,000 times: docs/reference/faults.md (half an hour)'

# torch first and alone: it is the one big download, and a change elsewhere must not repeat it.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

run: $(READY)
	$(BIN)/gfdit run --policy policies/slo.pol --workload examples/mixed.jsonl --out out/

test: $(READY)
	$(BIN)/python -m pytest -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: $(READY)
	$(BIN)/python -m build --wheel --no-isolation

docs: $(READY)
	$(BIN)/python tests/support/cli_reference.py
	$(BIN)/python -m gfdit.policy.reference > docs/reference/policy-language.md
	$(BIN)/python -m gfdit.editor.textmate > grammar/vscode/syntaxes/gfdit-policy.tmLanguage.json

profile: $(READY)
	$(BIN)/gfdit profile

fuzz: $(READY)
	$(BIN)/python -m tests.support.fuzz --programs 100000 --strings 100000 --mutants 10000

faults: $(READY)
	$(BIN)/gfdit bench faults --page docs/reference/faults.md

clean:
	rm -rf .venv build dist out
