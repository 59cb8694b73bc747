/* SPDX-License-Identifier: MIT */
/* Group `simd`: vector and floating-point work that the compiler vectorizes for x86-64-v3. Results
 * are compared to the bit: there is no libm here, and no order of operations left open. */
#include "bench.h"

#define POINTS 4096
#define BODIES 5
#define PIXELS 65536

/* Radix-2 FFT in place over split real and imaginary parts; the roots of unity of each level are
 * made by the addition theorem from cos and sin of the smallest angle. */
static double re[POINTS], im[POINTS], root_re[POINTS], root_im[POINTS];

void fft_prepare(void)
{
    uint64_t state = 2002;
    double c = 0.99999882345170188, s = 0.0015339801862847655; /* of 2 pi / 4096 */
    root_re[0] = 1;
    root_im[0] = 0;
    for (unsigned i = 0; i + 1 < POINTS; i++) {
        root_re[i + 1] = root_re[i] * c - root_im[i] * s;
        root_im[i + 1] = root_re[i] * s + root_im[i] * c;
    }
    for (unsigned i = 0; i < POINTS; i++) {
        re[i] = bench_random_float(&state);
        im[i] = 0;
    }
}

static void swap_bits(void)
{
    for (unsigned i = 1, j = 0; i < POINTS; i++) {
        unsigned bit = POINTS >> 1;
        for (; j & bit; bit >>= 1)
            j ^= bit;
        j ^= bit;
        if (i < j) {
            double r = re[i], m = im[i];
            re[i] = re[j], im[i] = im[j];
            re[j] = r, im[j] = m;
        }
    }
}

static void fft(double scale)
{
    swap_bits();
    for (unsigned half = 1; half < POINTS; half *= 2) {
        unsigned step = POINTS / (2 * half);
        for (unsigned at = 0; at < POINTS; at += 2 * half)
            for (unsigned i = 0; i < half; i++) {
                double wr = root_re[i * step], wi = root_im[i * step];
                double xr = re[at + i + half], xi = im[at + i + half];
                double tr = wr * xr - wi * xi, ti = wr * xi + wi * xr;
                re[at + i + half] = re[at + i] - tr;
                im[at + i + half] = im[at + i] - ti;
                re[at + i] += tr;
                im[at + i] += ti;
            }
    }
    for (unsigned i = 0; i < POINTS; i++) {
        re[i] *= scale;
        im[i] *= scale;
    }
}

uint64_t fft_run(uint64_t work)
{
    for (uint64_t n = 0; n < work; n++)
        fft(1.0 / 64); /* 64 = sqrt(4096): the energy stays what it was */
    return bench_mix(bench_hash(re, sizeof(re)), bench_hash(im, sizeof(im)));
}

/* The sun and four giants, moved by small steps: square roots, divisions, chains of additions. */
struct body {
    double at[3], speed[3], mass;
};
static struct body bodies[BODIES];

void nbody_prepare(void)
{
    static const struct body start[BODIES] = {
        {{0, 0, 0}, {0, 0, 0}, 39.5},
        {{4.84, -1.16, -0.10}, {0.61, 2.81, -0.02}, 0.0377},
        {{8.34, 4.12, -0.4}, {-1.01, 1.82, 0.008}, 0.0113},
        {{12.89, -15.11, -0.22}, {1.08, 0.87, -0.01}, 0.0017},
        {{15.38, -25.92, 0.18}, {0.98, 0.59, -0.034}, 0.0020},
    };
    for (unsigned i = 0; i < BODIES; i++)
        bodies[i] = start[i];
}

static void pull(struct body *a, struct body *b, double dt)
{
    double d[3], square = 0;
    for (unsigned i = 0; i < 3; i++) {
        d[i] = a->at[i] - b->at[i];
        square += d[i] * d[i];
    }
    double force = dt / (square * __builtin_sqrt(square));
    for (unsigned i = 0; i < 3; i++) {
        a->speed[i] -= d[i] * b->mass * force;
        b->speed[i] += d[i] * a->mass * force;
    }
}

uint64_t nbody_run(uint64_t work)
{
    for (uint64_t n = 0; n < work; n++) {
        for (unsigned i = 0; i < BODIES; i++)
            for (unsigned j = i + 1; j < BODIES; j++)
                pull(&bodies[i], &bodies[j], 0.01);
        for (unsigned i = 0; i < BODIES; i++)
            for (unsigned k = 0; k < 3; k++)
                bodies[i].at[k] += 0.01 * bodies[i].speed[k];
    }
    return bench_hash(bodies, sizeof(bodies));
}

/* Scalar doubles with a branch on each turn. */
uint64_t mandelbrot_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++)
        for (unsigned column = 0; column < 64; column++) {
            double cr = -2.0 + column * (2.5 / 64), ci = -1.25 + (double)(n % 64) * (2.5 / 64);
            double zr = 0, zi = 0;
            unsigned turns = 0;
            for (; turns < 200 && zr * zr + zi * zi < 4; turns++) {
                double t = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + ci;
                zr = t;
            }
            sum += turns;
        }
    return sum;
}

/* Alpha blending of 8-bit pixels: packed integer vectors. */
static uint8_t over[PIXELS], under[PIXELS], alpha[PIXELS];

void blend_prepare(void)
{
    uint64_t state = 3003;
    for (unsigned i = 0; i < PIXELS; i++) {
        over[i] = (uint8_t)(bench_random(&state) >> 40);
        under[i] = (uint8_t)(bench_random(&state) >> 40);
        alpha[i] = (uint8_t)(bench_random(&state) >> 40);
    }
}

uint64_t blend_run(uint64_t work)
{
    for (uint64_t n = 0; n < work; n++)
        for (unsigned i = 0; i < PIXELS; i++) {
            uint16_t v = (uint16_t)(over[i] * alpha[i] + under[i] * (255 - alpha[i]));
            under[i] = (uint8_t)((v + 128 + (v >> 8)) >> 8);
        }
    return bench_hash(under, PIXELS);
}
