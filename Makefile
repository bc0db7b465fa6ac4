# SPDX-License-Identifier: MIT
# ringfold. The two commands a newcomer needs: `make run` and `make check`. `make help` lists the rest.

MODE ?= release
BUILD ?= build$(if $(filter-out release,$(MODE)),-$(MODE))
ifeq ($(origin CC),default)
CC = gcc
endif
PREFIX ?= /usr/local
DESTDIR ?=
# Wide enough for every processor, unless -j was given.
JOBS ?= $(shell nproc)

WARN = -Wall -Wextra -Werror -Wno-unused-parameter -Wstrict-prototypes -Wmissing-prototypes
CPPFLAGS_ALL = -I. -D_GNU_SOURCE $(CPPFLAGS)
OPT_release = -O2 -g
OPT_debug = -O1 -g -DRINGFOLD_DEBUG
OPT_asan = -O1 -g -fsanitize=address -fno-omit-frame-pointer -DRINGFOLD_SANITIZE -DRINGFOLD_DEBUG
OPT_ubsan = -O1 -g -fsanitize=undefined -fno-sanitize-recover=undefined -DRINGFOLD_SANITIZE -DRINGFOLD_DEBUG
OPT_tsan = -O1 -g -fsanitize=thread -DRINGFOLD_SANITIZE -DRINGFOLD_DEBUG
CFLAGS_ALL = -std=gnu17 $(WARN) $(OPT_$(MODE)) -fno-strict-aliasing -pthread -MMD -MP $(CFLAGS)
LDFLAGS_ALL = $(OPT_$(MODE)) -pthread $(LDFLAGS)
LIBS = -lZydis -lpng -lcjson -lz -lm

# Called from translated code while the guest's vector state is live in the host's registers.
GENERAL_REGS_DIRS = bt cpu shadowmmu
GENERAL_REGS = -mgeneral-regs-only -include cpu/general_memory.h

# Called while the guest's x87 state is live (cpu_fpu_park); the compiler refuses x87 arithmetic there.
NO_X87_DIRS = devices
NO_X87 = -mno-80387

DIRS = bt decoder cpu shadowmmu devices hw-assist frontend
SRC = $(foreach d,$(DIRS),$(wildcard $(d)/*.c))
SRC_S = $(foreach d,$(DIRS),$(wildcard $(d)/*.S))
LIB_OBJ = $(patsubst %.c,$(BUILD)/%.o,$(filter-out frontend/main.c,$(SRC))) $(patsubst %.S,$(BUILD)/%.o,$(SRC_S))
TEST_OBJ = $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/*.c))

all: $(BUILD)/ringfold

$(BUILD)/ringfold: $(BUILD)/frontend/main.o $(LIB_OBJ)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

$(BUILD)/tests/unit: $(TEST_OBJ) $(LIB_OBJ)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcunit -lcapstone $(LIBS)

$(foreach d,$(GENERAL_REGS_DIRS),$(BUILD)/$(d)/%.o) $(BUILD)/decoder/cache.o: CFLAGS_ALL += $(GENERAL_REGS)
$(foreach d,$(NO_X87_DIRS),$(BUILD)/$(d)/%.o): CFLAGS_ALL += $(NO_X87)
# Moves the guest's vector state before and behind what a sanitizer may use vector registers in (bt/slow.h).
$(BUILD)/cpu/fpu.o: CFLAGS_ALL += -fno-sanitize=all

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -c -o $@ $<

$(BUILD)/%.o: %.S
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(OPT_$(MODE)) -c -o $@ $<

# Every header compiles alone.
HEADERS = $(foreach d,$(DIRS) tests,$(wildcard $(d)/*.h))
headers: $(HEADERS:%=$(BUILD)/%.ok)
$(BUILD)/%.h.ok: %.h
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(filter-out -MMD -MP,$(CFLAGS_ALL)) -x c -fsyntax-only $< && touch $@

# Run user code natively for the tests that compare with the processor. The one for 32-bit code needs no 32-bit libc;
# where it cannot be built those tests are skipped.
$(BUILD)/tests/native_helper%: tests/native_helper/helper%.c tests/native.h
	@mkdir -p $(@D)
	-gcc -m$* -nostdlib -ffreestanding -static -no-pie -fno-pie -fno-stack-protector -fno-asynchronous-unwind-tables \
	    -fcf-protection=none -mgeneral-regs-only -O2 -I. -Wall -Wextra -Wl,-Ttext-segment=0x5a000000,--build-id=none \
	    -o $@ $<

unit-programs: $(BUILD)/tests/unit $(BUILD)/tests/native_helper32 $(BUILD)/tests/native_helper64
unit: unit-programs
	$(BUILD)/tests/unit

# A long run of what `make check` runs a bounded part of: random programs against all chips, and random instructions
# compared with the processor. Under ASan unless MODE says otherwise.
FUZZ_MODE = $(if $(filter release,$(MODE)),asan,$(MODE))
FUZZ_STEPS ?= 20000000
FUZZ_CASES ?= 200000
ifndef SEED
SEED := $(shell date +%s)
endif
fuzz: deps-check
	@$(MAKE) --no-print-directory -s -j$(JOBS) MODE=$(FUZZ_MODE) BUILD=build-$(FUZZ_MODE) unit-programs
	@echo "make fuzz SEED=$(SEED) FUZZ_STEPS=$(FUZZ_STEPS) FUZZ_CASES=$(FUZZ_CASES) MODE=$(FUZZ_MODE) repeats this run"
	RINGFOLD_FUZZ_SEED=$(SEED) RINGFOLD_FUZZ_STEPS=$(FUZZ_STEPS) build-$(FUZZ_MODE)/tests/unit fuzz_devices
	RINGFOLD_DIFF_SEED=$(SEED) RINGFOLD_DIFF_COUNT=$(FUZZ_CASES) build-$(FUZZ_MODE)/tests/unit differential differential64 native

include tests/guests/guests.mk
include tests/bench/bench.mk

# What a Debian 12 host needs: to build, to run guests, to test.
DEPS_BUILD = gcc make libc6-dev libzydis-dev libcapstone-dev libpng-dev libcjson-dev libnuma-dev zlib1g-dev
DEPS_RUN = seabios cpio gzip
DEPS_CHECK = libcunit1-dev binutils mtools
deps:
	@.ci/install-deps $(DEPS_BUILD) $(DEPS_RUN)
deps-check: deps
	@.ci/install-deps $(DEPS_CHECK)

# A Linux guest on the terminal; without a terminal it runs a short script and powers off. ARGS go to ringfold.
run: deps
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(BUILD)/ringfold
	@tests/real/boot-linux $(BUILD) $(ARGS)

# Everything that is fast enough for every change. The last line is the sum over all suites.
check: deps-check
	@tests/check $(BUILD)
# As check, and every guest, memory size and sanitizer there is; takes long.
check-long: deps-check
	@tests/check $(BUILD) --long

# The table of the README. BENCH_ARGS go to ringfold bench.
bench: bench-material
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(BUILD)/ringfold
	@$(BUILD)/ringfold bench $(BENCH_ARGS)
bench-smoke: deps
	@$(MAKE) --no-print-directory -s -j$(JOBS) $(BUILD)/ringfold $(BUILD)/guests/bench-32
	@tests/real/bench-smoke $(BUILD)

install: all
	install -D -m 755 $(BUILD)/ringfold $(DESTDIR)$(PREFIX)/bin/ringfold
	install -D -m 644 README.md $(DESTDIR)$(PREFIX)/share/doc/ringfold/README.md
	install -D -m 644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/ringfold/LICENSE

clean:
	rm -rf build build-*

help:
	@echo "make run [ARGS=...]   a Linux guest on the terminal (without one: a short script in the guest)"
	@echo "make check            unit tests, bare-metal and real guests; the last line is the sum"
	@echo "make check-long       as check, with every guest, memory size and sanitizer"
	@echo "make bench            the suites of ringfold bench, native, bt and QEMU TCG (BENCH_ARGS=...)"
	@echo "make bench-smoke      CRC-32 and quicksort, native and in the guest"
	@echo "make fuzz             random programs against the chips, random instructions against the processor; long"
	@echo "make install          to DESTDIR PREFIX ($(PREFIX))"
	@echo "make all unit guests headers deps clean"
	@echo "MODE=debug|asan|ubsan|tsan builds into build-MODE; CC=clang BUILD=build-clang for another compiler"

-include $(LIB_OBJ:.o=.d) $(TEST_OBJ:.o=.d) $(BUILD)/frontend/main.d

.PHONY: all unit unit-programs guests headers deps deps-check fuzz run check check-long bench bench-smoke install clean help
.DELETE_ON_ERROR:
