i82077.o: devices/i82077.h devices/block.h devices/loop.h devices/clock.h \
 devices/bus.h devices/i8237.h shadowmmu/memory.h shadowmmu/gpa.h \
 devices/irq.h
devices/block.h:
devices/loop.h:
devices/clock.h:
devices/bus.h:
devices/i8237.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
devices/irq.h:
