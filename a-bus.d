bus.o: devices/bus.h
