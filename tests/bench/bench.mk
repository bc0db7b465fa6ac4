# SPDX-License-Identifier: MIT
# Builds the program that `ringfold bench` runs natively and in its Linux guest: no library, the same source for both.
BENCH_CFLAGS = -std=gnu17 -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -ffreestanding -nostdlib -fno-pic -fno-pie \
	-no-pie -static -fno-stack-protector -fno-strict-aliasing -fcf-protection=none -fno-asynchronous-unwind-tables \
	-fno-tree-loop-distribute-patterns -Wl,--build-id=none -Wl,-z,noexecstack
BENCH_ARCH_32 = -m32 -march=i686
BENCH_ARCH_64 = -m64 -march=x86-64

$(BUILD)/guests/bench-%: $(wildcard tests/bench/*.c tests/bench/*.h) tests/bench/bench.mk
	@mkdir -p $(@D)
	$(GUEST_CC) $(BENCH_ARCH_$*) $(BENCH_CFLAGS) -o $@ $(filter %.c,$^)

bench-material: deps $(BUILD)/guests/bench-32 $(BUILD)/guests/nano.elf
	@tests/bench/prepare $(BUILD) 32
bench-material-64: deps $(BUILD)/guests/bench-64 $(BUILD)/guests/nano64.elf
	@tests/bench/prepare $(BUILD) 64

.PHONY: bench-material bench-material-64
