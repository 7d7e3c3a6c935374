/* Steps of recurrent cells; part of kernels.h.

What enters a cell are halves of its gates: of the input, in one part or two, and of the state before. */

typedef struct {
    size rows, hidden;
    const S *input, *more, *recurrent; /* more may be NULL */
    size input_in, more_in, recurrent_in;
} NAME(Entering);

ALWAYS_INLINE E NAME(from_input)(const S *input, const S *more, size j, const int has_more) {
    return has_more ? GET(input[j]) + GET(more[j]) : GET(input[j]);
}

ALWAYS_INLINE E NAME(entered)(const S *input, const S *more, const S *recurrent, size j, const int has_more) {
    E x = GET(input[j]) + GET(recurrent[j]);
    return has_more ? x + GET(more[j]) : x;
}

/* Calls ROW(has_more, has_other) with what may be missing known where it is inlined, so that its loop has no branch. */
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

/* One sentence's step of a gated recurrent unit, and a copy in the format of products. */
ALWAYS_INLINE void NAME(gru_row)(
    size h, const S *input, const S *more, const S *recurrent, const E *before, E *state, S *copy, const int has_more,
    const int has_copy
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E r = NAME(entered)(input, more, recurrent, j, has_more);
        E z = NAME(entered)(input, more, recurrent, h + j, has_more);
        E n = NAME(from_input)(input, more, 2 * h + j, has_more);
        n = NAME(hyperbolic)(n + NAME(sigmoid)(r) * GET(recurrent[2 * h + j]));
        state[j] = n + NAME(sigmoid)(z) * (before[j] - n);
        if (has_copy) copy[j] = PUT(state[j]);
    }
}

void NAME(gru)(const NAME(Entering) *all, const E *before, E *after, S *copy) {
    const NAME(Entering) g = *all;
    const size h = g.hidden;
#pragma omp parallel for schedule(static) if (g.rows * h > 8192)
    for (size b = 0; b < g.rows; b++) {
        const S *more = g.more ? g.more + b * g.more_in : NULL;
        S *copied = copy ? copy + b * h : NULL;
#define ROW(has_more, has_copy)                                                                                        \
    NAME(gru_row)(                                                                                                     \
        h, g.input + b * g.input_in, more, g.recurrent + b * g.recurrent_in, before + b * h, after + b * h, copied,    \
        has_more, has_copy                                                                                             \
    )
        IN_EVERY_CASE(more, copied)
#undef ROW
    }
}

ALWAYS_INLINE void NAME(gru_row_backward)(
    size h, const S *input, const S *more, const S *recurrent, const E *before, const E *outside, const S *sent,
    S *to_input, S *to_recurrent, E *to_before, const int has_more, const int has_sent
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E entry = GET(recurrent[2 * h + j]), d = has_sent ? outside[j] + GET(sent[j]) : outside[j];
        E r = NAME(sigmoid)(NAME(entered)(input, more, recurrent, j, has_more));
        E z = NAME(sigmoid)(NAME(entered)(input, more, recurrent, h + j, has_more));
        E n = NAME(from_input)(input, more, 2 * h + j, has_more);
        n = NAME(hyperbolic)(n + r * entry);
        E d_n = d * ((E)1 - z) * ((E)1 - n * n);
        E d_z = d * (before[j] - n) * z * ((E)1 - z);
        E d_r = d_n * entry * r * ((E)1 - r);
        to_before[j] += d * z;
        to_input[j] = to_recurrent[j] = PUT(d_r);
        to_input[h + j] = to_recurrent[h + j] = PUT(d_z);
        to_input[2 * h + j] = PUT(d_n);
        to_recurrent[2 * h + j] = PUT(d_n * r);
    }
}

/* The gradients of both halves, written, and of the state before, added. */
void NAME(gru_backward)(
    const NAME(Entering) *all, const E *before, const E *d_after, const S *sent, S *d_input, size d_input_in,
    S *d_recurrent, size d_recurrent_in, E *d_before
) {
    const NAME(Entering) g = *all;
    const size h = g.hidden;
#pragma omp parallel for schedule(static) if (g.rows * h > 8192)
    for (size b = 0; b < g.rows; b++) {
        const S *more = g.more ? g.more + b * g.more_in : NULL, *arrived = sent ? sent + b * h : NULL;
#define ROW(has_more, has_sent)                                                                                        \
    NAME(gru_row_backward)(                                                                                            \
        h, g.input + b * g.input_in, more, g.recurrent + b * g.recurrent_in, before + b * h, d_after + b * h, arrived, \
        d_input + b * d_input_in, d_recurrent + b * d_recurrent_in, d_before + b * h, has_more, has_sent               \
    )
        IN_EVERY_CASE(more, arrived)
#undef ROW
    }
}

ALWAYS_INLINE void NAME(lstm_row)(
    size h, const S *input, const S *more, const S *recurrent, const E *cell, E *after_cell, E *state, S *copy,
    const int has_more, const int has_copy
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E i = NAME(sigmoid)(NAME(entered)(input, more, recurrent, j, has_more));
        E f = NAME(sigmoid)(NAME(entered)(input, more, recurrent, h + j, has_more));
        E g = NAME(hyperbolic)(NAME(entered)(input, more, recurrent, 2 * h + j, has_more));
        E o = NAME(sigmoid)(NAME(entered)(input, more, recurrent, 3 * h + j, has_more));
        after_cell[j] = f * cell[j] + i * g;
        state[j] = o * NAME(hyperbolic)(after_cell[j]);
        if (has_copy) copy[j] = PUT(state[j]);
    }
}

