listing.o: decoder/listing.h decoder/insn.h
decoder/insn.h:
