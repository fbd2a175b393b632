# brim: make, make demo, make test. `make help` lists the rest.

VERSION := 0.1.0
BUILD   ?= build
CC      ?= gcc
PREFIX  ?= /usr/local
SAN     ?=
DEBUG   ?=

empty :=
comma := ,
ifneq ($(SAN),)
  BUILD := build-$(subst $(comma),-,$(SAN))
endif
ifneq ($(DEBUG),)
  BUILD := build-debug
endif

WARN   := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror=implicit
CFLAGS_BASE := -std=c11 -D_GNU_SOURCE -fPIC -fvisibility=hidden -fno-math-errno -fno-trapping-math -I. $(WARN)
OPT    := -O3 -g
ISAS   := base avx2 avx512
ifneq ($(DEBUG),)
  OPT  := -O0 -g3
endif
ifneq ($(SAN),)
  OPT  := -O1 -g -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=all -DBRIM_SANITIZE=1
  ISAS := base
  LDSAN := -fsanitize=$(SAN)
endif
ARCH := $(shell uname -m)
ifneq ($(ARCH),x86_64)
  ISAS := base
endif

ISA_base   :=
ISA_avx2   := -march=x86-64-v3
ISA_avx512 := -march=x86-64-v4 -mprefer-vector-width=512
DEFS := -DBRIM_VERSION=\"$(VERSION)\" $(foreach i,$(ISAS),-DBRIM_HAVE_$(i)=1)

ALL_CFLAGS := $(CFLAGS_BASE) $(OPT) -fopenmp $(DEFS) $(CFLAGS)
LIBS := -lopenblas -lz -ljansson -lm
ALL_LDFLAGS := $(LDSAN) -fopenmp $(LDFLAGS)

# kernels/cpu.c includes the kernel files and is compiled once per instruction set.
KERNEL_PARTS := $(filter-out kernels/cpu.c kernels/dispatch.c kernels/blas.c kernels/reference%.c,$(wildcard kernels/*.c))
LIB_SRC := $(filter-out $(KERNEL_PARTS) kernels/cpu.c,$(wildcard memtrack/*.c kernels/*.c tensor/*.c nn/*.c optim/*.c data/*.c plan/*.c report/*.c))
CLI_SRC := $(wildcard cli/*.c)
TESTS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
TEST_SUPPORT := $(patsubst %.c,$(BUILD)/%.o,$(filter-out tests/test_%.c,$(wildcard tests/*.c)))
EXAMPLES := $(patsubst examples/%.c,$(BUILD)/examples/%,$(wildcard examples/*.c))
BENCHES  := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/*.c))

LIB_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(LIB_SRC)) $(foreach i,$(ISAS),$(BUILD)/kernels/cpu_$(i).o)
CLI_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(CLI_SRC))
# Tests and the command link the library's objects, so that they can reach what is not exported.
INNER := $(BUILD)/libbrim-inner.a

.PHONY: all lib cli examples test check parity bench demo install clean help deps format
.SECONDARY:
all: lib cli examples

lib: $(BUILD)/libbrim.a $(BUILD)/libbrim.so
cli: $(BUILD)/brim
examples: $(EXAMPLES)

$(BUILD)/kernels/cpu_%.o: kernels/cpu.c $(KERNEL_PARTS)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(ISA_$*) -DKERNEL_ISA=$* -MMD -MP -c $< -o $@

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(INNER): $(LIB_OBJ)
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(TEST_SUPPORT) $(INNER)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS) -lcmocka

$(BUILD)/bench/%: $(BUILD)/bench/%.o $(INNER)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/brim: $(CLI_OBJ) $(INNER)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

clean:
	rm -rf build build-*

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
