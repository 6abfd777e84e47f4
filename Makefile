# Every target does its own set-up: system packages, .venv, servers. Slow the first time, seconds afterwards.
.DEFAULT_GOAL := help
.PHONY: help demo test soak lint services services-down lock system-packages
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
CODE := $(wildcard cdc_reader stream_app sink schemas check rowflow servers examples bench tests)
INSTALLED := .venv/.installed
# Files side by side, the longest (faults) first: a test mostly waits for servers and processes.
SIDE_BY_SIDE := -n 4 --dist loadfile --no-loadscope-reorder

help:
	@echo "make demo           the bookshop: changes arriving in result tables, through crashes (KEEP=1 keeps it running)"
	@echo "make test           all tests, on servers of their own"
	@echo "make soak           the tests that take long"
	@echo "make lint           ruff and mypy"
	@echo "make services       MySQL and Kafka, left running, with shop.books in them"
	@echo "make services-down  ends those"
	@echo "make lock           requirements/*.txt made anew from requirements/*.in"

demo: $(INSTALLED)
	@$(PYTHON) -m servers --dir .local/demo run -- $(PYTHON) -m examples.bookshop.demo

# Brokers of tests live for a minute: compiling their code well would take a third of the time of both cores.
test: export KAFKA_JVM_PERFORMANCE_OPTS = -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData
test: $(INSTALLED)
	@$(PYTHON) -m servers --dir .local/test run -- $(PYTHON) -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

soak: $(INSTALLED)
	@$(PYTHON) -m servers --dir .local/test run -- $(PYTHON) -m pytest -m soak $(PYTEST_ARGS)

lint: $(INSTALLED)
	@.venv/bin/ruff check $(CODE)
	@.venv/bin/ruff format --check $(CODE)
	@.venv/bin/mypy $(CODE)

services: $(INSTALLED)
	@$(PYTHON) -m servers up

services-down: $(INSTALLED)
	@$(PYTHON) -m servers down
	@$(PYTHON) -m servers --dir .local/demo down

system-packages:
	@scripts/system-packages.sh

$(INSTALLED): requirements/dev.txt pyproject.toml scripts/make-venv.sh | system-packages
	@scripts/make-venv.sh $@

lock: $(INSTALLED)
	@scripts/lock.sh
