vga.o: devices/vga.h devices/bus.h devices/clock.h devices/display.h \
 devices/vga_regs.h shadowmmu/memory.h shadowmmu/gpa.h
devices/bus.h:
devices/clock.h:
devices/display.h:
devices/vga_regs.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
