/* Steps of a long short-term memory; part of kernels.h. */

/* Computes a step of one row: i, f, o = sigmoid(..), g = tanh(..), c' = f c + i g, h' = o tanh(c'). `copy` is h' in the
compute dtype. */
ALWAYS_INLINE void NAME(lstm_row)(
    size h, const S *input, const S *more, const S *recurrent, const E *cell, E *after_cell, E *state, S *copy,
    const int has_more, const int has_copy
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E i = NAME(sigmoid)(NAME(gate_sum)(input, more, recurrent, j, has_more));
        E f = NAME(sigmoid)(NAME(gate_sum)(input, more, recurrent, h + j, has_more));
        E g = NAME(tanh)(NAME(gate_sum)(input, more, recurrent, 2 * h + j, has_more));
        E o = NAME(sigmoid)(NAME(gate_sum)(input, more, recurrent, 3 * h + j, has_more));
        after_cell[j] = f * cell[j] + i * g;
        state[j] = o * NAME(tanh)(after_cell[j]);
        if (has_copy) copy[j] = PUT(state[j]);
    }
}

/* Writes the cell and the output after a step. */
void NAME(lstm)(const NAME(GateInputs) *all, const E *cell, E *after_cell, E *after, S *copy) {
    const NAME(GateInputs) g = *all;
    const size h = g.hidden;
#pragma omp parallel for schedule(static) if (g.rows * h > 8192)
    for (size b = 0; b < g.rows; b++) {
        const S *input = g.input + b * g.input_stride, *more = g.more ? g.more + b * g.more_stride : NULL;
        const S *recurrent = g.recurrent + b * g.recurrent_stride;
        S *copy_row = copy ? copy + b * h : NULL;
#define ROW(has_more, has_copy)                                                                                        \
    NAME(lstm_row)(                                                                                                    \
        h, input, more, recurrent, cell + b * h, after_cell + b * h, after + b * h, copy_row, has_more, has_copy       \
    )
        IN_EVERY_CASE(more, copy_row)
#undef ROW
    }
}

ALWAYS_INLINE void NAME(lstm_row_backward)(
    size h, const S *input, const S *more, const S *recurrent, const E *before, const E *after, const E *d_after_row,
    const S *pending, const E *d_after_cell, S *d_gates_row, E *d_before, const int has_more, const int has_pending
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E i = NAME(sigmoid)(NAME(gate_sum)(input, more, recurrent, j, has_more));
        E f = NAME(sigmoid)(NAME(gate_sum)(input, more, recurrent, h + j, has_more));
        E g = NAME(tanh)(NAME(gate_sum)(input, more, recurrent, 2 * h + j, has_more));
        E o = NAME(sigmoid)(NAME(gate_sum)(input, more, recurrent, 3 * h + j, has_more));
        E bounded = NAME(tanh)(after[j]);
        E d = has_pending ? d_after_row[j] + GET(pending[j]) : d_after_row[j];
        E d_cell = d_after_cell[j] + d * o * ((E)1 - bounded * bounded);
        d_gates_row[j] = PUT(d_cell * g * i * ((E)1 - i));
        d_gates_row[h + j] = PUT(d_cell * before[j] * f * ((E)1 - f));
        d_gates_row[2 * h + j] = PUT(d_cell * i * ((E)1 - g * g));
        d_gates_row[3 * h + j] = PUT(d * bounded * o * ((E)1 - o));
        d_before[j] += d_cell * f;
    }
}

/* Writes the gradient of the gates' pre-activations to `d_gates` and, unless it is NULL, to `d_copy`. Adds the gradient
of the cell before the step to `d_cell`. */
void NAME(lstm_backward)(
    const NAME(GateInputs) *all, const E *cell, const E *after_cell, const E *d_after, const S *pending,
    const E *d_after_cell, S *d_gates, size d_gates_stride, S *d_copy, size d_copy_stride, E *d_cell
) {
    const NAME(GateInputs) g = *all;
    const size h = g.hidden;
#pragma omp parallel for schedule(static) if (g.rows * h > 8192)
    for (size b = 0; b < g.rows; b++) {
        const S *input = g.input + b * g.input_stride, *more = g.more ? g.more + b * g.more_stride : NULL;
        const S *recurrent = g.recurrent + b * g.recurrent_stride, *pending_row = pending ? pending + b * h : NULL;
        S *d_gates_row = d_gates + b * d_gates_stride;
#define ROW(has_more, has_pending)                                                                                     \
    NAME(lstm_row_backward)(                                                                                           \
        h, input, more, recurrent, cell + b * h, after_cell + b * h, d_after + b * h, pending_row,                     \
        d_after_cell + b * h, d_gates_row, d_cell + b * h, has_more, has_pending                                       \
    )
        IN_EVERY_CASE(more, pending_row)
#undef ROW
        if (d_copy) memcpy(d_copy + b * d_copy_stride, d_gates_row, sizeof(S) * (size_t)(4 * h));
    }
}
