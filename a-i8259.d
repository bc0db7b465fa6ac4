i8259.o: devices/i8259.h devices/bus.h devices/irq.h
devices/bus.h:
devices/irq.h:
