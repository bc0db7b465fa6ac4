walk.o: shadowmmu/walk.h shadowmmu/mmu.h shadowmmu/memory.h \
 shadowmmu/gpa.h
shadowmmu/mmu.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
