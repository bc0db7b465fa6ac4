/* SPDX-License-Identifier: MIT */
/* The vector items: loops as gcc -O3 makes them of plain C, or of its vector types where it does not. Compiled twice
 * (bench.mk), for SSE2 and for AVX2 with FMA; each item is 15 to 50 ms on a processor of today, so that a steady state
 * dominates. A fused multiplication rounds once: the two versions have results of their own. */
#include "program.h"

#ifdef __AVX2__
#define VERSION "avx2"
#define ITEMS vector_avx2_items
enum { VECTOR_BYTES = 32 };
#define any_negative __builtin_ia32_movmskpd256
#else
#define VERSION "sse2"
#define ITEMS vector_sse2_items
enum { VECTOR_BYTES = 16 };
#define any_negative __builtin_ia32_movmskpd
#endif
enum { LANES = VECTOR_BYTES / sizeof(double) };
typedef double doubles __attribute__((vector_size(VECTOR_BYTES)));
typedef int64_t masks __attribute__((vector_size(VECTOR_BYTES)));

#define KERNEL __attribute__((noipa)) static /* each call is made, and knows nothing of the others */

/* y = a x + y, single precision, in the first level's cache. */

KERNEL void saxpy(float *restrict y, const float *restrict x, float a, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        y[i] += a * x[i];
}

static uint32_t run_saxpy(void)
{
    enum { N = 4096, ROUNDS = 80000 };
    float *x = memory_map(2 * N * sizeof *x), *y = x + N;
    for (int i = 0; i < N; i++) {
        x[i] = i % 97 / 7.0f;
        y[i] = N - i;
    }
    timer_start();
    for (unsigned r = 0; r < ROUNDS; r++)
        saxpy(y, x, r % 2 ? -0.4f : 0.7f, N);
    timer_stop();
    uint32_t sum = checksum(y, N * sizeof *y);
    memory_unmap(x, 2 * N * sizeof *x);
    return sum;
}

/* A dot product, double precision. Four sums at a time, which gcc does not do by itself: it may not change the order of
 * the additions. */

KERNEL void dot(double *sum, const double *a, const double *b, unsigned n)
{
    doubles s[4] = {{0}};
    for (unsigned i = 0; i < n; i += 4 * LANES)
        for (unsigned k = 0; k < 4; k++)
            s[k] += *(const doubles *)&a[i + k * LANES] * *(const doubles *)&b[i + k * LANES];
    s[0] = (s[0] + s[1]) + (s[2] + s[3]);
    for (unsigned k = 0; k < LANES; k++)
        *sum += s[0][k];
}

static uint32_t run_dot(void)
{
    enum { N = 2048, ROUNDS = 120000 };
    double *a = memory_map(2 * N * sizeof *a), *b = a + N, sum = 0;
    for (int i = 0; i < N; i++) {
        a[i] = i * 0.5;
        b[i] = 1.0 / (i + 1);
    }
    timer_start();
    for (unsigned r = 0; r < ROUNDS; r++)
        dot(&sum, a, b, N);
    timer_stop();
    memory_unmap(a, 2 * N * sizeof *a);
    return checksum(&sum, sizeof sum);
}

/* A matrix product, single precision. */

enum { ORDER = 128 };
typedef float matrix[ORDER][ORDER];

KERNEL void multiply(matrix to, matrix a, matrix b)
{
    for (int i = 0; i < ORDER; i++)
        for (int k = 0; k < ORDER; k++)
            for (int j = 0; j < ORDER; j++)
                to[i][j] += a[i][k] * b[k][j];
}

static uint32_t run_matrix(void)
{
    enum { ROUNDS = 150 };
    matrix *m = memory_map(3 * sizeof *m);
    for (int i = 0; i < ORDER; i++)
        for (int j = 0; j < ORDER; j++) {
            m[1][i][j] = (i + j) / 9.0f;
            m[2][i][j] = (i - j) / 7.0f;
        }
    timer_start();
    for (unsigned r = 0; r < ROUNDS; r++)
        multiply(m[0], m[1], m[2]);
    timer_stop();
    uint32_t sum = checksum(m[0], sizeof m[0]);
    memory_unmap(m, 3 * sizeof *m);
    return sum;
}

/* One picture into another, bytes. */

KERNEL void blend(uint8_t *restrict to, const uint8_t *restrict from, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        to[i] = (to[i] * 3 + from[i] + 2) >> 2;
}

static uint32_t run_blend(void)
{
    enum { SIZE = 64 << 10, ROUNDS = 4000, STEP = 8 };
    uint8_t *to = memory_map(2 * SIZE), *from = to + SIZE;
    fill_random(to, 2 * SIZE);
    timer_start();
    for (unsigned r = 0; r < ROUNDS; r++)
        blend(to, from + r * STEP % 4096, SIZE - 4096);
    timer_stop();
    uint32_t sum = checksum(to, SIZE);
    memory_unmap(to, 2 * SIZE);
    return sum;
}

/* The Mandelbrot set, double precision, as many points at a time as a vector has. */

KERNEL uint32_t mandelbrot(doubles x, doubles y, unsigned limit)
{
    doubles re = {0}, im = {0}, re2 = {0}, im2 = {0};
    masks inside, steps = {0};
    uint32_t sum = 0;
    for (unsigned i = 0; i < limit; i++) {
        im = 2 * re * im + y;
        re = re2 - im2 + x;
        re2 = re * re;
        im2 = im * im;
        inside = re2 + im2 < 4;
        if (!any_negative((doubles)inside))
            break;
        steps -= inside;
    }
    for (unsigned k = 0; k < LANES; k++)
        sum += (uint32_t)steps[k];
    return sum;
}

static uint32_t run_mandelbrot(void)
{
    enum { WIDTH = 640, HEIGHT = 480, LIMIT = 300 };
    uint32_t sum = 0;
    timer_start();
    for (int row = 0; row < HEIGHT; row++)
        for (int column = 0; column < WIDTH; column += LANES) {
            doubles x, y;
            for (int k = 0; k < LANES; k++) {
                x[k] = (column + k) * (3.0 / WIDTH) - 2;
                y[k] = row * (2.0 / HEIGHT) - 1;
            }
            sum = sum * 3 + mandelbrot(x, y, LIMIT);
        }
    timer_stop();
    return sum;
}

/* Bodies that attract each other: divisions and roots, and what gcc finds in parallel. */

enum { BODIES = 8 };
struct body {
    double place[3], speed[3], mass;
};

KERNEL void move(struct body *bodies, double time)
{
    for (int i = 0; i < BODIES; i++)
        for (int j = i + 1; j < BODIES; j++) {
            struct body *a = &bodies[i], *b = &bodies[j];
            double d[3], square = 0.01;
            for (int k = 0; k < 3; k++) {
                d[k] = a->place[k] - b->place[k];
                square += d[k] * d[k];
            }
            double pull = time / (square * __builtin_sqrt(square));
            for (int k = 0; k < 3; k++) {
                a->speed[k] -= d[k] * b->mass * pull;
                b->speed[k] += d[k] * a->mass * pull;
            }
        }
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++)
            bodies[i].place[k] += time * bodies[i].speed[k];
}

static uint32_t run_bodies(void)
{
    enum { STEPS = 200000 };
    static struct body bodies[BODIES];
    for (int i = 0; i < BODIES; i++)
        bodies[i] = (struct body){.place = {i, i * i, -i}, .mass = 1 + i};
    timer_start();
    for (unsigned step = 0; step < STEPS; step++)
        move(bodies, 0.001);
    timer_stop();
    return checksum(bodies, sizeof bodies);
}

const struct item ITEMS[] = {{"saxpy-" VERSION, run_saxpy},
                             {"dot-" VERSION, run_dot},
                             {"matrix-float-" VERSION, run_matrix},
                             {"blend-" VERSION, run_blend},
                             {"mandelbrot-" VERSION, run_mandelbrot},
                             {"n-body-" VERSION, run_bodies},
                             {NULL, NULL}};
