mc146818.o: devices/mc146818.h devices/bus.h devices/clock.h \
 devices/irq.h
devices/bus.h:
devices/clock.h:
devices/irq.h:
