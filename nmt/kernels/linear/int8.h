/* Products of 8-bit integers with exact 32-bit sums; included by kernels.c.

Each row of the inputs and each output of the weight has its own scale, which maps its largest absolute value to 127.
The weight's integers are stored in panels of PANEL outputs, [pairs of inputs, PANEL, 2] each. */

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define PANEL 16
#define BLOCK 5 /* Number of rows whose sums stay in registers. */

/* Returns the scale of a row: largest absolute value / 127. NaN where the row holds a NaN or an infinity. */
ALWAYS_INLINE float scale_of(size features, const float *row) {
    float largest = 1.17549435e-38f, not_finite = 0.0f;
#pragma omp simd reduction(max : largest) reduction(+ : not_finite)
    for (size j = 0; j < features; j++) {
        float absolute = fabsf(row[j]);
        largest = absolute > largest ? absolute : largest;
        not_finite += row[j] * 0.0f;
    }
    return largest / 127.0f + not_finite;
}

/* Returns the product that an integer sum stands for, plus a bias. */
ALWAYS_INLINE float scaled(int32_t sum, float scale, float row_scale, float bias) {
    return bias + (float)sum * scale * row_scale;
}

/* Writes the integers and the scale of each row. */
void quantize(size rows, size features, const float *inputs, int8_t *integers, float *scales) {
#pragma omp parallel for schedule(static) if (rows * features > 32768)
    for (size i = 0; i < rows; i++) {
        const float *row = inputs + i * features, scale = scales[i] = scale_of(features, row);
#pragma omp simd
        for (size j = 0; j < features; j++) integers[i * features + j] = (int8_t)rintf(row[j] / scale);
    }
}

/* Writes scaled integer sums plus the bias, which may be NULL. */
void dequantize(
    size rows, size outputs, const int32_t *sums, const float *row_scales, const float *scales, const float *bias, float *out
) {
#pragma omp parallel for schedule(static) if (rows * outputs > 32768)
    for (size i = 0; i < rows; i++) {
        const int32_t *row = sums + i * outputs;
        float scale = row_scales[i];
#pragma omp simd
        for (size j = 0; j < outputs; j++)
            out[i * outputs + j] = scaled(row[j], scales[j], scale, bias ? bias[j] : 0.0f);
    }
}

/* Computes the sums of a panel for up to BLOCK rows of 16-bit inputs. */
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

/* Computes W x + b of float rows with integer products. The bias may be NULL. */
void integer_product(
    size rows, size inputs, size outputs, const float *x, const int8_t *panels, const float *scales, const float *bias,
    float *out
) {
    const size pairs = (inputs + 1) / 2, count = (outputs + PANEL - 1) / PANEL;
    /* With an odd number of inputs the second integer of the last pair is not set: the weight's is 0. */
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
                /* The number of rows is a constant in each inlined call. */
                switch (here) {
                case 1: panel_sums(1, pairs, block, panel, sums); break;
                case 2: panel_sums(2, pairs, block, panel, sums); break;
                case 3: panel_sums(3, pairs, block, panel, sums); break;
                case 4: panel_sums(4, pairs, block, panel, sums); break;
                default: panel_sums(BLOCK, pairs, block, panel, sums);
                }
                for (size r = 0; r < here; r++)
                    for (size j = 0; j < width; j++)
                        out[(i + r) * outputs + first + j] = scaled(
                            sums[r][j], scales[first + j], row_scales[i + r], bias ? bias[first + j] : 0.0f
                        );
            }
        }
    }
    free(row_scales);
    free(integers);
}
