ata.o: devices/ata.h devices/block.h devices/loop.h devices/clock.h
devices/block.h:
devices/loop.h:
devices/clock.h:
