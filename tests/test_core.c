/* SPDX-License-Identifier: MIT */
/* Bus, clock, loop, log. */
#include "devices/bus.h"
#include "devices/clock.h"
#include "devices/log.h"
#include "devices/loop.h"
#include "tests/test.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct access {
    uint64_t offset, value;
    unsigned size;
};
struct recorder {
    struct access log[32];
    unsigned count;
    uint8_t bytes[64];
};

static uint64_t recorder_read(void *opaque, uint64_t offset, unsigned size)
{
    struct recorder *r = opaque;
    r->log[r->count++ % 32] = (struct access){offset, 0, size};
    uint64_t v = 0;
    memcpy(&v, r->bytes + offset, size);
    return v;
}

static void recorder_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct recorder *r = opaque;
    r->log[r->count++ % 32] = (struct access){offset, value, size};
}

static void bus_split(void)
{
    struct bus *bus = bus_create("ports", 65536);
    struct recorder a = {.count = 0}, b = {.count = 0};
    for (int i = 0; i < 64; i++)
        a.bytes[i] = (uint8_t)i, b.bytes[i] = (uint8_t)(0x80 + i);
    struct bus_range ra = {"a", 0x100, 4, 1, 1, recorder_read, recorder_write, &a, false};
    struct bus_range rb = {"b", 0x104, 8, 4, 4, recorder_read, recorder_write, &b, false};
    struct bus_range clash = {"c", 0x103, 2, 1, 1, NULL, NULL, NULL, false};
    struct bus_range far = {"d", 0xffff, 2, 1, 1, NULL, NULL, NULL, false};
    CU_ASSERT_EQUAL(bus_add(bus, &ra), 0);
    CU_ASSERT_EQUAL(bus_add(bus, &rb), 0);
    CU_ASSERT_EQUAL(bus_add(bus, &clash), -EEXIST);
    CU_ASSERT_EQUAL(bus_add(bus, &far), -ERANGE);
    CU_ASSERT_EQUAL(bus_add(bus, &ra), -EEXIST);
    CU_ASSERT_EQUAL(bus_read(bus, 0x100, 4), 0x03020100);
    CU_ASSERT_EQUAL(a.count, 4);
    CU_ASSERT_EQUAL(bus_read(bus, 0x102, 4), 0x81800302);  /* over the end: by byte, into the neighbour */
    CU_ASSERT_EQUAL(bus_read(bus, 0xfe, 4), 0x0100ffff);   /* starts where nobody is */
    CU_ASSERT_EQUAL(bus_read(bus, 0x10a, 4), 0xffff8786);  /* ends where nobody is */
    CU_ASSERT_EQUAL(bus_read(bus, 0xffff, 4), 0xffffffff); /* runs out of the bus */
    b.count = 0;
    CU_ASSERT_EQUAL(bus_read(bus, 0x105, 1), 0x81); /* widened */
    CU_ASSERT_EQUAL(b.log[0].offset, 0);
    CU_ASSERT_EQUAL(b.log[0].size, 4);
    b.count = 0;
    bus_write(bus, 0x104, 0x5a, 1);
    CU_ASSERT_EQUAL(b.log[0].value, 0x5a);
    CU_ASSERT_EQUAL(b.log[0].size, 4);
    b.count = 0;
    bus_write(bus, 0x104, 0x1122334455667788, 8);
    CU_ASSERT_EQUAL(b.count, 2);
    CU_ASSERT_EQUAL(b.log[0].value, 0x55667788);
    CU_ASSERT_EQUAL(b.log[1].offset, 4);
    CU_ASSERT_EQUAL(b.log[1].value, 0x11223344);
    bus_remove(bus, &ra);
    CU_ASSERT_EQUAL(bus_read(bus, 0x100, 2), 0xffff);
    CU_ASSERT_PTR_NULL(bus_find(bus, 0x100));
    bus_remove(bus, &ra);
    CU_ASSERT_EQUAL(bus_add(bus, &ra), 0);
    bus_destroy(bus);
}

