# SPDX-License-Identifier: MIT
# ringfold. The two commands a newcomer needs: `make run` and `make check`. `make help` lists the rest.

MODE ?= release
BUILD ?= build$(if $(filter-out release,$(MODE)),-$(MODE))
CC ?= gcc
PREFIX ?= /usr/local
PYTHON ?= python3

WARN = -Wall -Wextra -Werror -Wno-unused-parameter -Wstrict-prototypes -Wmissing-prototypes
CPPFLAGS_ALL = -I. -D_GNU_SOURCE $(CPPFLAGS)
OPT_release = -O2 -g
OPT_debug = -O1 -g -DRINGFOLD_DEBUG
OPT_asan = -O1 -g -fsanitize=address -fno-omit-frame-pointer -DRINGFOLD_SANITIZE -DRINGFOLD_DEBUG
OPT_ubsan = -O1 -g -fsanitize=undefined -fno-sanitize-recover=undefined -DRINGFOLD_SANITIZE -DRINGFOLD_DEBUG
OPT_tsan = -O1 -g -fsanitize=thread -DRINGFOLD_SANITIZE -DRINGFOLD_DEBUG
CFLAGS_ALL = -std=gnu17 $(WARN) $(OPT_$(MODE)) -fno-strict-aliasing -pthread -MMD -MP $(CFLAGS)
LDFLAGS_ALL = $(OPT_$(MODE)) -pthread $(LDFLAGS)
LIBS = -lZydis -lcapstone -lpng -lcjson -lz -lm

# Called from translated code while the guest's vector state is live in the host's registers.
GENERAL_REGS_DIRS = bt cpu shadowmmu
GENERAL_REGS = -mgeneral-regs-only

DIRS = bt decoder cpu shadowmmu devices hw-assist frontend
SRC = $(foreach d,$(DIRS),$(wildcard $(d)/*.c))
SRC_S = $(foreach d,$(DIRS),$(wildcard $(d)/*.S))
LIB_OBJ = $(patsubst %.c,$(BUILD)/%.o,$(filter-out frontend/main.c,$(SRC))) $(patsubst %.S,$(BUILD)/%.o,$(SRC_S))
TEST_OBJ = $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/*.c))

all: $(BUILD)/ringfold

$(BUILD)/ringfold: $(BUILD)/frontend/main.o $(LIB_OBJ)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

$(BUILD)/tests/unit: $(TEST_OBJ) $(LIB_OBJ)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcunit $(LIBS)

$(foreach d,$(GENERAL_REGS_DIRS),$(BUILD)/$(d)/%.o): CFLAGS_ALL += $(GENERAL_REGS)

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
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -x c -fsyntax-only $< && touch $@

unit: $(BUILD)/tests/unit
	$(BUILD)/tests/unit

clean:
	rm -rf build build-*

-include $(LIB_OBJ:.o=.d) $(TEST_OBJ:.o=.d) $(BUILD)/frontend/main.d

.PHONY: all unit headers clean
