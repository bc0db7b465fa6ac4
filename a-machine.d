machine.o: devices/machine.h cpu/engine.h cpu/cpu.h decoder/insn.h \
 shadowmmu/mmu.h shadowmmu/memory.h shadowmmu/gpa.h cpu/cpuid.h \
 devices/block.h devices/loop.h devices/clock.h devices/chardev.h \
 devices/display.h
cpu/engine.h:
cpu/cpu.h:
decoder/insn.h:
shadowmmu/mmu.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
cpu/cpuid.h:
devices/block.h:
devices/loop.h:
devices/clock.h:
devices/chardev.h:
devices/display.h:
