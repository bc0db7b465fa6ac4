piix4.o: devices/piix4.h devices/clock.h devices/pci.h devices/bus.h \
 devices/irq.h shadowmmu/memory.h shadowmmu/gpa.h
devices/clock.h:
devices/pci.h:
devices/bus.h:
devices/irq.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
