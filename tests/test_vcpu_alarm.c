/* SPDX-License-Identifier: MIT */
#include "devices/vcpu_alarm.h"
#include "tests/test.h"

#include <errno.h>
#include <semaphore.h>

static sem_t rang;
static unsigned fired;

static void ring(void *opaque)
{
    sem_post(&rang);
}

static void fire(void *opaque)
{
    fired++;
}

struct setting {
    pthread_mutex_t lock;
    struct clock *clock;
    struct loop *loop;
    struct vcpu_alarm alarm;
};

static void set_up(struct setting *s)
{
    fired = 0;
    sem_init(&rang, 0, 0);
    pthread_mutex_init(&s->lock, NULL);
    s->clock = clock_create(false);
    s->loop = loop_create(s->clock, &s->lock);
    vcpu_alarm_open(&s->alarm, s->clock, s->loop, ring, NULL);
    vcpu_alarm_keep(&s->alarm, true);
    CU_ASSERT_FATAL(s->alarm.keeps);
}

static void tear_down(struct setting *s)
{
    vcpu_alarm_close(&s->alarm);
    loop_destroy(s->loop);
    clock_destroy(s->clock);
}

/* The thread sleeps until the alarm rings, and runs what is due. */
static void sleep_and_attend(struct setting *s)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 20;
    int r;
    while ((r = sem_timedwait(&rang, &end)) && errno == EINTR)
        ;
    CU_ASSERT_EQUAL(r, 0);
    vcpu_alarm_attend(&s->alarm);
}

static void deadlines_ring(void)
{
    struct setting s;
    struct timer near, far;
    set_up(&s);
    timer_init(&near, s.clock, fire, NULL);
    timer_init(&far, s.clock, fire, NULL);
    timer_arm(&far, clock_now(s.clock) + 3600 * NS_PER_SEC);
    timer_arm(&near, clock_now(s.clock) + NS_PER_MS);
    while (!fired)
        sleep_and_attend(&s);
    CU_ASSERT(fired == 1 && timer_armed(&far));
    timer_arm(&near, 0); /* long past */
    while (fired == 1)
        sleep_and_attend(&s);
    /* one that is cancelled may ring, but nothing is due then */
    timer_arm(&near, clock_now(s.clock) + NS_PER_MS);
    timer_cancel(&near);
    sleep_and_attend(&s);
    CU_ASSERT_EQUAL(fired, 2);
    tear_down(&s);
}

static void time_stands_still(void)
{
    struct setting s;
    struct timer t;
    set_up(&s);
    timer_init(&t, s.clock, fire, NULL);
    timer_arm(&t, clock_now(s.clock) + NS_PER_MS);
    clock_stop(s.clock);
    sleep_and_attend(&s); /* the host's timer does not know */
    CU_ASSERT_EQUAL(fired, 0);
    clock_continue(s.clock);
    while (!fired)
        sleep_and_attend(&s);
    CU_ASSERT_EQUAL(fired, 1);
    tear_down(&s);
}

static void quit(void *opaque)
{
    fire(NULL);
    loop_quit(opaque);
}

static void loop_takes_over(void)
{
    struct setting s;
    struct timer t;
    set_up(&s);
    timer_init(&t, s.clock, quit, s.loop);
    timer_arm(&t, clock_now(s.clock) + 20 * NS_PER_MS);
    loop_round(s.loop, 30 * NS_PER_MS);
    CU_ASSERT_EQUAL(fired, 0);
    vcpu_alarm_keep(&s.alarm, false);
    loop_run(s.loop);
    CU_ASSERT_EQUAL(fired, 1);
    /* and gives it back, with what came up meanwhile */
    timer_arm(&t, clock_now(s.clock) + NS_PER_MS);
    vcpu_alarm_keep(&s.alarm, true);
    while (fired == 1)
        sleep_and_attend(&s);
    tear_down(&s);
}

TEST_SUITE(vcpu_alarm, {"deadlines ring", deadlines_ring}, {"time stands still", time_stands_still},
           {"the loop takes over", loop_takes_over})
