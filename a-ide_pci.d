ide_pci.o: devices/ide_pci.h devices/ide.h devices/ata.h devices/block.h \
 devices/loop.h devices/clock.h devices/bus.h devices/irq.h \
 shadowmmu/memory.h shadowmmu/gpa.h devices/pci.h
devices/ide.h:
devices/ata.h:
devices/block.h:
devices/loop.h:
devices/clock.h:
devices/bus.h:
devices/irq.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
devices/pci.h:
