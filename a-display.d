display.o: devices/display.h
