# SPDX-License-Identifier: MIT
# Builds the bare-metal guests: every tests/guests/NAME.c becomes a multiboot ELF and every NAME.S a boot sector image.
# They need gcc's -m32 but no 32-bit C library.

# One compiler for the guests, whatever builds ringfold.
GUEST_CC ?= gcc
GUEST_CFLAGS = -m32 -march=i686 -std=gnu17 -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -ffreestanding -nostdlib \
	-nostdinc -isystem $(shell $(GUEST_CC) -print-file-name=include) -Itests/guests -fno-pic -fno-pie -no-pie -static \
	-fno-stack-protector -fno-strict-aliasing -fno-omit-frame-pointer -mgeneral-regs-only -fcf-protection=none \
	-fno-asynchronous-unwind-tables -MMD -MP
GUEST_LIB = $(patsubst tests/guests/lib/%,$(BUILD)/guests/lib/%.o,$(wildcard tests/guests/lib/*.[cS])) \
	$(BUILD)/guests/common/common32.o
GUEST_ELF = $(patsubst tests/guests/%.c,$(BUILD)/guests/%.elf,$(wildcard tests/guests/*.c))
GUEST64_CFLAGS = $(filter-out -m32 -march=i686,$(GUEST_CFLAGS)) -m64 -mno-red-zone
GUEST64_LIB = $(patsubst tests/guests/lib64/%,$(BUILD)/guests/lib64/%.o,$(wildcard tests/guests/lib64/*.[cS])) \
	$(BUILD)/guests/common/common64.o
GUEST64_ELF = $(patsubst tests/guests/long/%.c,$(BUILD)/guests/%.elf,$(wildcard tests/guests/long/*.c))
GUEST_IMAGE = $(patsubst tests/guests/%.S,$(BUILD)/guests/%.img,$(wildcard tests/guests/*.S))

guests: $(GUEST_ELF) $(GUEST64_ELF) $(GUEST_IMAGE)

$(BUILD)/guests/lib/%.c.o: tests/guests/lib/%.c
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<
$(BUILD)/guests/lib/%.S.o: tests/guests/lib/%.S
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<
$(BUILD)/guests/common/common32.o: tests/guests/common/common.c
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<
$(BUILD)/guests/common/common64.o: tests/guests/common/common.c
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST64_CFLAGS) -c -o $@ $<
$(BUILD)/guests/%.o: tests/guests/%.c
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<
$(BUILD)/guests/%.elf: $(BUILD)/guests/%.o $(GUEST_LIB) tests/guests/lib/guest.ld
	$(GUEST_CC) $(GUEST_CFLAGS) -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
		-T tests/guests/lib/guest.ld -o $@ $(GUEST_LIB) $(@:.elf=.o)

# 64-bit guests, in a 32-bit ELF as multiboot loaders want it.
$(BUILD)/guests/lib64/%.c.o: tests/guests/lib64/%.c
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST64_CFLAGS) -c -o $@ $<
$(BUILD)/guests/lib64/%.S.o: tests/guests/lib64/%.S
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST64_CFLAGS) -c -o $@ $<
$(BUILD)/guests/long/%.o: tests/guests/long/%.c
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST64_CFLAGS) -c -o $@ $<
$(GUEST64_ELF): $(BUILD)/guests/%.elf: $(BUILD)/guests/long/%.o $(GUEST64_LIB) tests/guests/lib64/guest.ld
	$(GUEST_CC) $(GUEST64_CFLAGS) -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096 \
		-Wl,--no-warn-rwx-segments -T tests/guests/lib64/guest.ld -o $@.wide $(GUEST64_LIB) $<
	objcopy -O elf32-i386 $@.wide $@

# A floppy: its first sector is the boot sector, the rest is up to the program.
$(BUILD)/guests/%.img: tests/guests/%.S
	@mkdir -p $(@D)
	$(GUEST_CC) -m32 -nostdlib -Wl,-N -Wl,-Ttext=0x7c00 -Wl,--oformat=binary -Wl,--build-id=none -static -no-pie \
		-Wl,-e,0x7c00 -o $@.part $<
	truncate -s 1474560 $@.part
	mv $@.part $@

-include $(GUEST64_LIB:.o=.d) $(patsubst tests/guests/long/%.c,$(BUILD)/guests/long/%.d,$(wildcard tests/guests/long/*.c))
-include $(GUEST_ELF:.elf=.d) $(GUEST_LIB:.o=.d)

.SECONDARY:
