fwcfg.o: devices/fwcfg.h devices/bus.h shadowmmu/memory.h shadowmmu/gpa.h
devices/bus.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
