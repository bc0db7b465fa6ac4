loader_internal.o: devices/loader_internal.h devices/loader.h cpu/cpu.h \
 decoder/insn.h shadowmmu/mmu.h shadowmmu/memory.h shadowmmu/gpa.h \
 devices/machine.h cpu/engine.h cpu/cpuid.h devices/block.h \
 devices/loop.h devices/clock.h devices/chardev.h devices/display.h
devices/loader.h:
cpu/cpu.h:
decoder/insn.h:
shadowmmu/mmu.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
devices/machine.h:
cpu/engine.h:
cpu/cpuid.h:
devices/block.h:
devices/loop.h:
devices/clock.h:
devices/chardev.h:
devices/display.h:
