i440bx.o: devices/i440bx.h devices/pci.h devices/bus.h devices/irq.h \
 shadowmmu/memory.h shadowmmu/gpa.h
devices/pci.h:
devices/bus.h:
devices/irq.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
