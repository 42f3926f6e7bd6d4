# The two commands that a fresh machine needs are `make demo` and `make test`; `make help` lists the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# There once the programs run, and once their tests do.
RUNS   := $(VENV)/.runs
READY  := $(VENV)/.ready

# What the demo trains: for example `make demo REG=ggdr LOSS=osgan KIMG=50 DATA=photos/`. Networks so small are faster on one thread.
# The game and R2: docs/evidence-demo.md.
DATA ?= datasets/emoji-faces-noto-32.zip
DEMO ?= demo-out
KIMG ?= 40
REG  ?= r2
LOSS ?= relativistic

.PHONY: help demo sites-demo test slow lint bench gpu-check docs clean

help:            ## This list.
	@grep -hE '^[a-z-]+: *##|^[a-z-]+: .*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(RUNS): pyproject.toml requirements.txt
	@echo '== Creating the environment in $(VENV) (once: about 1.4 GB, most of it torch)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[metrics,tensorboard,video]'
	@echo '== Compiling the operators (once: about a minute on two idle cores)'
	@$(BIN)/python -m torch_utils.ops build || echo '   Everything works without them, more slowly.'
	@touch $(RUNS)

$(READY): $(RUNS)
	@echo '== Adding what the tests need to $(VENV) (once)'
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	@touch $(READY)

demo: $(RUNS)   ## Train on the bundled images for ten to twenty minutes on two CPU cores and draw pictures; stop it and start it again as you like.
	@echo '== Training on $(DATA); pictures appear in $(DEMO)/*/ while it goes'
	@trap : INT; \
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python train.py --outdir=$(DEMO) --data=$(DATA) --cfg=tiny --kimg=$(KIMG) --mirror=1 --aug=noaug --reg_type=$(REG) --loss=$(LOSS); \
	case $$? in \
	0)  $(BIN)/python generate.py --network=$$(ls -dt $(DEMO)/0*/ | head -n 1) --seeds=0-31 --grid=8x4 --outdir=$(DEMO)/generated && \
	    echo '== Look at $(DEMO)/*/reals.png, $(DEMO)/*/fakes_over_time.png and $(DEMO)/generated/grid00.png' ;; \
	75) echo '== `make demo` goes on from here' ;; \
	*)  exit $$? ;; \
	esac

sites-demo: $(RUNS) ## Train TDGAN between three processes with test certificates, six minutes on two cores, and draw what G draws for every centre.
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[sites]'
	@trap : INT; $(BIN)/python benchmarks/sites_demo.py --outdir=sites-$(DEMO) || [ $$? = 75 ]

test: $(READY)   ## Run the test suite (about ten minutes on two cores).
	@$(BIN)/python -m pytest -n auto --maxprocesses=8 --dist=loadfile

slow: $(READY)   ## Run the long checks as well.
	@$(BIN)/python -m pytest -m ''

lint: $(READY)   ## Check style.
	@$(BIN)/ruff check .

bench: $(READY)  ## Measure everything on this machine (half an hour; `benchmarks/all.py --quick` takes three minutes).
	@$(BIN)/python benchmarks/all.py

gpu-check: $(READY) ## Check everything on the GPU of this machine, in under eight minutes (benchmarks/gpu_check.py).
	@$(BIN)/python benchmarks/gpu_check.py

docs: $(READY)   ## Build the pages as a site in site/.
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	@$(BIN)/python -m mkdocs build --strict

clean:           ## Remove the environment and what the demo wrote.
	rm -rf $(VENV) $(DEMO) sites-$(DEMO)
