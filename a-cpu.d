cpu.o: cpu/cpu.h decoder/insn.h shadowmmu/mmu.h shadowmmu/memory.h \
 shadowmmu/gpa.h
decoder/insn.h:
shadowmmu/mmu.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
