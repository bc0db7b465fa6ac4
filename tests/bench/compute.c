/* SPDX-License-Identifier: MIT */
/* The compute items: user mode only, one kind of work each, 10 to 100 ms on a processor of today. */
#include "program.h"

/* Quicksort of a million integers, recursive. */

static void quicksort(uint32_t *a, int low, int high)
{
    while (low < high) {
        uint32_t pivot = a[low + (high - low) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                uint32_t t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        if (j - low < high - i) {
            quicksort(a, low, j);
            low = i;
        } else {
            quicksort(a, i, high);
            high = j;
        }
    }
}

static uint32_t run_sort(void)
{
    enum { COUNT = 1000000 };
    uint32_t *numbers = memory_map(COUNT * 4), x = 1;
    for (unsigned i = 0; i < COUNT; i++)
        numbers[i] = x = x * 1664525 + 1013904223;
    timer_start();
    quicksort(numbers, 0, COUNT - 1);
    timer_stop();
    uint32_t sum = checksum(numbers, COUNT * 4);
    memory_unmap(numbers, COUNT * 4);
    return sum;
}

/* CRC-32, a table look-up for each byte. */

static uint32_t run_crc(void)
{
    enum { SIZE = 1 << 20, ROUNDS = 12 };
    uint8_t *data = memory_map(SIZE);
    fill_random(data, SIZE);
    uint32_t sum = checksum(data, 1);
    timer_start();
    for (unsigned i = 0; i < ROUNDS; i++)
        sum ^= checksum(data, SIZE - i);
    timer_stop();
    memory_unmap(data, SIZE);
    return sum;
}

/* Eratosthenes. */

static uint32_t run_sieve(void)
{
    enum { SIZE = 4000000, ROUNDS = 3 };
    uint8_t *composite = memory_map(SIZE);
    uint32_t primes = 0;
    timer_start();
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < SIZE; i++)
            composite[i] = 0;
        for (uint32_t i = 2; i < SIZE; i++) {
            if (composite[i])
                continue;
            primes++;
            for (uint32_t k = 2 * i; k < SIZE; k += i)
                composite[k] = 1;
        }
    }
    timer_stop();
    memory_unmap(composite, SIZE);
    return primes;
}

/* SHA-256 (FIPS 180-4). The constants are the fractional parts of the roots of the first primes. */

static const uint32_t sha_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t rotate(uint32_t v, unsigned n)
{
    return v >> n | v << (32 - n);
}

static void sha_block(uint32_t state[8], const uint8_t *data)
{
    uint32_t w[64], s[8];
    for (unsigned i = 0; i < 16; i++)
        w[i] = (uint32_t)data[4 * i] << 24 | data[4 * i + 1] << 16 | data[4 * i + 2] << 8 | data[4 * i + 3];
    for (unsigned i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    for (unsigned i = 0; i < 8; i++)
        s[i] = state[i];
    for (unsigned i = 0; i < 64; i++) {
        uint32_t t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                      ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha_constants[i] + w[i];
        uint32_t t2 =
            (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        for (unsigned k = 7; k; k--)
            s[k] = s[k - 1];
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (unsigned i = 0; i < 8; i++)
        state[i] += s[i];
}

static uint32_t run_sha(void)
{
    enum { SIZE = 4 << 20 };
    uint8_t *data = memory_map(SIZE);
    fill_random(data, SIZE);
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    timer_start();
    for (unsigned i = 0; i < SIZE; i += 64)
        sha_block(state, data + i);
    timer_stop();
    memory_unmap(data, SIZE);
    return checksum(state, sizeof state);
}

/* A matrix product in packed doubles. */

typedef double pair __attribute__((vector_size(16)));

__attribute__((target("sse2"))) static uint32_t run_matrix(void)
{
    enum { N = 160, ROUNDS = 6 };
    double(*a)[N] = memory_map(3 * sizeof(double[N][N])), (*b)[N] = a + N, (*c)[N] = b + N;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            a[i][k] = (i * 7 + k * 3) % 11 - 5;
            b[i][k] = (i * 5 + k * 13) % 17 - 8;
        }
    timer_start();
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j += 4) {
                pair low = {0, 0}, high = {0, 0};
                for (int k = 0; k < N; k++) {
                    pair factor = {a[i][k], a[i][k]};
                    low += factor * *(pair *)&b[k][j];
                    high += factor * *(pair *)&b[k][j + 2];
                }
                *(pair *)&c[i][j] += low;
                *(pair *)&c[i][j + 2] += high;
            }
    timer_stop();
    uint32_t sum = checksum(c, sizeof(double[N][N]));
    memory_unmap(a, 3 * sizeof(double[N][N]));
    return sum;
}

/* The x87 unit: add, multiply, divide, square root, sine, in extended precision. */

static uint32_t run_x87(void)
{
    long double x = 0.5L, sum = 0, y;
    timer_start();
    for (unsigned i = 1; i <= 1000000; i++) {
        __asm__("fsqrt" : "=t"(y) : "0"(x + i));
        sum += y * 1.25L / (x + 3.0L);
        x = x * 0.75L + 0.125L;
        if (i % 8 == 0) {
            __asm__("fsin" : "=t"(y) : "0"(sum - (int)sum));
            sum += y;
        }
    }
    timer_stop();
    return (uint32_t)(int)(sum / 1e6L); /* coarse: not every machine has the sine to the last bit */
}

/* A random cycle through 4 MiB, one cache line a step: each load waits for the one before. */

static uint32_t run_chase(void)
{
    enum { COUNT = 1 << 16, STEPS = 1500000 };
    struct node {
        struct node *next;
        uint32_t value;
        char padding[64 - sizeof(void *) - 4];
    } *nodes = memory_map(COUNT * sizeof(struct node)), *at;
    uint32_t x = 1;
    /* Sattolo's shuffle makes one cycle. */
    for (uint32_t i = 0; i < COUNT; i++)
        nodes[i].value = i;
    for (uint32_t i = COUNT - 1; i; i--) {
        x = x * 1664525 + 1013904223;
        uint32_t k = (x >> 8) % i, t = nodes[i].value;
        nodes[i].value = nodes[k].value;
        nodes[k].value = t;
    }
    for (uint32_t i = 0; i < COUNT; i++)
        nodes[i].next = &nodes[nodes[i].value];
    at = nodes;
    timer_start();
    for (uint32_t i = 0; i < STEPS; i++)
        at = at->next;
    timer_stop();
    uint32_t sum = at->value;
    memory_unmap(nodes, COUNT * sizeof(struct node));
    return sum;
}

/* Fibonacci, the slow way. */

__attribute__((noinline, noclone, optimize("no-optimize-sibling-calls"))) static uint32_t fibonacci(uint32_t n)
{
    if (n < 2)
        return n;
    uint32_t a = fibonacci(n - 1);
    __asm__ volatile("" : "+r"(a)); /* no inlining of one call into the next */
    return a + fibonacci(n - 2);
}

static uint32_t run_recursion(void)
{
    timer_start();
    uint32_t sum = fibonacci(31);
    timer_stop();
    return sum;
}

/* Calls through a table of functions. */

#define OPERATION(name, expression)                                                                                    \
    __attribute__((noinline)) static uint32_t name(uint32_t v)                                                         \
    {                                                                                                                  \
        return expression;                                                                                             \
    }
OPERATION(operation_add, v + 0x9e3779b9)
OPERATION(operation_multiply, v * 2654435761u)
OPERATION(operation_rotate, rotate(v, 13))
OPERATION(operation_xor, v ^ v >> 7)
OPERATION(operation_negate, ~v)
OPERATION(operation_shift, v + (v << 3))
OPERATION(operation_swap, __builtin_bswap32(v))
OPERATION(operation_subtract, v - 0x7f4a7c15)

static uint32_t run_indirect(void)
{
    static uint32_t (*volatile const table[8])(uint32_t) = {operation_add,  operation_multiply, operation_rotate,
                                                            operation_xor,  operation_negate,   operation_shift,
                                                            operation_swap, operation_subtract};
    uint32_t v = 1;
    timer_start();
    for (uint32_t i = 0; i < 6000000; i++)
        v = table[(i * 5 + (i >> 4)) & 7](v);
    timer_stop();
    return v;
}

/* String instructions: long and short copies and fills, searches and compares. */

static uint32_t run_strings(void)
{
    enum { SIZE = 64 << 10 };
    uint8_t *a = memory_map(SIZE + 4096), *b = memory_map(SIZE + 4096);
    uint32_t sum = 0;
    timer_start();
    for (uint32_t round = 0; round < 600; round++) {
        void *to = a, *from = b;
        size_t n = SIZE;
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(round) : "memory");
        to = b, from = a, n = SIZE / 4;
        __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n)::"memory");
        for (uint32_t i = 0; i < 400; i++) {
            to = a + i * 40, from = b + i * 37 + 1, n = 24 + i % 16;
            __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
        }
        b[2000 + round * 90] = ~round;
        to = b, n = SIZE;
        __asm__ volatile("repne scasb" : "+D"(to), "+c"(n) : "a"((uint8_t)~round) : "memory", "cc");
        sum += n;
        a[3000 + round * 90] ^= 1 | round;
        to = a, from = b, n = SIZE;
        __asm__ volatile("repe cmpsb" : "+D"(to), "+S"(from), "+c"(n)::"memory", "cc");
        sum += n;
        from = b, n = 2000;
        for (uint8_t byte; n; n--) {
            __asm__ volatile("lodsb" : "=a"(byte), "+S"(from)::"memory");
            sum += byte;
        }
    }
    timer_stop();
    sum ^= checksum(a, SIZE) + checksum(b, SIZE);
    memory_unmap(a, SIZE + 4096);
    memory_unmap(b, SIZE + 4096);
    return sum;
}

