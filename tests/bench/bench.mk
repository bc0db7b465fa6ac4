# SPDX-License-Identifier: MIT
# Builds the program that `ringfold bench` runs natively and in its Linux guest: no library, the same source for both.
BENCH_CFLAGS = -std=gnu17 -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -ffreestanding -fno-pic -fno-pie \
	-fno-stack-protector -fno-strict-aliasing -fcf-protection=none -fno-asynchronous-unwind-tables \
	-fno-tree-loop-distribute-patterns
BENCH_LDFLAGS = -nostdlib -no-pie -static -Wl,--build-id=none -Wl,-z,noexecstack
BENCH_ARCH_32 = -m32 -march=i686
BENCH_ARCH_64 = -m64 -march=x86-64
# The vector items are one file, for each of these instruction sets.
BENCH_VECTOR = -O3 -mtune=generic -fno-math-errno -mfpmath=sse
BENCH_VECTOR_sse2 = $(BENCH_VECTOR) -msse2
BENCH_VECTOR_avx2 = $(BENCH_VECTOR) -mavx2 -mfma

$(BUILD)/guests/bench-%: $(filter-out tests/bench/vector.c,$(wildcard tests/bench/*.c)) $(wildcard tests/bench/*.h) \
		$(BUILD)/guests/vector-%-sse2.o $(BUILD)/guests/vector-%-avx2.o tests/bench/bench.mk
	@mkdir -p $(@D)
	$(GUEST_CC) $(BENCH_ARCH_$*) $(BENCH_CFLAGS) $(BENCH_LDFLAGS) -o $@ $(filter %.c %.o,$^)
define BENCH_VECTOR_RULE
$(BUILD)/guests/vector-%-$(1).o: tests/bench/vector.c $(wildcard tests/bench/*.h) tests/bench/bench.mk
	@mkdir -p $$(@D)
	$(GUEST_CC) $$(BENCH_ARCH_$$*) $(BENCH_CFLAGS) $(BENCH_VECTOR_$(1)) -c -o $$@ $$<
endef
$(eval $(call BENCH_VECTOR_RULE,sse2))
$(eval $(call BENCH_VECTOR_RULE,avx2))

bench-material: deps $(BUILD)/guests/bench-32 $(BUILD)/guests/nano.elf
	@tests/bench/prepare $(BUILD) 32
bench-material-64: deps $(BUILD)/guests/bench-64 $(BUILD)/guests/nano64.elf
	@tests/bench/prepare $(BUILD) 64

.PHONY: bench-material bench-material-64
