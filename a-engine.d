engine.o: cpu/engine.h cpu/cpu.h decoder/insn.h shadowmmu/mmu.h \
 shadowmmu/memory.h shadowmmu/gpa.h cpu/cpuid.h
cpu/cpu.h:
decoder/insn.h:
shadowmmu/mmu.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
cpu/cpuid.h:
