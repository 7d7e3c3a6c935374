/* Steps of a gated recurrent unit: in a recurrence, in the search, and in a layer over packed rows; part of kernels.h. */

/* One hidden unit: r = sigmoid(a_r + b_r), z = sigmoid(a_z + b_z), n = tanh(a_n + r b_n), h' = n + z (h - n). */
ALWAYS_INLINE E NAME(gru_candidate)(E reset, E input, E recurrent) { return NAME(tanh)(input + reset * recurrent); }

ALWAYS_INLINE E NAME(gru_state)(E update, E candidate, E before) { return candidate + update * (before - candidate); }

/* Return the gradients of the pre-activations a_n, a_z and a_r. d is the gradient of h'. */
ALWAYS_INLINE E NAME(gru_d_candidate)(E d, E update, E candidate) {
    return d * ((E)1 - update) * ((E)1 - candidate * candidate);
}

ALWAYS_INLINE E NAME(gru_d_update)(E d, E update, E candidate, E before) {
    return d * (before - candidate) * update * ((E)1 - update);
}

ALWAYS_INLINE E NAME(gru_d_reset)(E d_candidate, E reset, E recurrent) {
    return d_candidate * recurrent * reset * ((E)1 - reset);
}

/* Computes a step of one row. `copy` is the state in the compute dtype. */
ALWAYS_INLINE void NAME(gru_row)(
    size h, const S *input, const S *more, const S *recurrent, const E *before, E *state, S *copy, const int has_more,
    const int has_copy
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E r = NAME(sigmoid)(NAME(gate_sum)(input, more, recurrent, j, has_more));
        E z = NAME(sigmoid)(NAME(gate_sum)(input, more, recurrent, h + j, has_more));
        E n = NAME(gru_candidate)(r, NAME(input_half)(input, more, 2 * h + j, has_more), GET(recurrent[2 * h + j]));
        state[j] = NAME(gru_state)(z, n, before[j]);
        if (has_copy) copy[j] = PUT(state[j]);
    }
}

void NAME(gru)(const NAME(GateInputs) *all, const E *before, E *after, S *copy) {
    const NAME(GateInputs) g = *all;
    const size h = g.hidden;
#pragma omp parallel for schedule(static) if (g.rows * h > 8192)
    for (size b = 0; b < g.rows; b++) {
        const S *input = g.input + b * g.input_stride, *more = g.more ? g.more + b * g.more_stride : NULL;
        const S *recurrent = g.recurrent + b * g.recurrent_stride;
        S *copy_row = copy ? copy + b * h : NULL;
#define ROW(has_more, has_copy)                                                                                        \
    NAME(gru_row)(h, input, more, recurrent, before + b * h, after + b * h, copy_row, has_more, has_copy)
        IN_EVERY_CASE(more, copy_row)
#undef ROW
    }
}

ALWAYS_INLINE void NAME(gru_row_backward)(
    size h, const S *input, const S *more, const S *recurrent, const E *before, const E *d_after, const S *pending,
    S *d_input, S *d_recurrent, E *d_before, const int has_more, const int has_pending
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E entry = GET(recurrent[2 * h + j]), d = has_pending ? d_after[j] + GET(pending[j]) : d_after[j];
        E r = NAME(sigmoid)(NAME(gate_sum)(input, more, recurrent, j, has_more));
        E z = NAME(sigmoid)(NAME(gate_sum)(input, more, recurrent, h + j, has_more));
        E n = NAME(gru_candidate)(r, NAME(input_half)(input, more, 2 * h + j, has_more), entry);
        E d_n = NAME(gru_d_candidate)(d, z, n);
        d_before[j] += d * z;
        d_input[j] = d_recurrent[j] = PUT(NAME(gru_d_reset)(d_n, r, entry));
        d_input[h + j] = d_recurrent[h + j] = PUT(NAME(gru_d_update)(d, z, n, before[j]));
        d_input[2 * h + j] = PUT(d_n);
        d_recurrent[2 * h + j] = PUT(d_n * r);
    }
}

/* Writes the gradients of both halves of the gates. Adds the gradient of the state before the step to `d_before`. */
void NAME(gru_backward)(
    const NAME(GateInputs) *all, const E *before, const E *d_after, const S *pending, S *d_input, size d_input_stride,
    S *d_recurrent, size d_recurrent_stride, E *d_before
) {
    const NAME(GateInputs) g = *all;
    const size h = g.hidden;
#pragma omp parallel for schedule(static) if (g.rows * h > 8192)
    for (size b = 0; b < g.rows; b++) {
        const S *input = g.input + b * g.input_stride, *more = g.more ? g.more + b * g.more_stride : NULL;
        const S *recurrent = g.recurrent + b * g.recurrent_stride, *pending_row = pending ? pending + b * h : NULL;
#define ROW(has_more, has_pending)                                                                                     \
    NAME(gru_row_backward)(                                                                                            \
        h, input, more, recurrent, before + b * h, d_after + b * h, pending_row, d_input + b * d_input_stride,         \
        d_recurrent + b * d_recurrent_stride, d_before + b * h, has_more, has_pending                                  \
    )
        IN_EVERY_CASE(more, pending_row)
#undef ROW
    }
}

typedef struct {
    size directions, elements, hidden;
    const size *mirrored; /* the element of each in the second direction */
    E *sigmoids;          /* [D, P, 2 H] */
    E *entries, *candidates, *outputs; /* [D, P, H]; entries are the candidates' recurrent halves */
} NAME(Packed);

/* Computes one element. The first of a row has no state before it, so its recurrent half is the bias. */
ALWAYS_INLINE void NAME(packed_row)(
    size h, const S *input, const S *recurrent, const E *bias, const E *before, E *sigmoids, E *entries, E *candidates,
    E *state, E *output, const int is_first
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E r = NAME(sigmoid)(GET(input[j]) + (is_first ? bias[j] : GET(recurrent[j])));
        E z = NAME(sigmoid)(GET(input[h + j]) + (is_first ? bias[h + j] : GET(recurrent[h + j])));
        E entry = is_first ? bias[2 * h + j] : GET(recurrent[2 * h + j]);
        E n = NAME(gru_candidate)(r, GET(input[2 * h + j]), entry);
        sigmoids[j] = r;
        sigmoids[h + j] = z;
        entries[j] = entry;
        candidates[j] = n;
        output[j] = state[j] = NAME(gru_state)(z, n, is_first ? (E)0 : before[j]);
    }
}

/* Computes a step of all directions over packed rows, of elements first to first + rows, whose states before begin at
`before`. `operands` are the states in the compute dtype, `outputs` the directions side by side. */
void NAME(packed_gru)(
    const NAME(Packed) *all, size first, size rows, size before, const S *gates, const S *const *recurrent,
    const E *bias, S *operands, E *outputs
) {
    const NAME(Packed) p = *all;
    const size h = p.hidden, width = p.directions * h;
#pragma omp parallel for schedule(static) collapse(2) if (p.directions * rows * h > 8192)
    for (size d = 0; d < p.directions; d++) {
        for (size i = 0; i < rows; i++) {
            size element = d ? p.mirrored[first + i] : first + i, row = d * p.elements + first + i;
            const S *input = gates + element * 3 * width + d * 3 * h;
            E *sigmoids = p.sigmoids + row * 2 * h, *entries = p.entries + row * h, *state = p.outputs + row * h;
            E *candidates = p.candidates + row * h, *output = outputs + element * width + d * h;
            if (first) {
                const E *state_before = p.outputs + (d * p.elements + before + i) * h;
                const S *half = recurrent[d] + i * 3 * h;
                NAME(packed_row)(
                    h, input, half, NULL, state_before, sigmoids, entries, candidates, state, output, 0
                );
            } else
                NAME(packed_row)(
                    h, input, NULL, bias + d * 3 * h, NULL, sigmoids, entries, candidates, state, output, 1
                );
            if (operands) {
                S *operand = operands + row * h;
#pragma omp simd
                for (size j = 0; j < h; j++) operand[j] = PUT(state[j]);
            }
        }
    }
}

ALWAYS_INLINE void NAME(packed_row_backward)(
    size h, const E *sigmoids, const E *entries, const E *candidates, const E *before, const E *d_state,
    S *d_recurrent, S *d_input, const int is_first
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E r = sigmoids[j], z = sigmoids[h + j], n = candidates[j], d = d_state[j];
        E d_n = NAME(gru_d_candidate)(d, z, n);
        E d_z = NAME(gru_d_update)(d, z, n, is_first ? (E)0 : before[j]);
        d_input[j] = d_recurrent[j] = PUT(NAME(gru_d_reset)(d_n, r, entries[j]));
        d_input[h + j] = d_recurrent[h + j] = PUT(d_z);
        d_input[2 * h + j] = PUT(d_n);
        d_recurrent[2 * h + j] = PUT(d_n * r);
    }
}

/* Computes the backward pass of this step. The first `rows_after` elements have a next one, whose gradient is added. */
void NAME(packed_gru_backward)(
    const NAME(Packed) *all, size first, size rows, size before, size rows_after, const S *const *pending, E *d_states,
    S *d_recurrent, S *d_gates
) {
    const NAME(Packed) p = *all;
    const size h = p.hidden, width = p.directions * h, after = first + rows;
#pragma omp parallel for schedule(static) collapse(2) if (p.directions * rows * h > 8192)
    for (size d = 0; d < p.directions; d++) {
        for (size i = 0; i < rows; i++) {
            size element = d ? p.mirrored[first + i] : first + i, row = d * p.elements + first + i;
            const E *sigmoids = p.sigmoids + row * 2 * h, *entries = p.entries + row * h;
            const E *candidates = p.candidates + row * h;
            const E *state_before = first ? p.outputs + (d * p.elements + before + i) * h : NULL;
            S *to_recurrent = d_recurrent + row * 3 * h, *to_input = d_gates + element * 3 * width + d * 3 * h;
            E *d_state = d_states + row * h;
            if (i < rows_after) {
                size next = d * p.elements + after + i;
                const E *d_next = d_states + next * h, *update = p.sigmoids + next * 2 * h + h;
                const S *pending_row = pending[d] + i * h;
#pragma omp simd
                for (size j = 0; j < h; j++) d_state[j] += d_next[j] * update[j] + GET(pending_row[j]);
            }
            if (first)
                NAME(packed_row_backward)(
                    h, sigmoids, entries, candidates, state_before, d_state, to_recurrent, to_input, 0
                );
            else
                NAME(packed_row_backward)(h, sigmoids, entries, candidates, NULL, d_state, to_recurrent, to_input, 1);
        }
    }
}
