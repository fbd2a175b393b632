# brim: `make demo` shows what it does, `make test` proves it, `make help` lists the rest.

VERSION := 0.11.0
SOVERSION := 9
PREFIX  ?= /usr/local
SAN     ?=
DEBUG   ?=
ifeq ($(origin CC),default)
  CC := gcc
endif
# V=1 shows the commands.
Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' $(1) $(2))

empty :=
comma := ,
BUILD ?= build
ifneq ($(SAN),)
  BUILD := build-$(subst $(comma),-,$(SAN))
else ifneq ($(DEBUG),)
  BUILD := build-debug
endif

# ---- Flags ----------------------------------------------------------------------------------------------------------
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
# A product and a sum are rounded each for itself unless the source says otherwise: gcc's default with -std=c11, not clang's.
BASE := -std=c11 -ffp-contract=off -D_GNU_SOURCE -fPIC -fvisibility=hidden -fno-math-errno -fno-trapping-math -I. $(WARN)
OPT  := -O3 -g
ISAS := base
ifeq ($(shell uname -m),x86_64)
  ISAS := base avx2 avx512
endif
ifneq ($(DEBUG),)
  OPT := -O0 -g3
endif
ifneq ($(SAN),)
  OPT   := -O1 -g -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=all
  ISAS  := base
  LDSAN := -fsanitize=$(SAN)
endif

ISA_base   :=
ISA_avx2   := -march=x86-64-v3
ISA_avx512 := -march=x86-64-v4 -mprefer-vector-width=512
DEFS := -DBRIM_VERSION=\"$(VERSION)\" $(foreach i,$(ISAS),-DBRIM_HAVE_$(i)=1)

ALL_CFLAGS  := $(BASE) $(OPT) -fopenmp $(DEFS) $(CFLAGS)
# gcc's parallel regions run on kernels/team.c; clang's need its own run-time.
IS_CLANG := $(findstring clang,$(shell $(CC) --version 2>/dev/null | head -1))
ALL_LDFLAGS := $(LDSAN) $(if $(IS_CLANG),-fopenmp,-pthread) $(LDFLAGS)
LIBS := -ljansson -lpcre2-8 -lutf8proc -lz -lm -ldl

