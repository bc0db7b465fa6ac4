cd_sector.o: devices/cd_sector.h
