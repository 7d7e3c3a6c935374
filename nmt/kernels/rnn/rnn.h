/* Steps of a simple recurrence, and the gate inputs of all cells; part of kernels.h.

Gate inputs are the terms of a cell's pre-activations: the input's half, in one term or two, and the recurrent half. */

typedef struct {
    size rows, hidden;
    const S *input, *more, *recurrent; /* more may be NULL */
    size input_stride, more_stride, recurrent_stride;
} NAME(GateInputs);

/* Returns the input's half of a pre-activation. */
ALWAYS_INLINE E NAME(input_half)(const S *input, const S *more, size j, const int has_more) {
    return has_more ? GET(input[j]) + GET(more[j]) : GET(input[j]);
}

/* Returns the sum of both halves. */
ALWAYS_INLINE E NAME(gate_sum)(const S *input, const S *more, const S *recurrent, size j, const int has_more) {
    E x = GET(input[j]) + GET(recurrent[j]);
    return has_more ? x + GET(more[j]) : x;
}

/* Calls ROW(has_more, has_other) with constants, so that the inlined loop has no branch. */
#define IN_EVERY_CASE(more, other)                                                                                     \
    if (more) {                                                                                                        \
        if (other)                                                                                                     \
            ROW(1, 1);                                                                                                 \
        else                                                                                                           \
            ROW(1, 0);                                                                                                 \
    } else if (other)                                                                                                  \
        ROW(0, 1);                                                                                                     \
    else                                                                                                               \
        ROW(0, 0);

ALWAYS_INLINE void NAME(rnn_row)(
    size h, const S *input, const S *more, const S *recurrent, E *state, S *copy, const int has_more, const int has_copy
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E value = NAME(tanh)(NAME(gate_sum)(input, more, recurrent, j, has_more));
        if (state) state[j] = value;
        if (has_copy) copy[j] = PUT(value);
    }
}

/* Writes the tanh of the sum in the accumulation dtype, the compute dtype or both; `after` or `copy` may be NULL. */
void NAME(rnn)(const NAME(GateInputs) *all, E *after, S *copy) {
    const NAME(GateInputs) g = *all;
    const size h = g.hidden;
#pragma omp parallel for schedule(static) if (g.rows * h > 8192)
    for (size b = 0; b < g.rows; b++) {
        const S *input = g.input + b * g.input_stride, *more = g.more ? g.more + b * g.more_stride : NULL;
        const S *recurrent = g.recurrent + b * g.recurrent_stride;
        E *state = after ? after + b * h : NULL;
        S *copy_row = copy ? copy + b * h : NULL;
#define ROW(has_more, has_copy)                                                                                        \
    NAME(rnn_row)(h, input, more, recurrent, state, copy_row, has_more, has_copy)
        IN_EVERY_CASE(more, copy_row)
#undef ROW
    }
}

/* Writes the gradient of the sum to `d_gates` and, unless it is NULL, to `d_copy`. The step's result is `after` or, where
that is NULL, `copy`. */
void NAME(rnn_backward)(
    size rows, size h, const E *after, const S *copy, const E *d_after, const S *pending, S *d_gates,
    size d_gates_stride, S *d_copy, size d_copy_stride
) {
#pragma omp parallel for schedule(static) if (rows * h > 8192)
    for (size b = 0; b < rows; b++) {
        const E *d_after_row = d_after + b * h;
        S *d_gates_row = d_gates + b * d_gates_stride;
#pragma omp simd
        for (size j = 0; j < h; j++) {
            E value = after ? after[b * h + j] : GET(copy[b * h + j]);
            E d = pending ? d_after_row[j] + GET(pending[b * h + j]) : d_after_row[j];
            d_gates_row[j] = PUT(d * ((E)1 - value * value));
        }
        if (d_copy) memcpy(d_copy + b * d_copy_stride, d_gates_row, sizeof(S) * (size_t)h);
    }
}
