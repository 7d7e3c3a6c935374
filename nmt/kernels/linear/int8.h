/* Products of 8-bit integers with exact sums of 32 bits; part of kernels.c.

A row of inputs becomes integers by a scale of its own: its largest number is 127. So does each output of a weight,
whose integers lie in panels of PANEL outputs: in a panel one pair of inputs after the other, of each pair all outputs. */

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define PANEL 16
#define BLOCK 5 /* rows whose sums stay in registers */

/* What the integers of a row are to be multiplied by; no number where one of the row is none or infinite. */
ALWAYS_INLINE float scale_of(size features, const float *row) {
    float largest = 1.17549435e-38f, nothing = 0.0f;
#pragma omp simd reduction(max : largest) reduction(+ : nothing)
    for (size j = 0; j < features; j++) {
        float size_of = fabsf(row[j]);
        largest = size_of > largest ? size_of : largest;
        nothing += row[j] * 0.0f;
    }
    return largest / 127.0f + nothing;
}

ALWAYS_INLINE float meant(int32_t sum, float scale, float row_scale, float bias) {
    return bias + (float)sum * scale * row_scale;
}

/* Integers of rows and their scales. */
void quantize(size rows, size features, const float *inputs, int8_t *integers, float *scales) {
#pragma omp parallel for schedule(static) if (rows * features > 32768)
    for (size i = 0; i < rows; i++) {
        const float *row = inputs + i * features, scale = scales[i] = scale_of(features, row);
#pragma omp simd
        for (size j = 0; j < features; j++) integers[i * features + j] = (int8_t)rintf(row[j] / scale);
    }
}

/* What sums of products of integers stand for, and a bias, which may be NULL. */
void dequantize(
    size rows, size outputs, const int32_t *sums, const float *row_scales, const float *scales, const float *bias, float *out
) {
#pragma omp parallel for schedule(static) if (rows * outputs > 32768)
    for (size i = 0; i < rows; i++) {
        const int32_t *row = sums + i * outputs;
        float scale = row_scales[i];
#pragma omp simd
        for (size j = 0; j < outputs; j++) out[i * outputs + j] = meant(row[j], scales[j], scale, bias ? bias[j] : 0.0f);
    }
}

/* Sums of a panel for up to BLOCK rows of 16-bit inputs. */
ALWAYS_INLINE void panel_sums(
    const int rows, size pairs, const int16_t *inputs, const int8_t *panel, int32_t sums[BLOCK][PANEL]
) {
#ifdef __AVX2__
    __m256i low[BLOCK], high[BLOCK];
    for (int r = 0; r < rows; r++) low[r] = high[r] = _mm256_setzero_si256();
    for (size k = 0; k < pairs; k++) {
        __m256i first = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(panel + 2 * PANEL * k)));
        __m256i second = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(panel + 2 * PANEL * k + PANEL)));
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, inputs + 2 * (r * pairs + k), 4);
            __m256i both = _mm256_set1_epi32(pair);
            low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(first, both));
            high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(second, both));
        }
    }
    for (int r = 0; r < rows; r++) {
        _mm256_storeu_si256((__m256i *)sums[r], low[r]);
        _mm256_storeu_si256((__m256i *)(sums[r] + PANEL / 2), high[r]);
    }
#else
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < PANEL; j++) sums[r][j] = 0;
    for (size k = 0; k < pairs; k++)
        for (int r = 0; r < rows; r++) {
            int32_t one = inputs[2 * (r * pairs + k)], other = inputs[2 * (r * pairs + k) + 1];
#pragma omp simd
            for (int j = 0; j < PANEL; j++)
                sums[r][j] += one * panel[2 * PANEL * k + 2 * j] + other * panel[2 * PANEL * k + 2 * j + 1];
        }
#endif
}

/* W x + b of float rows, by integers of both; the bias may be NULL. */
void integer_product(
    size rows, size inputs, size outputs, const float *x, const int8_t *panels, const float *scales, const float *bias,
    float *out
) {
    const size pairs = (inputs + 1) / 2, count = (outputs + PANEL - 1) / PANEL;
    /* Where a pair lacks its second half, that of the weight is 0. */
    int16_t *integers = malloc(sizeof(int16_t) * (size_t)(2 * pairs * rows));
    float *row_scales = malloc(sizeof(float) * (size_t)rows);
#pragma omp parallel if (rows * inputs * outputs > 524288)
    {
#pragma omp for schedule(static)
        for (size i = 0; i < rows; i++) {
            const float *row = x + i * inputs, scale = row_scales[i] = scale_of(inputs, row);
#pragma omp simd
            for (size j = 0; j < inputs; j++) integers[2 * pairs * i + j] = (int16_t)rintf(row[j] / scale);
        }
#pragma omp for schedule(static)
        for (size p = 0; p < count; p++) {
            const int8_t *panel = panels + 2 * PANEL * pairs * p;
            const size first = PANEL * p, width = outputs - first < PANEL ? outputs - first : PANEL;
            for (size i = 0; i < rows; i += BLOCK) {
                const int16_t *block = integers + 2 * pairs * i;
                const size here = rows - i < BLOCK ? rows - i : BLOCK;
                int32_t sums[BLOCK][PANEL];
                /* As many rows as there are, known where it is inlined. */
                switch (here) {
                case 1: panel_sums(1, pairs, block, panel, sums); break;
                case 2: panel_sums(2, pairs, block, panel, sums); break;
                case 3: panel_sums(3, pairs, block, panel, sums); break;
                case 4: panel_sums(4, pairs, block, panel, sums); break;
                default: panel_sums(BLOCK, pairs, block, panel, sums);
                }
                for (size r = 0; r < here; r++)
                    for (size j = 0; j < width; j++)
                        out[(i + r) * outputs + first + j] = meant(
                            sums[r][j], scales[first + j], row_scales[i + r], bias ? bias[first + j] : 0.0f
                        );
            }
        }
    }
    free(row_scales);
    free(integers);
}
