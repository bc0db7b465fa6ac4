tables.o: decoder/tables.h decoder/insn.h
decoder/insn.h:
