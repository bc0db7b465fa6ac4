test.o: tests/test.h
