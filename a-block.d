block.o: devices/block.h devices/loop.h devices/clock.h
devices/loop.h:
devices/clock.h:
