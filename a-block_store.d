block_store.o: devices/block_store.h