/* An interpreter's loop: fetch, switch through a jump table, operate on a stack. The program adds up i * i % 7. */

enum opcode {
    OP_PUSH,
    OP_LOAD,
    OP_STORE,
    OP_ADD,
    OP_MULTIPLY,
    OP_MODULO,
    OP_DECREMENT,
    OP_JUMP_IF,
    OP_DUPLICATE,
    OP_HALT
};

__attribute__((noinline)) static uint32_t interpret(const uint8_t *code, uint32_t *variables)
{
    uint32_t stack[16], *top = stack;
    for (const uint8_t *at = code;;)
        switch (*at++) {
        case OP_PUSH:
            *++top = *at++;
            break;
        case OP_LOAD:
            *++top = variables[*at++];
            break;
        case OP_STORE:
            variables[*at++] = *top--;
            break;
        case OP_ADD:
            top--;
            *top += top[1];
            break;
        case OP_MULTIPLY:
            top--;
            *top *= top[1];
            break;
        case OP_MODULO:
            top--;
            *top %= top[1];
            break;
        case OP_DECREMENT:
            variables[*at++]--;
            break;
        case OP_JUMP_IF:
            at = *top-- ? code + *at : at + 1;
            break;
        case OP_DUPLICATE:
            top[1] = *top;
            top++;
            break;
        case OP_HALT:
            return variables[1];
        }
}

static uint32_t run_interpreter(void)
{
    static const uint8_t code[] = {OP_LOAD,    0,      OP_DUPLICATE, OP_MULTIPLY, OP_PUSH,      7, OP_MODULO, OP_LOAD,
                                   1,          OP_ADD, OP_STORE,     1,           OP_DECREMENT, 0, OP_LOAD,   0,
                                   OP_JUMP_IF, 0,      OP_HALT};
    uint32_t variables[2] = {900000, 0};
    timer_start();
    uint32_t sum = interpret(code, variables);
    timer_stop();
    return sum;
}

const struct item compute_items[] = {{"sort", run_sort},
                                     {"crc-32", run_crc},
                                     {"sieve", run_sieve},
                                     {"sha-256", run_sha},
                                     {"matrix-sse2", run_matrix},
                                     {"x87", run_x87},
                                     {"pointer-chase", run_chase},
                                     {"recursion", run_recursion},
                                     {"indirect-calls", run_indirect},
                                     {"strings", run_strings},
                                     {"interpreter", run_interpreter},
                                     {NULL, NULL}};
