loop.o: devices/loop.h devices/clock.h
devices/clock.h:
