# make demo    GRPO on this machine's CPU: environment, training, before and after
# make test    everything CI checks
# make docs    the site, in _docs/
# make readme  README.md from nbs/index.ipynb
# make clean   remove the environment and what was built
#
# On a GPU machine that has torch, in its own environment, the notebooks' `slow` and `cuda` cells too:
#     make test-gpu
# and what only a GPU can answer, as a table in less than ten minutes; nothing is installed:
#     make gpu-check ARGS='--seconds 150'
# In a Colab or Kaggle cell:
#     !git clone https://github.com/grpo-lit/grpo-lit && make -C grpo-lit test-gpu

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
bin = $(VENV)/bin
pip = $(bin)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
sources = settings.ini setup.py pyproject.toml constraints.txt

.PHONY: help demo test test-gpu gpu-check docs readme clean
help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

$(bin)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3,10))' || \
	  { echo "grpo_lit needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make environments: on Debian and Ubuntu, apt install python3-venv"; exit 1; }

# one stamp for each set of extras: installed again only when what it depends on changes
$(VENV)/.demo: $(sources) | $(bin)/python
	@echo "installing grpo_lit (torch is large: the first time takes minutes)"
	@$(pip) -e . && touch $@
$(VENV)/.dev: $(sources) | $(bin)/python
	@echo "installing grpo_lit and its development tools (torch is large: the first time takes minutes)"
	@$(pip) -e '.[dev]' && touch $@ $(VENV)/.demo
$(VENV)/.docs: $(sources) $(VENV)/.dev
	@$(bin)/python -c 'import sys; sys.exit(sys.version_info < (3,11))' || { echo "the site is built with Zensical, which needs Python 3.11 or newer"; exit 1; }
	@$(pip) -e '.[dev,docs]' && touch $@

demo: $(VENV)/.demo
	$(bin)/grpo-lit demo $(ARGS)

test: $(VENV)/.dev
	$(bin)/python tools/check.py $(ARGS)

# the Python that is there, and its torch, whatever its version: constraints.txt would replace them
test-gpu:
	@$(PYTHON) -c 'import torch; print("torch==" + torch.__version__)' > .torch-here || { rm -f .torch-here; echo "$(PYTHON) has no torch: install the one that fits this GPU first"; exit 1; }
	$(PYTHON) -m pip install -qq -c .torch-here -e '.[dev]'
	@rm -f .torch-here
	$(PYTHON) tools/check.py notebooks tests --flags "slow cuda" $(ARGS)

# with the Python that is there, and nothing installed
gpu-check:
	$(PYTHON) tools/gpu_check.py $(ARGS)

docs: $(VENV)/.docs
	$(bin)/python tools/build_docs.py $(ARGS)

readme: $(VENV)/.dev
	$(bin)/python tools/build_docs.py --readme

clean:
	rm -rf $(VENV) _build _docs _proc build dist *.egg-info .torch-here