static void bus_sorted(void)
{
    struct bus *bus = bus_create("memory", UINT64_MAX);
    struct recorder rec = {.count = 0};
    struct bus_range r[16];
    for (int i = 0; i < 16; i++) {
        int k = (i * 7) % 16;
        r[i] = (struct bus_range){
            "r", 0xf0000000ull + (uint64_t)k * 0x1000, 0x800, 4, 1, recorder_read, recorder_write, &rec, false};
        CU_ASSERT_EQUAL(bus_add(bus, &r[i]), 0);
    }
    for (int i = 0; i < 16; i++) {
        CU_ASSERT_PTR_EQUAL(bus_find(bus, r[i].base), &r[i]);
        CU_ASSERT_PTR_EQUAL(bus_find(bus, r[i].base + 0x7ff), &r[i]);
        CU_ASSERT_PTR_NULL(bus_find(bus, r[i].base + 0x800));
        CU_ASSERT_PTR_NULL(bus_find(bus, r[i].base - 1));
    }
    struct bus_range all = {"all", 0, UINT64_MAX, 1, 1, NULL, NULL, NULL, false};
    CU_ASSERT_EQUAL(bus_add(bus, &all), -EEXIST);
    struct bus_range wrap = {"wrap", UINT64_MAX - 1, 4, 1, 1, NULL, NULL, NULL, false};
    CU_ASSERT_EQUAL(bus_add(bus, &wrap), -ERANGE);
    CU_ASSERT_EQUAL(bus_read(bus, UINT64_MAX - 1, 8), UINT64_MAX);
    bus_write(bus, UINT64_MAX, 0, 8);
    bus_remove(bus, &r[3]);
    CU_ASSERT_PTR_NULL(bus_find(bus, r[3].base));
    bus_destroy(bus);
}

struct ticker {
    struct timer timer;
    struct clock *clock;
    uint64_t at[16];
    unsigned count;
    uint64_t period;
    struct timer *victim;
};

static void tick(void *opaque)
{
    struct ticker *t = opaque;
    t->at[t->count++ % 16] = clock_now(t->clock);
    if (t->victim)
        timer_cancel(t->victim);
    if (t->period)
        timer_arm(&t->timer, t->at[(t->count - 1) % 16] + t->period);
}

static void clock_timers(void)
{
    struct clock *c = clock_create(true);
    struct ticker a = {.clock = c, .period = 100}, b = {.clock = c};
    timer_init(&a.timer, c, tick, &a);
    timer_init(&b.timer, c, tick, &b);
    CU_ASSERT_EQUAL(clock_next_deadline(c), CLOCK_NEVER);
    timer_arm(&a.timer, 100);
    timer_arm(&b.timer, 250);
    CU_ASSERT_EQUAL(clock_next_deadline(c), 100);
    clock_advance(c, 350);
    CU_ASSERT_EQUAL(a.count, 3);
    CU_ASSERT_EQUAL(a.at[2], 300);
    CU_ASSERT_EQUAL(b.at[0], 250);
    CU_ASSERT_FALSE(timer_armed(&b.timer));
    CU_ASSERT_EQUAL(clock_now(c), 350);
    clock_stop(c);
    clock_advance(c, 1000);
    CU_ASSERT_EQUAL(clock_now(c), 350);
    CU_ASSERT_EQUAL(clock_next_deadline(c), CLOCK_NEVER);
    clock_continue(c);
    /* One timer cancels another that is due in the same run. */
    a.period = 0;
    a.victim = &b.timer;
    timer_arm(&a.timer, 400);
    timer_arm(&b.timer, 400);
    clock_advance(c, 100);
    CU_ASSERT_EQUAL(b.count, 1);
    CU_ASSERT_FALSE(timer_armed(&b.timer));
    /* A past deadline fires at the next run. */
    timer_arm(&b.timer, 5);
    clock_run(c);
    CU_ASSERT_EQUAL(b.count, 2);
    CU_ASSERT_EQUAL(clock_wall_ns(c), CLOCK_MANUAL_START * NS_PER_SEC + 450);
    clock_destroy(c);
}

