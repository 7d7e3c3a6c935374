/* Dropout in one pass; part of kernels.h. The mask takes a byte for each element and is kept for the backward pass.

A group of 64 elements takes its bits from 8 consecutive blocks of the generator: the bits of an element depend on its
index alone, not on the threads. */

ALWAYS_INLINE void NAME(keep)(size count, E scale, const S *inputs, const int8_t *kept, S *outputs) {
#pragma omp simd
    for (size e = 0; e < count; e++) outputs[e] = PUT(GET(inputs[e]) * ((E)kept[e] * scale));
}

void NAME(dropout)(size elements, const uint64_t *key, size dropped, E scale, const S *inputs, S *outputs, int8_t *kept) {
#pragma omp parallel for schedule(static) if (elements > 32768)
    for (size first = 0; first < elements; first += GROUP) {
        uint32_t words[GROUP / 2];
        uint16_t bits[GROUP];
        philox(*key, (uint64_t)first / 8, words);
        memcpy(bits, words, sizeof bits);
        size count = elements - first < GROUP ? elements - first : GROUP;
#pragma omp simd
        for (size e = 0; e < count; e++) kept[first + e] = bits[e] >= (uint16_t)dropped;
        NAME(keep)(count, scale, inputs + first, kept + first, outputs + first);
    }
}

void NAME(dropout_backward)(size elements, E scale, const S *d_outputs, const int8_t *kept, S *d_inputs) {
#pragma omp parallel for schedule(static) if (elements > 32768)
    for (size first = 0; first < elements; first += GROUP) {
        size count = elements - first < GROUP ? elements - first : GROUP;
        NAME(keep)(count, scale, d_outputs + first, kept + first, d_inputs + first);
    }
}