# ---- Files ----------------------------------------------------------------------------------------------------------
FOLDERS := base memtrack device ranks tensor text nn optim data plan estimate estimate/pytorch report io
# kernels/cpu.c includes the other kernel files and is compiled once per instruction set.
KERNEL_ALONE := kernels/dispatch.c kernels/blas.c kernels/environment.c kernels/openblas.c kernels/processor.c kernels/team.c $(wildcard kernels/reference*.c kernels/cuda/*.c)
KERNEL_PARTS := $(filter-out kernels/cpu.c $(KERNEL_ALONE),$(wildcard kernels/*.c))
LIB_SRC := $(foreach f,$(FOLDERS),$(wildcard $(f)/*.c)) $(KERNEL_ALONE)
LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o) $(ISAS:%=$(BUILD)/kernels/cpu_%.o)
PAGE_JS  := $(foreach part,base log timeline ranks treemap allocators steps compare main,report/page/$(part).js)
PAGE_INC := $(addprefix $(BUILD)/report/page/page.,html.inc css.inc js.inc pytorch.inc)
CLI_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard cli/*.c))
TESTS   := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/test_*.c))
SUPPORT := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(wildcard tests/test_*.c),$(wildcard tests/*.c)))
EXAMPLES := $(patsubst %.c,$(BUILD)/%,$(wildcard examples/*.c))
BENCHES  := $(patsubst %.c,$(BUILD)/%,$(wildcard bench/*.c))
# Public: brim.h and what it includes. Asked for when it is needed.
HEADERS   = $(shell CC="$(CC)" tools/public-headers)
# What is not exported is reachable for the command, the tests and the benchmarks only.
INNER := $(BUILD)/libbrim-inner.a

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.PHONY: all lib cli examples tests test test-full test-sanitized test-page check check-full parity fuzz huggingface \
        tokenizers notebook lessons pictures bench bench-decode bench-attention bench-products bench-experts bench-tuning bench-ranks hosts accuracy soak valgrind demo \
        install uninstall deps clean help format stand-in cuda check-cuda gpu-tests gpu-pack \
        gpu-stand-in gpu-pytorch-stand-in mpi nccl pytorch-traces
.SECONDARY:
.DELETE_ON_ERROR:

all: lib cli examples
lib: $(BUILD)/libbrim.a $(BUILD)/libbrim.so
cli: $(BUILD)/brim
examples: $(EXAMPLES)
# A test runs the soak for some seconds.
tests: $(TESTS) $(BUILD)/bench/soak

# Once a build folder: what is missing is named, instead of a header that is not found.
$(BUILD)/.deps:
	@CC="$(CC)" tools/deps --check build
	@mkdir -p $(@D)
	@touch $@

$(BUILD)/kernels/cpu_%.o: kernels/cpu.c $(KERNEL_PARTS) | $(BUILD)/.deps
	@mkdir -p $(@D)
	$(call say,CC,"$< ($*)")
	$(Q)$(CC) $(ALL_CFLAGS) $(ISA_$*) -DKERNEL_ISA=$* -MMD -MP -c $< -o $@

$(BUILD)/%.o: %.c | $(BUILD)/.deps
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

# Text as a list of bytes that C can include; the page's script is its parts, one after the other.
$(BUILD)/report/page/page.%.inc: report/page/page.%
	@mkdir -p $(@D)
	$(Q)cat $^ | od -An -v -tu1 | sed 's/  */,/g; s/^,//; s/$$/,/' >$@
$(BUILD)/report/page/page.js.inc: $(PAGE_JS)
$(BUILD)/report/page/page.pytorch.inc: report/page/base.js report/page/pytorch.js
$(BUILD)/report/page/page.js.inc $(BUILD)/report/page/page.pytorch.inc:
	@mkdir -p $(@D)
	$(Q)cat $^ | od -An -v -tu1 | sed 's/  */,/g; s/^,//; s/$$/,/' >$@

# What `brim help words` prints.
$(BUILD)/cli/glossary.inc: docs/glossary.md
	@mkdir -p $(@D)
	$(Q)od -An -v -tu1 <$< | sed 's/  */,/g; s/^,//; s/$$/,/' >$@
$(BUILD)/cli/help.o: $(BUILD)/cli/glossary.inc
$(BUILD)/cli/help.o: ALL_CFLAGS += -I$(BUILD)

# The kernels for cards: PTX that is in the tree, whatever compilers are here; it takes nvcc minutes to make code for every
# card, so that is asked for: CUDA=fat. CUDA=no leaves them out. `make cuda` writes the PTX again (tools/cuda).
CUDA ?= ptx
CUDA_FAT := $(BUILD)/kernels/cuda/kernels.fat.gz
CUDA_SOURCES := $(wildcard kernels/cuda/*.cu kernels/cuda/*.h)
IMAGE_no  := -DCUDA_NONE
IMAGE_fat := -DCUDA_FAT='"$(CUDA_FAT)"'
$(BUILD)/kernels/cuda/image.o: $(if $(filter no,$(CUDA)),,kernels/cuda/kernels.ptx.gz) $(BUILD)/kernels/cuda/.$(CUDA)
$(BUILD)/kernels/cuda/image.o: ALL_CFLAGS += $(IMAGE_$(CUDA))
$(BUILD)/kernels/cuda/.ptx $(BUILD)/kernels/cuda/.no:
	@mkdir -p $(@D)
	@rm -f $(@D)/.ptx $(@D)/.no $(@D)/.fat
	@touch $@
$(BUILD)/kernels/cuda/.fat: $(CUDA_FAT)
	@rm -f $(@D)/.ptx $(@D)/.no
	@touch $@
$(CUDA_FAT): $(CUDA_SOURCES) tools/cuda
	@mkdir -p $(@D)
	$(call say,NVCC,$@)
	$(Q)CC="$(CC)" NVCC="$(NVCC)" tools/cuda fat $@
cuda:
	@CC="$(CC)" NVCC="$(NVCC)" tools/cuda ptx
# What nvcc has to say: no spills on any card.
check-cuda:
	@CC="$(CC)" NVCC="$(NVCC)" tools/cuda compile

$(BUILD)/report/page.o: $(PAGE_INC)
$(BUILD)/report/page.o: ALL_CFLAGS += -I$(BUILD)

$(INNER): $(LIB_OBJ)
	@rm -f $@
	$(Q)ar rcs $@ $^

# Only BRIM_API symbols are visible, in the static library too.
$(BUILD)/libbrim.a: $(LIB_OBJ)
	$(call say,AR,$@)
	@rm -f $@
	$(Q)ld -r -o $(BUILD)/brim-whole.o $^
	$(Q)objcopy --localize-hidden $(BUILD)/brim-whole.o
	$(Q)ar rcs $@ $(BUILD)/brim-whole.o

$(BUILD)/libbrim.so: $(LIB_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -shared -Wl,-z,nodelete -Wl,-soname,libbrim.so.$(SOVERSION) -o $@ $^ $(LIBS)

$(BUILD)/brim: $(CLI_OBJ) $(INNER)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/examples/%: $(BUILD)/examples/%.o $(BUILD)/libbrim.a
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# tests/count.c counts the allocations that are made to fail.
$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(SUPPORT) $(INNER)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -Wl,--wrap=brim_memtrack_fail_nth -o $@ $^ $(LIBS) -lcmocka

# Have nothing of the library, so that sanitizers build it in seconds.
$(BUILD)/tests/test_stand_in $(BUILD)/tests/test_stand_in_driver: $(BUILD)/tests/%: $(BUILD)/tests/%.o
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ -ldl -lcmocka

$(BUILD)/tests/huggingface/%: $(BUILD)/tests/huggingface/%.o $(INNER)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# Of tests/gpu/run.
$(BUILD)/tests/gpu/%: $(BUILD)/tests/gpu/%.o $(INNER)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# What tests/gpu/run runs, and all of it in one folder to be carried to a machine with a card; docs/gpu.md.
CARD_TESTS = $(addprefix $(BUILD)/tests/,$(shell tests/gpu/programs))
gpu-tests: cli $(CARD_TESTS) $(BUILD)/tests/gpu/probe $(BUILD)/tests/gpu/logs
	@MPI_OPTIONAL=1 tools/mpi $(BUILD)
	@CC="$(CC)" NCCL_OPTIONAL=1 tools/nccl $(BUILD)
gpu-pack: gpu-tests
	@tests/gpu/pack $(BUILD) $(BUILD)/gpu-pack
# The same on the stand-in; ARGS="--only kernels,losses".
gpu-stand-in: gpu-tests stand-in
	@BUILD=$(BUILD) tests/gpu/run --stand-in $(STAND_IN) $(ARGS)

# The check of what PyTorch would need, with PyTorch on a stand-in for the CUDA runtime.
gpu-pytorch-stand-in: cli
	@BUILD=$(BUILD) tests/pytorch/run $(BUILD) --script tests/gpu/pytorch --stand-in $(ARGS)

# Linked by clang alone: tests/fuzz/run.
$(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(filter-out %/main.o,$(CLI_OBJ)) $(INNER)
	$(call say,LD,$@)
	$(Q)$(CC) -fsanitize=fuzzer $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/bench/%: $(BUILD)/bench/%.o $(INNER)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# A made-up card and cuBLAS for the tests: the kernels of kernels/cuda as plain C, whose threads are fibers. What moves
# stacks has no sanitizer; shared memory lies in sections of its own.
STAND_IN := $(BUILD)/stand-in
STAND_IN_FLAGS = -std=gnu11 -D_GNU_SOURCE -O2 -g -fPIC -fvisibility=hidden -fno-math-errno -I. -Wall -Wextra
STAND_IN_SAN = $(if $(SAN),-fno-omit-frame-pointer $(LDSAN) -fno-sanitize-recover=all) \
    $(if $(findstring address,$(SAN)),-fsanitize-sections=simt_shared*)
STAND_IN_KNOWS = $(if $(findstring address,$(SAN)),-DSIMT_ASAN) $(if $(findstring thread,$(SAN)),-DSIMT_TSAN)
CARD_OBJ := $(patsubst kernels/cuda/%.cu,$(STAND_IN)/kernels/%.o,$(filter-out %_.cu,$(wildcard kernels/cuda/*.cu)))
DRIVER_OBJ := $(addprefix $(STAND_IN)/,driver.o memory.o queue.o launch.o trap.o simt.o warp.o tiles.o)
$(CARD_OBJ): $(STAND_IN)/kernels/%.o: kernels/cuda/%.cu | $(BUILD)/.deps
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) -x c $(STAND_IN_FLAGS) $(STAND_IN_SAN) -DSTAND_IN_FILE=$* -MMD -MP -c $< -o $@
$(STAND_IN)/simt.o $(STAND_IN)/warp.o: STAND_IN_SAN = $(STAND_IN_KNOWS)
$(STAND_IN)/%.o: tests/stand-in/%.c | $(BUILD)/.deps
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(STAND_IN_FLAGS) $(STAND_IN_SAN) -DSTAND_IN_FILE=$* -MMD -MP -c $< -o $@
$(STAND_IN)/libcuda.so.1: $(DRIVER_OBJ) $(CARD_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDSAN) -shared -Wl,-soname,libcuda.so.1 -o $@ $^ -lm -ldl
$(STAND_IN)/libcublas.so.13: $(STAND_IN)/cublas.o
	$(call say,LD,$@)
	$(Q)$(CC) $(LDSAN) -shared -Wl,-soname,libcublas.so.13 -o $@ $^ -ldl
$(STAND_IN)/libnccl.so.2: $(STAND_IN)/nccl.o
	$(call say,LD,$@)
	$(Q)$(CC) $(LDSAN) -shared -Wl,-soname,libnccl.so.2 -o $@ $^ -ldl -pthread
$(STAND_IN)/libnvidia-ml.so.1: $(STAND_IN)/nvml.o
	$(call say,LD,$@)
	$(Q)$(CC) $(LDSAN) -shared -Wl,-soname,libnvidia-ml.so.1 -o $@ $^ -ldl
# Kernels with faults, which tests/test_stand_in.c looks for.
$(STAND_IN)/planted.o: tests/stand-in/planted.cu | $(BUILD)/.deps
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) -x c $(STAND_IN_FLAGS) $(STAND_IN_SAN) -DSTAND_IN_FILE=planted -MMD -MP -c $< -o $@
$(STAND_IN)/libcuda-planted.so: $(DRIVER_OBJ) $(STAND_IN)/planted.o
	$(call say,LD,$@)
	$(Q)$(CC) $(LDSAN) -shared -Wl,-soname,libcuda.so.1 -o $@ $^ -lm -ldl
stand-in: $(addprefix $(STAND_IN)/,libcuda.so.1 libcublas.so.13 libnvidia-ml.so.1 libnccl.so.2 libcuda-planted.so)
$(TESTS): | stand-in

# A plugin that is no MPI.
$(BUILD)/tests/fake-plugin.so: tests/ranks/fake_plugin.c ranks/transport.h
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(BASE) $(OPT) $(LDSAN) -shared -o $@ $<
$(BUILD)/tests/test_ranks_join: | $(BUILD)/tests/fake-plugin.so

# What several ranks reach each other by, with each MPI that is here; nothing else needs MPI.
mpi:
	@tools/mpi $(BUILD)
# The same for ranks on cards of their own, with NCCL's header.
nccl:
	@CC="$(CC)" tools/nccl $(BUILD)

# ---- Running --------------------------------------------------------------------------------------------------------
deps:
	@CC="$(CC)" tools/deps build run

# About a minute: installs what is missing, builds, trains a tiny LLaMA on the built-in corpus, compares levers.
demo: deps
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@$(BUILD)/brim demo

# TEST="name …" runs some: make test TEST=test_memtrack
WANTED = $(if $(TEST),$(TEST:%=$(BUILD)/tests/%),$(TESTS))
test:
	@CC="$(CC)" tools/deps build run test
	@$(MAKE) --no-print-directory -j$$(nproc) all $(if $(TEST),$(WANTED) $(BUILD)/bench/soak,tests)
	@MPI_OPTIONAL=1 tools/mpi $(BUILD)
	@CC="$(CC)" NCCL_OPTIONAL=1 tools/nccl $(BUILD)
	@BRIM_COMMAND=$(BUILD)/brim BRIM_STAND_IN=$(STAND_IN) tools/run-tests $(WANTED)

# The slow forms of tests that have one.
test-full:
	@BRIM_FULL=1 $(MAKE) --no-print-directory test

# What CI runs under the address and undefined-behaviour sanitizers: all but what looks at a terminal, at tables, at
# many plans or at many trainings on a made-up card, whose code others run. make check-full runs all.
UNSANITIZED := $(addprefix test_,terminal search properties locale cli_levers cli_advice cli_fit cli_options \
    cli_adapters cli_finetune cli_precision_runs cli_resume cli_train cli_ways precision_training cuda_cli cuda_lost \
    cuda_plans cuda_train cli_ranks cli_ranks_runs cli_fit_cards cli_pytorch_fit ranks_mpi)
test-sanitized:
	@$(MAKE) --no-print-directory test SAN=address,undefined \
	    TEST="$(filter-out $(UNSANITIZED),$(notdir $(TESTS)))"

# Before an issue is closed: the long forms, and what CI leaves out. Goes on after a failure; closes with a table of
# stages. ARGS="soak valgrind" runs those whose name has one of the words.
check-full:
	@tools/check-full $(ARGS)

# The report page in headless Chromium, where there is one. KEEP=folder keeps pages and pictures to be looked at.
test-page: cli stand-in
	@sh tests/html_headless.sh $(BUILD) $(KEEP)

check: all
	@CC="$(CC)" tools/check $(BUILD)
	@sh tests/test_install.sh $(BUILD)
	@sh tests/test_docs.sh $(BUILD)
	@! command -v python3 >/dev/null || BUILD=$(BUILD) tools/draw-step --check

# Computes the fixtures again with PyTorch, compares them with those in the tree, and brim with both.
parity: $(filter $(BUILD)/tests/test_parity%,$(TESTS))
	@sh tests/parity/run $(BUILD) $^

# Writes what the commands in docs/lessons print into the pages; a test compares them (tests/test_lessons.c).
lessons: cli examples
	@BUILD=$(BUILD) tools/lessons

# The pictures in them, drawn by the report page in headless Chromium.
pictures: cli
	@BUILD=$(BUILD) tools/pictures

# Against transformers itself: logits, gradients, checkpoints both ways, a published model, and texts written token by token.
huggingface: $(BUILD)/tests/huggingface/driver $(BUILD)/tests/huggingface/writer $(BUILD)/brim
	@sh tests/huggingface/run $(BUILD)

# The moves of PyTorch's allocator recorded again without a card, and compared with the fixtures: tests/pytorch/README.md.
pytorch-traces:
	@sh tests/pytorch/run $(BUILD) $(ARGS)

# What docs/notebook.md shows, run with pandas.
notebook: cli
	@sh tests/notebook/run $(BUILD)

# Every tokenizer against the Python package. ARGS="--part 20" takes a twentieth of the corpus; ARGS=--speed measures.
tokenizers: $(BUILD)/libbrim.so
	@tests/tokenizers/run $(BUILD) $(ARGS)

# Each parser with clang's libFuzzer and sanitizers, in build-fuzz: TARGET="cli idx" for some, SECONDS for each, JOBS at a
# time; COVERAGE=1 counts the lines that what was found reaches.
fuzz:
	@MAKE="$(MAKE)" JOBS="$(JOBS)" COVERAGE="$(COVERAGE)" tests/fuzz/run $(or $(SECONDS),60) $(TARGET)

# ARGS="--quick bench-mlp" narrows it; PyTorch's columns are left out where there is no Python environment.
bench: $(BENCHES)
	@$(BUILD)/bench/bench $$(tools/python-env --for bench | sed 's/^/--python /' | grep . || echo --no-torch) $(ARGS)

# Runs with everything on that look at themselves; docs/reliability.md. ARGS="--only images"
soak: $(BUILD)/bench/soak
	@$(BUILD)/bench/soak --minutes $(or $(MINUTES),60) $(ARGS)

# memcheck on programs that read files and books of their own. TEST="test_resume test_generate" for others.
VALGRIND := valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,indirect \
            --errors-for-leak-kinds=definite,indirect
UNDER_VALGRIND := $(or $(TEST),$(addprefix test_,memtrack memtrack_log data safetensors safetensors_damage weights))
valgrind: cli $(UNDER_VALGRIND:%=$(BUILD)/tests/%)
	@CC="$(CC)" tools/deps valgrind
	@BRIM_COMMAND=$(BUILD)/brim TEST_UNDER="$(VALGRIND)" tools/run-tests $(UNDER_VALGRIND:%=$(BUILD)/tests/%)

# Writing token by token. ARGS="--cache 1000 gpt2 llama-3.2-1b"
bench-decode: $(BUILD)/bench/decode
	@$(BUILD)/bench/decode $$(tools/python-env --for bench-decode | sed 's/^/--python /' | grep . || echo --no-torch) $(ARGS)

# Attention with and without a window, beside PyTorch's. ARGS="--tokens 2048 --window 128"
bench-attention: $(BUILD)/bench/attention
	@$(BUILD)/bench/attention $$(tools/python-env --for bench-attention | sed 's/^/--python /' | grep . || echo --no-torch) $(ARGS)

# Products with weights of every type, against fp32 weights, the BLAS library and the machine's limits.
bench-products: $(BUILD)/bench/products
	@$(BUILD)/bench/products $(ARGS)

bench-experts: $(BUILD)/bench/experts
	@$(BUILD)/bench/experts $$(tools/python-env --for bench-experts | sed 's/^/--python /' | grep . || echo --no-torch) $(ARGS)

# Adapter training on bases of every type, and beside PEFT. ARGS="--quick llama-tiny"
bench-tuning: $(BUILD)/bench/tuning
	@$(BUILD)/bench/tuning $$(tools/python-env --for bench-tuning | sed 's/^/--python /' | grep . || echo --no-torch) $(ARGS)

# Ranks on two hosts, which are network namespaces of this machine.
hosts: cli
	@CC="$(CC)" tools/deps mpi
	@$(MAKE) --no-print-directory mpi
	@tests/hosts/run $(BUILD)

# Ranks over MPI beside one process. ARGS="--rounds 3 gpt2-tiny"
bench-ranks: $(BUILD)/bench/ranks
	@CC="$(CC)" tools/deps mpi
	@$(MAKE) --no-print-directory mpi
	@$(BUILD)/bench/ranks $(ARGS)

# The tables of docs/accuracy.md. ARGS="mlp gpt2" for some models.
accuracy: cli
	@MPI_OPTIONAL=1 CC="$(CC)" tools/mpi $(BUILD)
	@python=$$(tools/python-env --for accuracy) || exit 0; "$$python" bench/accuracy.py --brim $(BUILD)/brim $(ARGS)

-include tools/install.mk

format:
	clang-format -i $(filter-out %_names.h,$(wildcard $(foreach f,$(FOLDERS) kernels cli examples,$(f)/*.c $(f)/*.h)))

clean:
	rm -rf build build-*

help:
	@echo "make            libraries, command and examples, in $(BUILD)/"
	@echo "make demo       install what is missing, build, train a tiny LLaMA, show where its memory is"
	@echo "make test       every test; TEST=\"test_cli test_nn\" for some"
	@echo "make test-full  the slow forms too;  make test-sanitized  what CI runs under sanitizers"
	@echo "make test-page  the report page in headless Chromium; KEEP=folder keeps its pictures"
	@echo "make check      house rules, exported symbols, installation"
	@echo "make cuda       the kernels for CUDA cards compiled again (nvcc), for the tree;  make check-cuda  for every card: no spills"
	@echo "make check-full all long forms, one after the other, and a table of them; ARGS=\"soak valgrind\" for some"
	@echo "make parity     the fixtures computed again with PyTorch, and compared"
	@echo "make lessons    the figures in docs/lessons, measured again"
	@echo "make pictures   the pictures in docs/lessons, drawn again (headless Chromium)"
	@echo "make huggingface  checkpoints in and out, logits, gradients, written texts, against transformers itself"
	@echo "make pytorch-traces  what PyTorch's allocator does, recorded without a card; ARGS=\"--only llama --jobs 2\""
	@echo "make notebook   what docs/notebook.md shows, run with pandas"
	@echo "make tokenizers every tokenizer against the Python package; ARGS=--speed"
	@echo "make fuzz       each parser fuzzed with clang's libFuzzer; SECONDS=60 each, TARGET=\"cli idx\" for some, JOBS=2"
	@echo "make bench      against the products alone, the machine's limit, and PyTorch; and bf16-mixed; ARGS=--quick"
	@echo "make valgrind   tests under memcheck; TEST=\"test_resume test_nn\" for others"
	@echo "make soak       runs that look at themselves for memory and speed that drift; MINUTES=60"
	@echo "make bench-decode  tokens a second, against the machine's reading rate and PyTorch; ARGS=\"--threads 1 gpt2\""
	@echo "make bench-attention  attention with and without a window, beside PyTorch's; ARGS=\"--quick\""
	@echo "make bench-products  products with 16-bit, int8 and NF4 weights, against fp32 and BLAS; ARGS=\"--threads 1\""
	@echo "make bench-experts  a layer of experts against its products alone, and PyTorch; ARGS=\"--threads 1\""
	@echo "make bench-tuning  LoRA steps on fp32, bf16, int8 and NF4 bases, also in bf16, and PEFT's; ARGS=\"--quick\""
	@echo "make hosts      ranks on two hosts, made of network namespaces: the same weights, and one host cut off"
	@echo "make bench-ranks  two ranks over MPI beside one process: ddp, its exchange alone, zero3; ARGS=\"--rounds 3\""
	@echo "make accuracy   the tables of docs/accuracy.md: other estimators, PyTorch, brim"
	@echo "make gpu-pack   one folder to be carried to a machine with a card, and run there: docs/gpu.md"
	@echo "make mpi        the plugins for several ranks, with each mpicc that is here: docs/ranks.md"
	@echo "make nccl       the plugin for ranks on cards of their own, where NCCL's header is: docs/ranks.md"
	@echo "make install    PREFIX=/usr/local DESTDIR=; make uninstall with the same takes it away"
	@echo "make clean      remove build folders;  make format  clang-format;  make deps  only install"
	@echo "CUDA=fat builds code for every card into the library (nvcc, minutes); CUDA=no leaves the kernels for cards out"
	@echo "With any: DEBUG=1 (unoptimised), SAN=address,undefined or SAN=thread, V=1 (shows commands),"
	@echo "          CC=clang BUILD=build-clang"

%.d: ;
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
