i8237.o: devices/i8237.h devices/bus.h shadowmmu/memory.h shadowmmu/gpa.h
devices/bus.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
