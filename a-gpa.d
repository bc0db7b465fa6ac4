gpa.o: shadowmmu/gpa.h
