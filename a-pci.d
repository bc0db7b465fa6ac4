pci.o: devices/pci.h devices/bus.h devices/irq.h shadowmmu/memory.h \
 shadowmmu/gpa.h
devices/bus.h:
devices/irq.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
