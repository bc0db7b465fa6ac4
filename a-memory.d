memory.o: shadowmmu/memory.h shadowmmu/gpa.h
shadowmmu/gpa.h:
