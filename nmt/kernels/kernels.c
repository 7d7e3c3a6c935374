/* The kernels of kernels.h for each format of products: float, double, and bf16 with sums in single precision.

Compiled by nmt/kernels/compiler.py with the machine's own C compiler. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t size;
typedef uint16_t bf16;

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE float from_bf16(bf16 short_x) {
    uint32_t bits = (uint32_t)short_x << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* Rounds to the nearest, halves to even. NaN stays NaN. */
ALWAYS_INLINE bf16 to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bf16)(x == x ? rounded : 0x7fc0);
}

/* e^x to about a unit in the last place, written so that a compiler turns it into vectors: x = n log 2 + r with r at
most half of log 2, e^r by its Taylor series with coefficients fitted to that range, times 2^n by the exponent's bits.
0 below the smallest normal number. */
ALWAYS_INLINE float exp_float(float x) {
    const float least = -87.33f, most = 88.37f, rounding = 12582912.0f; /* 1.5 * 2^23: what is added loses its fraction */
    float y = x < least ? least : x;
    y = y > most ? most : y;
    float n = (y * 1.44269504088896341f + rounding) - rounding;
    float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits;
    memcpy(&bits, &p, 4);
    bits += (int32_t)n << 23;
    memcpy(&p, &bits, 4);
    p = x > most ? INFINITY : p;
    return x < least ? 0.0f : p;
}

#define GROUP 64

/* Philox4x32-10 (Salmon 2011, section 3.3) of a key and 8 consecutive counters: words w of all 8 blocks lie side by
side, from word 0 to word 3. */
ALWAYS_INLINE void philox(uint64_t key, uint64_t counter, uint32_t *words) {
    uint32_t a[8], b[8], c[8] = {0}, d[8] = {0};
    for (int i = 0; i < 8; i++) {
        a[i] = (uint32_t)(counter + (uint64_t)i);
        b[i] = (uint32_t)((counter + (uint64_t)i) >> 32);
    }
    uint32_t one = (uint32_t)key, other = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
#pragma omp simd
        for (int i = 0; i < 8; i++) {
            uint64_t left = (uint64_t)a[i] * 0xD2511F53u, right = (uint64_t)c[i] * 0xCD9E8D57u;
            a[i] = (uint32_t)(right >> 32) ^ b[i] ^ one;
            b[i] = (uint32_t)right;
            c[i] = (uint32_t)(left >> 32) ^ d[i] ^ other;
            d[i] = (uint32_t)left;
        }
        one += 0x9E3779B9u;
        other += 0xBB67AE85u;
    }
    memcpy(words, a, sizeof a);
    memcpy(words + 8, b, sizeof b);
    memcpy(words + 16, c, sizeof c);
    memcpy(words + 24, d, sizeof d);
}

/* The words of `count` groups, as dropout draws them. */
void draw(uint64_t key, size count, uint32_t *words) {
    for (size group = 0; group < count; group++) philox(key, (uint64_t)group * (GROUP / 8), words + group * (GROUP / 2));
}

#define NAME(name) name##_float
#define E float
#define S float
#define GET(x) (x)
#define PUT(x) (x)
#define EXP(x) exp_float(x)
#define LIMIT 43.0f
#include "kernels.h"

#define NAME(name) name##_bf16
#define E float
#define S bf16
#define GET(x) from_bf16(x)
#define PUT(x) to_bf16(x)
#define EXP(x) exp_float(x)
#define LIMIT 43.0f
#include "kernels.h"

#define NAME(name) name##_double
#define E double
#define S double
#define GET(x) (x)
#define PUT(x) (x)
#define EXP(x) exp(x)
#define LIMIT 350.0
#include "kernels.h"

#include "linear/int8.h"
