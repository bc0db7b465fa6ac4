irq.o: devices/irq.h
