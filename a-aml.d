aml.o: devices/aml.h
