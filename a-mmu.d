mmu.o: shadowmmu/mmu.h shadowmmu/memory.h shadowmmu/gpa.h
shadowmmu/memory.h:
shadowmmu/gpa.h:
