cpuid.o: cpu/cpuid.h
