i8254.o: devices/i8254.h devices/bus.h devices/clock.h devices/irq.h
devices/bus.h:
devices/clock.h:
devices/irq.h:
