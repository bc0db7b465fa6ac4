chardev.o: devices/chardev.h
