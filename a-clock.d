clock.o: devices/clock.h