/* Cell and output after a step of a long short-term memory. */
void NAME(lstm)(const NAME(Entering) *all, const E *cell, E *after_cell, E *after, S *copy) {
    const NAME(Entering) g = *all;
    const size h = g.hidden;
#pragma omp parallel for schedule(static) if (g.rows * h > 8192)
    for (size b = 0; b < g.rows; b++) {
        const S *more = g.more ? g.more + b * g.more_in : NULL;
        S *copied = copy ? copy + b * h : NULL;
#define ROW(has_more, has_copy)                                                                                        \
    NAME(lstm_row)(                                                                                                    \
        h, g.input + b * g.input_in, more, g.recurrent + b * g.recurrent_in, cell + b * h, after_cell + b * h,         \
        after + b * h, copied, has_more, has_copy                                                                      \
    )
        IN_EVERY_CASE(more, copied)
#undef ROW
    }
}

ALWAYS_INLINE void NAME(lstm_row_backward)(
    size h, const S *input, const S *more, const S *recurrent, const E *cell, const E *after_cell, const E *outside,
    const S *sent, const E *outside_cell, S *to_gates, E *to_cell, const int has_more, const int has_sent
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E i = NAME(sigmoid)(NAME(entered)(input, more, recurrent, j, has_more));
        E f = NAME(sigmoid)(NAME(entered)(input, more, recurrent, h + j, has_more));
        E g = NAME(hyperbolic)(NAME(entered)(input, more, recurrent, 2 * h + j, has_more));
        E o = NAME(sigmoid)(NAME(entered)(input, more, recurrent, 3 * h + j, has_more));
        E seen = NAME(hyperbolic)(after_cell[j]);
        E d = has_sent ? outside[j] + GET(sent[j]) : outside[j];
        E d_cell = outside_cell[j] + d * o * ((E)1 - seen * seen);
        to_gates[j] = PUT(d_cell * g * i * ((E)1 - i));
        to_gates[h + j] = PUT(d_cell * cell[j] * f * ((E)1 - f));
        to_gates[2 * h + j] = PUT(d_cell * i * ((E)1 - g * g));
        to_gates[3 * h + j] = PUT(d * seen * o * ((E)1 - o));
        to_cell[j] += d_cell * f;
    }
}

/* The gradient of what enters, written to one place or two, and of the cell before, added. */
void NAME(lstm_backward)(
    const NAME(Entering) *all, const E *cell, const E *after_cell, const E *d_after, const S *sent,
    const E *d_after_cell, S *d_one, size d_one_in, S *d_other, size d_other_in, E *d_cell
) {
    const NAME(Entering) g = *all;
    const size h = g.hidden;
#pragma omp parallel for schedule(static) if (g.rows * h > 8192)
    for (size b = 0; b < g.rows; b++) {
        const S *more = g.more ? g.more + b * g.more_in : NULL, *arrived = sent ? sent + b * h : NULL;
        S *place = d_one + b * d_one_in;
#define ROW(has_more, has_sent)                                                                                        \
    NAME(lstm_row_backward)(                                                                                           \
        h, g.input + b * g.input_in, more, g.recurrent + b * g.recurrent_in, cell + b * h, after_cell + b * h,         \
        d_after + b * h, arrived, d_after_cell + b * h, place, d_cell + b * h, has_more, has_sent                      \
    )
        IN_EVERY_CASE(more, arrived)
#undef ROW
        if (d_other) memcpy(d_other + b * d_other_in, place, sizeof(S) * (size_t)(4 * h));
    }
}

ALWAYS_INLINE void NAME(mix_row)(
    size h, const S *input, const S *more, const S *recurrent, E *state, S *copy, const int has_more, const int has_copy
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E mixed = NAME(hyperbolic)(NAME(entered)(input, more, recurrent, j, has_more));
        if (state) state[j] = mixed;
        if (has_copy) copy[j] = PUT(mixed);
    }
}

/* tanh of the sum, in either format or both: a step of a simple recurrence, or a mixture. */
void NAME(mix)(const NAME(Entering) *all, E *after, S *copy) {
    const NAME(Entering) g = *all;
    const size h = g.hidden;
#pragma omp parallel for schedule(static) if (g.rows * h > 8192)
    for (size b = 0; b < g.rows; b++) {
        const S *more = g.more ? g.more + b * g.more_in : NULL;
        E *state = after ? after + b * h : NULL;
        S *copied = copy ? copy + b * h : NULL;
#define ROW(has_more, has_copy)                                                                                        \
    NAME(mix_row)(                                                                                                     \
        h, g.input + b * g.input_in, more, g.recurrent + b * g.recurrent_in, state, copied, has_more, has_copy         \
    )
        IN_EVERY_CASE(more, copied)
#undef ROW
    }
}

/* The gradient of what enters, written to one place or two, of the mixture in one of two formats. */
void NAME(mix_backward)(
    size rows, size h, const E *mixed, const S *mixed_short, const E *d_mixed, const S *sent, S *d_one, size d_one_in,
    S *d_other, size d_other_in
) {
#pragma omp parallel for schedule(static) if (rows * h > 8192)
    for (size b = 0; b < rows; b++) {
        const E *outside = d_mixed + b * h;
        S *place = d_one + b * d_one_in;
#pragma omp simd
        for (size j = 0; j < h; j++) {
            E value = mixed ? mixed[b * h + j] : GET(mixed_short[b * h + j]);
            E d = sent ? outside[j] + GET(sent[b * h + j]) : outside[j];
            place[j] = PUT(d * ((E)1 - value * value));
        }
        if (d_other) memcpy(d_other + b * d_other_in, place, sizeof(S) * (size_t)h);
    }
}

#undef IN_EVERY_CASE
