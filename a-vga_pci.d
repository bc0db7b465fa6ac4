vga_pci.o: devices/vga_pci.h devices/pci.h devices/bus.h devices/irq.h \
 shadowmmu/memory.h shadowmmu/gpa.h devices/vga.h devices/clock.h \
 devices/display.h devices/vga_regs.h
devices/pci.h:
devices/bus.h:
devices/irq.h:
shadowmmu/memory.h:
shadowmmu/gpa.h:
devices/vga.h:
devices/clock.h:
devices/display.h:
devices/vga_regs.h:
