/* Dropout in one pass: bits are drawn, decided upon and forgotten; a byte of each element is kept for the way back.

Elements come in groups of 64, whose bits are 8 consecutive blocks of the generator: what an element draws depends on
its number alone, not on the threads. */

void NAME(dropout)(size elements, const uint64_t *key, size dropped, E scale, const S *inputs, S *outputs, int8_t *kept) {
#pragma omp parallel for schedule(static) if (elements > 32768)
    for (size first = 0; first < elements; first += GROUP) {
        uint32_t words[GROUP / 2];
        uint16_t bits[GROUP];
        philox(*key, (uint64_t)first / 8, words);
        memcpy(bits, words, sizeof bits);
        size count = elements - first < GROUP ? elements - first : GROUP;
#pragma omp simd
        for (size e = 0; e < count; e++) {
            int8_t stays = bits[e] >= (uint16_t)dropped;
            kept[first + e] = stays;
            outputs[first + e] = PUT(stays ? GET(inputs[first + e]) * scale : (E)0);
        }
    }
}

void NAME(dropout_backward)(size elements, E scale, const S *d_outputs, const int8_t *kept, S *d_inputs) {
#pragma omp parallel for simd schedule(static) if (elements > 32768)
    for (size e = 0; e < elements; e++) d_inputs[e] = PUT(kept[e] ? GET(d_outputs[e]) * scale : (E)0);
}
