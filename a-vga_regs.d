vga_regs.o: devices/vga_regs.h
