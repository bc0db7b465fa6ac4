insn.o: decoder/insn.h
