log.o: devices/log.h
