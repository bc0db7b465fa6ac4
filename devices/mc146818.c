/* SPDX-License-Identifier: MIT */
#include "devices/mc146818.h"

#include <string.h>

enum {
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    DAY_OF_WEEK,
    DAY,
    MONTH,
    YEAR,
    REGISTER_A,
    REGISTER_B,
    REGISTER_C,
    REGISTER_D
};
enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_DIVIDER_32KHZ = 0x20, A_RATE = 0x0f };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_SQWE = 0x08, B_BINARY = 0x04, B_24_HOUR = 0x02 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10 };
enum { D_VRT = 0x80 };

#define OSCILLATOR_HZ 32768ull
/* Before the second changes UIP is up for tBUC (244 us) and the update itself (1984 us). */
#define UIP_NS (2228 * NS_PER_US)
#define SECONDS_PER_DAY 86400

struct date {
    int year, month, day, hour, minute, second, day_of_week; /* month 1-12, day_of_week 1 = Sunday */
};

/* Days since 1970-01-01 of a proleptic Gregorian date, and back. Years are counted from March, so that the leap day
 * comes last, in eras of 400 years. */
static int64_t days_of(int64_t year, int month, int day)
{
    year += (month - 1) / 12;
    month = (month - 1) % 12 + 1;
    if (month < 3)
        year--;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

static struct date date_of(int64_t seconds)
{
    int64_t days = seconds / SECONDS_PER_DAY;
    int64_t rest = seconds % SECONDS_PER_DAY;
    if (rest < 0) {
        rest += SECONDS_PER_DAY;
        days--;
    }
    struct date d = {.hour = (int)(rest / 3600), .minute = (int)(rest / 60 % 60), .second = (int)(rest % 60)};
    d.day_of_week = (int)(((days + 4) % 7 + 7) % 7) + 1;
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int64_t day_of_era = days - era * 146097;
    int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t shifted_month = (5 * day_of_year + 2) / 153;
    d.day = (int)(day_of_year - (153 * shifted_month + 2) / 5) + 1;
    d.month = (int)(shifted_month < 10 ? shifted_month + 3 : shifted_month - 9);
    d.year = (int)(year_of_era + era * 400 + (d.month <= 2));
    return d;
}

static uint8_t encode(const struct mc146818 *rtc, int v)
{
    return (uint8_t)(rtc->ram[REGISTER_B] & B_BINARY ? v : (v / 10 % 10) << 4 | v % 10);
}

static int decode(const struct mc146818 *rtc, uint8_t v)
{
    return rtc->ram[REGISTER_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t encode_hour(const struct mc146818 *rtc, int hour)
{
    if (rtc->ram[REGISTER_B] & B_24_HOUR)
        return encode(rtc, hour);
    return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static int decode_hour(const struct mc146818 *rtc, uint8_t v)
{
    if (rtc->ram[REGISTER_B] & B_24_HOUR)
        return decode(rtc, v);
    return decode(rtc, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

static bool is_time(unsigned index)
{
    return index <= YEAR ? !(index & 1) || index >= DAY : index == MC146818_CENTURY;
}

/* Seconds and the fraction apart: a guest may set a year whose nanoseconds do not fit. */
static uint64_t shifted_wall(const struct mc146818 *rtc)
{
    return clock_wall_ns(rtc->clock) + (uint64_t)rtc->offset_ns;
}

static int64_t guest_seconds(const struct mc146818 *rtc)
{
    return (int64_t)(shifted_wall(rtc) / NS_PER_SEC) + rtc->offset_seconds;
}

/* ns into the current second. */
static uint64_t into_second(const struct mc146818 *rtc)
{
    return shifted_wall(rtc) % NS_PER_SEC;
}

static void time_to_bytes(struct mc146818 *rtc)
{
    struct date d = date_of(guest_seconds(rtc));
    rtc->ram[SECONDS] = encode(rtc, d.second);
    rtc->ram[MINUTES] = encode(rtc, d.minute);
    rtc->ram[HOURS] = encode_hour(rtc, d.hour);
    rtc->ram[DAY_OF_WEEK] = encode(rtc, d.day_of_week);
    rtc->ram[DAY] = encode(rtc, d.day);
    rtc->ram[MONTH] = encode(rtc, d.month);
    rtc->ram[YEAR] = encode(rtc, d.year % 100);
    rtc->ram[MC146818_CENTURY] = encode(rtc, d.year / 100);
}

/* The bytes become the time; the fraction of the second is kept. Bytes out of range are taken for what they weigh. */
static void bytes_to_time(struct mc146818 *rtc)
{
    int64_t year = decode(rtc, rtc->ram[MC146818_CENTURY]) * 100 + decode(rtc, rtc->ram[YEAR]);
    int month = decode(rtc, rtc->ram[MONTH]);
    int64_t days = days_of(year, month ? month : 1, decode(rtc, rtc->ram[DAY]));
    int64_t seconds = days * SECONDS_PER_DAY + decode_hour(rtc, rtc->ram[HOURS]) * 3600 +
                      decode(rtc, rtc->ram[MINUTES]) * 60 + decode(rtc, rtc->ram[SECONDS]);
    rtc->offset_seconds += seconds - guest_seconds(rtc);
    rtc->second_seen = (uint64_t)guest_seconds(rtc);
}

static bool should_freeze(const struct mc146818 *rtc)
{
    return (rtc->ram[REGISTER_B] & B_SET) || (rtc->ram[REGISTER_A] & A_DIVIDER) != A_DIVIDER_32KHZ;
}

static void freeze_or_thaw(struct mc146818 *rtc)
{
    bool freeze = should_freeze(rtc);
    if (freeze && !rtc->frozen)
        time_to_bytes(rtc);
    else if (!freeze && rtc->frozen)
        bytes_to_time(rtc);
    rtc->frozen = freeze;
}

/* Oscillator ticks per periodic interrupt, 0: none. */
static uint64_t period(const struct mc146818 *rtc)
{
    unsigned rate = rtc->ram[REGISTER_A] & A_RATE;
    unsigned divider = rtc->ram[REGISTER_A] & A_DIVIDER;
    if (!rate || divider > A_DIVIDER_32KHZ)
        return 0;
    if (rate <= 2)
        rate += 7;
    return 1ull << (rate - 1);
}

static uint64_t periods_now(const struct mc146818 *rtc)
{
    uint64_t p = period(rtc);
    return p ? clock_ns_to_ticks(clock_now(rtc->clock), OSCILLATOR_HZ) / p : 0;
}

static bool alarm_byte_matches(uint8_t alarm, int alarm_value, int value)
{
    return alarm >= 0xc0 || alarm_value == value;
}

static bool alarm_matches(const struct mc146818 *rtc, int64_t seconds)
{
    int64_t of_day = (seconds % SECONDS_PER_DAY + SECONDS_PER_DAY) % SECONDS_PER_DAY;
    const uint8_t *ram = rtc->ram;
    return alarm_byte_matches(ram[SECONDS_ALARM], decode(rtc, ram[SECONDS_ALARM]), (int)(of_day % 60)) &&
           alarm_byte_matches(ram[MINUTES_ALARM], decode(rtc, ram[MINUTES_ALARM]), (int)(of_day / 60 % 60)) &&
           alarm_byte_matches(ram[HOURS_ALARM], decode_hour(rtc, ram[HOURS_ALARM]), (int)(of_day / 3600));
}

/* Sets the flags of what has happened since the last look. */
static void catch_up(struct mc146818 *rtc)
{
    uint64_t periods = periods_now(rtc);
    if (periods != rtc->periodic_seen)
        rtc->flags |= C_PF;
    rtc->periodic_seen = periods;
    if (rtc->frozen)
        return;
    uint64_t second = (uint64_t)guest_seconds(rtc);
    if (second == rtc->second_seen)
        return;
    rtc->flags |= C_UF;
    uint64_t passed = second - rtc->second_seen;
    if (passed > SECONDS_PER_DAY)
        passed = SECONDS_PER_DAY; /* every time of day has come by */
    for (uint64_t i = 0; i < passed && !(rtc->flags & C_AF); i++)
        if (alarm_matches(rtc, (int64_t)(second - i)))
            rtc->flags |= C_AF;
    rtc->second_seen = second;
}

static bool interrupting(const struct mc146818 *rtc)
{
    return rtc->flags & rtc->ram[REGISTER_B] & (C_PF | C_AF | C_UF);
}

/* Drives the line and arms the timer for the next flag that would change it. */
static void update(struct mc146818 *rtc)
{
    bool level = interrupting(rtc);
    irq_set(&rtc->irq, level);
    uint64_t deadline = CLOCK_NEVER, now = clock_now(rtc->clock);
    uint8_t wanted = level ? 0 : rtc->ram[REGISTER_B] & (uint8_t)~rtc->flags;
    uint64_t p = period(rtc);
    if ((wanted & B_PIE) && p)
        deadline = clock_ticks_to_ns((periods_now(rtc) + 1) * p, OSCILLATOR_HZ);
    if ((wanted & (B_AIE | B_UIE)) && !rtc->frozen) {
        uint64_t second = now + NS_PER_SEC - into_second(rtc);
        deadline = second < deadline ? second : deadline;
    }
    timer_arm(&rtc->timer, deadline);
}

static void on_timer(void *opaque)
{
    struct mc146818 *rtc = opaque;
    catch_up(rtc);
    update(rtc);
}

static uint8_t read_register(struct mc146818 *rtc, unsigned index)
{
    if (is_time(index) && !rtc->frozen)
        time_to_bytes(rtc);
    switch (index) {
    case REGISTER_A: {
        bool uip = !rtc->frozen && into_second(rtc) >= NS_PER_SEC - UIP_NS;
        return (uint8_t)((rtc->ram[REGISTER_A] & ~A_UIP) | (uip ? A_UIP : 0));
    }
    case REGISTER_C: {
        catch_up(rtc);
        uint8_t value = rtc->flags | (interrupting(rtc) ? C_IRQF : 0);
        rtc->flags = 0;
        update(rtc);
        return value;
    }
    case REGISTER_D:
        return D_VRT;
    default:
        return rtc->ram[index];
    }
}

/* The divider leaves reset: the first update follows half a second later. */
static void restart_divider(struct mc146818 *rtc)
{
    rtc->offset_ns += (int64_t)(NS_PER_SEC / 2) - (int64_t)into_second(rtc);
    if (rtc->offset_ns < 0) {
        rtc->offset_ns += (int64_t)NS_PER_SEC;
        rtc->offset_seconds--;
    } else if (rtc->offset_ns >= (int64_t)NS_PER_SEC) {
        rtc->offset_ns -= (int64_t)NS_PER_SEC;
        rtc->offset_seconds++;
    }
}

static void write_register(struct mc146818 *rtc, unsigned index, uint8_t value)
{
    catch_up(rtc);
    switch (index) {
    case REGISTER_A: {
        bool was_reset = (rtc->ram[REGISTER_A] & A_DIVIDER) >= 0x60;
        rtc->ram[REGISTER_A] = value & ~A_UIP;
        if (was_reset && (value & A_DIVIDER) < 0x60)
            restart_divider(rtc);
        rtc->periodic_seen = periods_now(rtc);
        freeze_or_thaw(rtc);
        break;
    }
    case REGISTER_B:
        if (value & B_SET)
            value &= (uint8_t)~B_UIE;
        /* Bytes that are read or written while SET is on are in the format of that moment; what the clock starts from
         * is what they mean when it starts. */
        rtc->ram[REGISTER_B] = value;
        freeze_or_thaw(rtc);
        break;
    case REGISTER_C:
    case REGISTER_D:
        return;
    default:
        if (is_time(index)) {
            if (!rtc->frozen)
                time_to_bytes(rtc);
            rtc->ram[index] = value;
            if (!rtc->frozen && index != DAY_OF_WEEK)
                bytes_to_time(rtc);
            break;
        }
        rtc->ram[index] = value;
        break;
    }
    update(rtc);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct mc146818 *rtc = opaque;
    return offset ? read_register(rtc, rtc->index & 127) : 0xff;
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct mc146818 *rtc = opaque;
    if (offset) {
        write_register(rtc, rtc->index & 127, (uint8_t)value);
        return;
    }
    rtc->index = value & 0x7f;
    rtc->nmi_off = value & 0x80;
}

void mc146818_set(struct mc146818 *rtc, unsigned index, uint8_t value)
{
    if (index > REGISTER_D && index < sizeof rtc->ram && index != MC146818_CENTURY)
        rtc->ram[index] = value;
}

uint8_t mc146818_get(const struct mc146818 *rtc, unsigned index)
{
    return index < sizeof rtc->ram ? rtc->ram[index] : 0;
}

void mc146818_reset(struct mc146818 *rtc)
{
    rtc->ram[REGISTER_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    rtc->flags = 0;
    rtc->index = 0;
    rtc->nmi_off = false;
    rtc->periodic_seen = periods_now(rtc);
    if (!rtc->frozen)
        rtc->second_seen = (uint64_t)guest_seconds(rtc);
    update(rtc);
}

int mc146818_init(struct mc146818 *rtc, struct bus *ports, struct clock *clock, struct irq_line irq)
{
    memset(rtc, 0, sizeof *rtc);
    rtc->clock = clock;
    rtc->irq = irq;
    rtc->ram[REGISTER_A] = A_DIVIDER_32KHZ | 6; /* 1024 Hz, as every BIOS leaves it */
    rtc->ram[REGISTER_B] = B_24_HOUR;
    timer_init(&rtc->timer, clock, on_timer, rtc);
    rtc->ports = (struct bus_range){"rtc", 0x70, 2, 1, 1, port_read, port_write, rtc, false};
    mc146818_reset(rtc);
    return bus_add(ports, &rtc->ports);
}