static void clock_ticks(void)
{
    const uint64_t hz[] = {1, 32768, 1193182, 3579545, 999999999};
    for (unsigned i = 0; i < sizeof hz / sizeof hz[0]; i++)
        for (uint64_t t = 1; t < 1000000000000ull; t = t * 3 + 1) {
            uint64_t ns = clock_ticks_to_ns(t, hz[i]);
            if (ns == CLOCK_NEVER)
                break;
            CU_ASSERT_EQUAL(clock_ns_to_ticks(ns, hz[i]), t);
            CU_ASSERT_EQUAL(clock_ns_to_ticks(ns - 1, hz[i]), t - 1);
        }
}

struct loop_test {
    struct loop *loop;
    int fds[2];
    unsigned reads, posts, timers;
    struct timer timer;
    struct clock *clock;
};

static void on_socket(void *opaque, int fd, unsigned events)
{
    struct loop_test *t = opaque;
    char c;
    if (read(fd, &c, 1) == 1) {
        t->reads++;
        timer_arm(&t->timer, clock_now(t->clock) + NS_PER_MS);
    } else {
        loop_watch(t->loop, fd, 0, NULL, NULL);
        loop_quit(t->loop);
    }
}

static void on_post(void *opaque)
{
    struct loop_test *t = opaque;
    t->posts++;
    CU_ASSERT_EQUAL(write(t->fds[1], "x", 1), 1);
}

static void on_loop_timer(void *opaque)
{
    struct loop_test *t = opaque;
    t->timers++;
    close(t->fds[1]);
}

static void *poster(void *opaque)
{
    struct loop_test *t = opaque;
    loop_post(t->loop, on_post, t);
    return NULL;
}

static void loop_works(void)
{
    struct loop_test t = {.clock = clock_create(false)};
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, t.fds), 0);
    t.loop = loop_create(t.clock, &lock);
    timer_init(&t.timer, t.clock, on_loop_timer, &t);
    CU_ASSERT_EQUAL(loop_watch(t.loop, t.fds[0], LOOP_READ, on_socket, &t), 0);
    pthread_t thread;
    pthread_create(&thread, NULL, poster, &t);
    loop_run(t.loop); /* post -> write -> read -> timer -> hang-up -> quit */
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(t.posts, 1);
    CU_ASSERT_EQUAL(t.reads, 1);
    CU_ASSERT_EQUAL(t.timers, 1);
    loop_quit(t.loop); /* before the run */
    loop_run(t.loop);
    loop_destroy(t.loop);
    clock_destroy(t.clock);
    close(t.fds[0]);
}

static void log_names(void)
{
    bool saved[LOG_COUNT];
    memcpy(saved, log_enabled, sizeof saved);
    memset(log_enabled, 0, sizeof log_enabled);
    const char *bad = NULL;
    CU_ASSERT_EQUAL(log_parse("disk,bogus", &bad), -1);
    CU_ASSERT_STRING_EQUAL(bad, "bogus");
    CU_ASSERT_FALSE(log_enabled[LOG_DISK]);
    CU_ASSERT_EQUAL(log_parse("disk,kvm", &bad), 0);
    CU_ASSERT_TRUE(log_enabled[LOG_DISK] && log_enabled[LOG_KVM] && !log_enabled[LOG_CPU]);
    CU_ASSERT_EQUAL(log_parse("all", &bad), 0);
    CU_ASSERT_TRUE(log_enabled[LOG_CPU]);
    memcpy(log_enabled, saved, sizeof saved);
}

TEST_SUITE(core, {"bus: accesses are split and widened", bus_split}, {"bus: sorted lookup", bus_sorted},
           {"clock: timers fire in order at their moment", clock_timers}, {"clock: ticks and back", clock_ticks},
           {"loop: posted work, descriptors, timers, quit", loop_works}, {"log: category names", log_names})
