/* SPDX-License-Identifier: MIT */
#include "frontend/keys.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct key_name {
    const char *name;
    uint16_t code;
} names[] = {
    {"esc", 0x01},
    {"1", 0x02},
    {"2", 0x03},
    {"3", 0x04},
    {"4", 0x05},
    {"5", 0x06},
    {"6", 0x07},
    {"7", 0x08},
    {"8", 0x09},
    {"9", 0x0a},
    {"0", 0x0b},
    {"minus", 0x0c},
    {"equal", 0x0d},
    {"backspace", 0x0e},
    {"tab", 0x0f},
    {"q", 0x10},
    {"w", 0x11},
    {"e", 0x12},
    {"r", 0x13},
    {"t", 0x14},
    {"y", 0x15},
    {"u", 0x16},
    {"i", 0x17},
    {"o", 0x18},
    {"p", 0x19},
    {"bracket_left", 0x1a},
    {"bracket_right", 0x1b},
    {"ret", 0x1c},
    {"ctrl", 0x1d},
    {"a", 0x1e},
    {"s", 0x1f},
    {"d", 0x20},
    {"f", 0x21},
    {"g", 0x22},
    {"h", 0x23},
    {"j", 0x24},
    {"k", 0x25},
    {"l", 0x26},
    {"semicolon", 0x27},
    {"apostrophe", 0x28},
    {"grave_accent", 0x29},
    {"shift", 0x2a},
    {"backslash", 0x2b},
    {"z", 0x2c},
    {"x", 0x2d},
    {"c", 0x2e},
    {"v", 0x2f},
    {"b", 0x30},
    {"n", 0x31},
    {"m", 0x32},
    {"comma", 0x33},
    {"dot", 0x34},
    {"slash", 0x35},
    {"shift_r", 0x36},
    {"kp_multiply", 0x37},
    {"asterisk", 0x37},
    {"alt", 0x38},
    {"spc", 0x39},
    {"caps_lock", 0x3a},
    {"f1", 0x3b},
    {"f2", 0x3c},
    {"f3", 0x3d},
    {"f4", 0x3e},
    {"f5", 0x3f},
    {"f6", 0x40},
    {"f7", 0x41},
    {"f8", 0x42},
    {"f9", 0x43},
    {"f10", 0x44},
    {"num_lock", 0x45},
    {"scroll_lock", 0x46},
    {"kp_7", 0x47},
    {"kp_8", 0x48},
    {"kp_9", 0x49},
    {"kp_subtract", 0x4a},
    {"kp_4", 0x4b},
    {"kp_5", 0x4c},
    {"kp_6", 0x4d},
    {"kp_add", 0x4e},
    {"kp_1", 0x4f},
    {"kp_2", 0x50},
    {"kp_3", 0x51},
    {"kp_0", 0x52},
    {"kp_decimal", 0x53},
    {"less", 0x56},
    {"f11", 0x57},
    {"f12", 0x58},
    {"kp_equals", 0x59},
    {"f13", 0x5d},
    {"f14", 0x5e},
    {"f15", 0x5f},
    {"hiragana", 0x70},
    {"katakanahiragana", 0x70},
    {"ro", 0x73},
    {"henkan", 0x79},
    {"muhenkan", 0x7b},
    {"yen", 0x7d},
    {"kp_comma", 0x7e},
    {"sysrq", 0x54},
    {"kp_enter", 0xe01c},
    {"ctrl_r", 0xe01d},
    {"kp_divide", 0xe035},
    {"print", 0xe037},
    {"alt_r", 0xe038},
    {"home", 0xe047},
    {"up", 0xe048},
    {"pgup", 0xe049},
    {"left", 0xe04b},
    {"right", 0xe04d},
    {"end", 0xe04f},
    {"down", 0xe050},
    {"pgdn", 0xe051},
    {"insert", 0xe052},
    {"delete", 0xe053},
    {"meta_l", 0xe05b},
    {"meta_r", 0xe05c},
    {"menu", 0xe05d},
    {"compose", 0xe05d},
    {"power", 0xe05e},
    {"sleep", 0xe05f},
    {"wake", 0xe063},
    {"audionext", 0xe019},
    {"audioprev", 0xe010},
    {"audiostop", 0xe024},
    {"audioplay", 0xe022},
    {"audiomute", 0xe020},
    {"volumeup", 0xe030},
    {"volumedown", 0xe02e},
    {"mail", 0xe06c},
    {"calculator", 0xe021},
    {"computer", 0xe06b},
    {"ac_home", 0xe032},
    {"ac_back", 0xe06a},
    {"ac_forward", 0xe069},
    {"ac_refresh", 0xe067},
    {"ac_bookmarks", 0xe066},
    {"pause", 0xe1},
};

unsigned key_by_name(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i].name) == len && !memcmp(names[i].name, name, len))
            return names[i].code;
    return 0;
}

unsigned key_by_number(unsigned number)
{
    if (number == 0 || number > 0xff)
        return 0;
    return number & 0x80 ? 0xe000 | (number & 0x7f) : number;
}

unsigned key_by_char(unsigned char c, bool *shift)
{
    /* By set-1 code: without and with Shift. A blank stands for no key. */
    static const char plain[] = "  1234567890-=  qwertyuiop[]  asdfghjkl;'` \\zxcvbnm,./";
    static const char shifted[] = "  !@#$%^&*()_+  QWERTYUIOP{}  ASDFGHJKL:\"~ |ZXCVBNM<>?";
    const char *p;
    *shift = false;
    switch (c) {
    case ' ':
        return 0x39;
    case '\n':
    case '\r':
        return 0x1c;
    case '\t':
        return 0x0f;
    case '\b':
    case 0x7f:
        return 0x0e;
    case 0x1b:
        return 0x01;
    case 0:
        return 0;
    }
    p = strchr(plain, c);
    if (p)
        return (unsigned)(p - plain);
    p = strchr(shifted, c);
    *shift = p != NULL;
    return p ? (unsigned)(p - shifted) : 0;
}

static int hex_value(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : -1;
}

/* One escape at *p (behind the backslash); -1 when it is none. */
static int escape_value(const char **p)
{
    static const char letters[] = "nrtbe\\", values[] = "\n\r\t\b\x1b\\";
    const char *found = **p ? strchr(letters, **p) : NULL;
    if (found) {
        ++*p;
        return values[found - letters];
    }
    if (**p == 'x' && hex_value((*p)[1]) >= 0 && hex_value((*p)[2]) >= 0) {
        int v = hex_value((*p)[1]) * 16 + hex_value((*p)[2]);
        *p += 3;
        return v;
    }
    return -1;
}

char *keys_unescape(const char *text, char *err, size_t err_len)
{
    char *out = malloc(strlen(text) + 1), *o = out;
    if (!out) {
        snprintf(err, err_len, "out of memory");
        return NULL;
    }
    for (const char *p = text; *p;) {
        const char *at = p;
        int c = (unsigned char)*p++;
        if (c == '\\') {
            int v = escape_value(&p);
            c = v < 0 ? '\\' : v;
        }
        if (c == '\r' && *p == '\n') /* a line end of a text file is one Enter */
            continue;
        bool shift;
        if (!key_by_char((unsigned char)c, &shift)) {
            snprintf(err, err_len, "no key of a US keyboard types character 0x%02x at position %zu", c,
                     (size_t)(at - text));
            free(out);
            return NULL;
        }
        *o++ = (char)c;
    }
    *o = 0;
    return out;
}
