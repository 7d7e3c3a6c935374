/* The operations of recurrences and of the loss, each in one pass over its operands; included once for each format.

S is the format of products, E that of states and sums. Sizes and strides count elements; features lie side by side.
Every row is computed by one thread, whatever their number: results do not depend on it.

Shapes as in nmt/kernels/tape/steps.py and nmt/kernels/packed.py. */

ALWAYS_INLINE E NAME(sigmoid)(E x) { return (E)1 / ((E)1 + EXP(-x)); }

ALWAYS_INLINE E NAME(hyperbolic)(E x) { return (E)2 / ((E)1 + EXP((E)-2 * x)) - (E)1; }

/* e^2q of a query, within the limits of nmt/kernels/additive.py. */
static void NAME(exponentials)(size units, const S *query, E *out) {
#pragma omp simd
    for (size a = 0; a < units; a++) {
        E q = GET(query[a]);
        q = q < -LIMIT ? -LIMIT : q;
        q = q > LIMIT ? LIMIT : q;
        out[a] = EXP((E)2 * q);
    }
}

typedef struct {
    size queries, sentences, positions, units, features;
    const S *query;
    size query_of, query_in; /* strides of queries and sentences */
    const void *keys;        /* E, exponentials, with an energy; S without */
    size keys_in, keys_at;   /* strides of sentences and positions */
    const S *memory;
    size memory_in, memory_at;
    const E *bias;
    const E *energy; /* NULL: the score is a product */
    E *scores;
    E *normalizer;
} NAME(Looking);

/* v' tanh(q + k) = sum v - 2 sum v r. */
ALWAYS_INLINE E NAME(additive)(size units, const E *query, const E *keys, const E *energy) {
    E sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size a = 0; a < units; a++) sum += energy[a] / ((E)1 + query[a] * keys[a]);
    return sum;
}

ALWAYS_INLINE E NAME(dot)(size units, const S *one, const S *other) {
    E sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size a = 0; a < units; a++) sum += GET(one[a]) * GET(other[a]);
    return sum;
}

ALWAYS_INLINE E NAME(mixed_dot)(size units, const E *one, const S *other) {
    E sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size a = 0; a < units; a++) sum += one[a] * GET(other[a]);
    return sum;
}

/* Scores, the softmax's normalizer, and the context. */
void NAME(look)(const NAME(Looking) *all, S *context) {
    const NAME(Looking) l = *all;
    E total_energy = 0;
    if (l.energy)
        for (size a = 0; a < l.units; a++) total_energy += l.energy[a];
#pragma omp parallel for schedule(static) if (l.queries * l.sentences * l.positions * l.units > 32768)
    for (size b = 0; b < l.sentences; b++) {
        E *room = malloc(sizeof(E) * (size_t)(l.units + l.positions + l.features));
        E *query = room, *weights = room + l.units, *mixed = weights + l.positions;
        for (size q = 0; q < l.queries; q++) {
            const S *asked = l.query + q * l.query_of + b * l.query_in;
            E *scores = l.scores + (q * l.sentences + b) * l.positions;
            E largest = -INFINITY, total = 0;
            if (l.energy) NAME(exponentials)(l.units, asked, query);
            for (size s = 0; s < l.positions; s++) {
                E bias = l.bias[b * l.positions + s];
                if (bias == -INFINITY) {
                    scores[s] = bias;
                    continue;
                }
                size at = b * l.keys_in + s * l.keys_at;
                E score = l.energy ? total_energy - (E)2 * NAME(additive)(l.units, query, (const E *)l.keys + at, l.energy)
                                   : NAME(dot)(l.units, asked, (const S *)l.keys + at);
                scores[s] = score + bias;
                /* What is no number wins. */
                largest = scores[s] <= largest ? largest : scores[s];
            }
            for (size s = 0; s < l.positions; s++) {
                weights[s] = scores[s] == -INFINITY ? (E)0 : EXP(scores[s] - largest);
                total += weights[s];
            }
            E normalizer = total == (E)0 ? (E)0 : largest + (E)log((double)total);
            l.normalizer[q * l.sentences + b] = normalizer;
            memset(mixed, 0, sizeof(E) * (size_t)l.features);
            for (size s = 0; s < l.positions; s++) {
                if (weights[s] == (E)0) continue;
                E weight = weights[s] / total;
                const S *memory = l.memory + b * l.memory_in + s * l.memory_at;
#pragma omp simd
                for (size c = 0; c < l.features; c++) mixed[c] += weight * GET(memory[c]);
            }
            S *found = context + (q * l.sentences + b) * l.features;
#pragma omp simd
            for (size c = 0; c < l.features; c++) found[c] = PUT(mixed[c]);
        }
        free(room);
    }
}

/* The gradient of the queries, written to a place in either format or added there; that of the weights is kept. */
void NAME(look_backward)(
    const NAME(Looking) *all, E *d_context, const S *sent, const E *d_weights, S *d_query, E *d_query_exact,
    size d_query_of, size d_query_in, E *d_looked, int adds
) {
    const NAME(Looking) l = *all;
#pragma omp parallel for schedule(static) if (l.queries * l.sentences * l.positions * l.units > 32768)
    for (size b = 0; b < l.sentences; b++) {
        E *room = malloc(sizeof(E) * (size_t)(2 * l.units + 2 * l.positions));
        E *query = room, *sum = room + l.units, *weights = sum + l.units, *d_scores = weights + l.positions;
        for (size q = 0; q < l.queries; q++) {
            size row = q * l.sentences + b;
            E *gradient = d_context + row * l.features, *looked = d_looked + row * l.positions;
            const E *scores = l.scores + row * l.positions;
            if (sent) {
                const S *more = sent + row * l.features;
#pragma omp simd
                for (size c = 0; c < l.features; c++) gradient[c] += GET(more[c]);
            }
            E mean = 0;
            for (size s = 0; s < l.positions; s++) {
                weights[s] = EXP(scores[s] - l.normalizer[row]);
                looked[s] = NAME(mixed_dot)(l.features, gradient, l.memory + b * l.memory_in + s * l.memory_at);
                if (d_weights) looked[s] += d_weights[row * l.positions + s];
                mean += weights[s] * looked[s];
            }
            for (size s = 0; s < l.positions; s++) d_scores[s] = weights[s] * (looked[s] - mean);
            memset(sum, 0, sizeof(E) * (size_t)l.units);
            if (l.energy) NAME(exponentials)(l.units, l.query + q * l.query_of + b * l.query_in, query);
            for (size s = 0; s < l.positions; s++) {
                E d_score = d_scores[s];
                if (d_score == (E)0) continue;
                size at = b * l.keys_in + s * l.keys_at;
                if (l.energy) {
                    const E *keys = (const E *)l.keys + at;
#pragma omp simd
                    for (size a = 0; a < l.units; a++) {
                        E r = (E)1 / ((E)1 + query[a] * keys[a]);
                        sum[a] += d_score * (r - r * r);
                    }
                } else {
                    const S *keys = (const S *)l.keys + at;
#pragma omp simd
                    for (size a = 0; a < l.units; a++) sum[a] += d_score * GET(keys[a]);
                }
            }
            if (l.energy) {
#pragma omp simd
                for (size a = 0; a < l.units; a++) sum[a] *= (E)4 * l.energy[a];
            }
            size place = q * d_query_of + b * d_query_in;
            if (d_query_exact) {
                E *out = d_query_exact + place;
#pragma omp simd
                for (size a = 0; a < l.units; a++) out[a] = (adds ? out[a] : (E)0) + sum[a];
            } else {
                S *out = d_query + place;
#pragma omp simd
                for (size a = 0; a < l.units; a++) out[a] = PUT((adds ? GET(out[a]) : (E)0) + sum[a]);
            }
        }
        free(room);
    }
}

/* The gradients of keys, which are exponentials here, and of the energy, for each sentence, of all queries. */
void NAME(keys_backward)(const NAME(Looking) *all, const E *d_scores, E *d_keys, E *d_energy) {
    const NAME(Looking) l = *all;
#pragma omp parallel for schedule(static)
    for (size b = 0; b < l.sentences; b++) {
        E *query = malloc(sizeof(E) * (size_t)(l.queries * l.units));
        E *energy = d_energy + b * l.units;
        memset(energy, 0, sizeof(E) * (size_t)l.units);
        for (size q = 0; q < l.queries; q++)
            NAME(exponentials)(l.units, l.query + q * l.query_of + b * l.query_in, query + q * l.units);
        for (size s = 0; s < l.positions; s++) {
            const E *keys = (const E *)l.keys + b * l.keys_in + s * l.keys_at;
            E *out = d_keys + (b * l.positions + s) * l.units;
            memset(out, 0, sizeof(E) * (size_t)l.units);
            for (size q = 0; q < l.queries; q++) {
                E d_score = d_scores[(q * l.sentences + b) * l.positions + s];
                if (d_score == (E)0) continue;
                const E *asked = query + q * l.units;
#pragma omp simd
                for (size a = 0; a < l.units; a++) {
                    E r = (E)1 / ((E)1 + asked[a] * keys[a]);
                    out[a] += d_score * (r - r * r);
                    energy[a] += d_score * ((E)1 - (E)2 * r);
                }
            }
#pragma omp simd
            for (size a = 0; a < l.units; a++) out[a] *= (E)4 * l.energy[a];
        }
        free(query);
    }
}

#include "cells.h"
#include "dropout.h"

typedef struct {
    size directions, elements, hidden;
    const size *mirrored;     /* where the second direction finds and leaves an element */
    E *sigmoids;              /* [D, P, 2 H] */
    E *entries, *candidates;  /* [D, P, H], as all that follow */
    E *outputs;
} NAME(Packed);

/* Of an element; the first of a row has no state before it, and what would come from there is the bias. */
ALWAYS_INLINE void NAME(packed_row)(
    size h, const S *input, const S *sent, const E *bias, const E *state, E *sigmoids, E *entries, E *candidates,
    E *out, E *side, const int is_first
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E r = NAME(sigmoid)(GET(input[j]) + (is_first ? bias[j] : GET(sent[j])));
        E z = NAME(sigmoid)(GET(input[h + j]) + (is_first ? bias[h + j] : GET(sent[h + j])));
        E entry = is_first ? bias[2 * h + j] : GET(sent[2 * h + j]);
        E n = NAME(hyperbolic)(GET(input[2 * h + j]) + r * entry);
        sigmoids[j] = r;
        sigmoids[h + j] = z;
        entries[j] = entry;
        candidates[j] = n;
        side[j] = out[j] = n + z * ((is_first ? (E)0 : state[j]) - n);
    }
}

/* One step of all directions over packed rows: elements first to first + rows, whose states before begin at before. */
void NAME(packed)(
    const NAME(Packed) *all, size first, size rows, size before, const S *gates, const S *const *from_state,
    const E *bias, S *factors, E *beside
) {
    const NAME(Packed) p = *all;
    const size h = p.hidden, width = p.directions * h;
#pragma omp parallel for schedule(static) collapse(2) if (p.directions * rows * h > 8192)
    for (size d = 0; d < p.directions; d++) {
        for (size i = 0; i < rows; i++) {
            size place = d ? p.mirrored[first + i] : first + i, here = d * p.elements + first + i;
            const S *input = gates + place * 3 * width + d * 3 * h;
            E *sigmoids = p.sigmoids + here * 2 * h, *entries = p.entries + here * h, *out = p.outputs + here * h;
            E *candidates = p.candidates + here * h, *side = beside + place * width + d * h;
            if (first) {
                const E *state = p.outputs + (d * p.elements + before + i) * h;
                const S *sent = from_state[d] + i * 3 * h;
                NAME(packed_row)(h, input, sent, NULL, state, sigmoids, entries, candidates, out, side, 0);
            } else
                NAME(packed_row)(h, input, NULL, bias + d * 3 * h, NULL, sigmoids, entries, candidates, out, side, 1);
            if (factors) {
                S *factor = factors + here * h;
#pragma omp simd
                for (size j = 0; j < h; j++) factor[j] = PUT(out[j]);
            }
        }
    }
}

ALWAYS_INLINE void NAME(packed_row_backward)(
    size h, const E *sigmoids, const E *entries, const E *candidates, const E *state, const E *gradient, S *back,
    S *out, const int is_first
) {
#pragma omp simd
    for (size j = 0; j < h; j++) {
        E r = sigmoids[j], z = sigmoids[h + j], n = candidates[j], y = gradient[j];
        E d_n = y * ((E)1 - z) * ((E)1 - n * n);
        E d_z = y * ((is_first ? (E)0 : state[j]) - n) * z * ((E)1 - z);
        E d_r = d_n * entries[j] * r * ((E)1 - r);
        out[j] = back[j] = PUT(d_r);
        out[h + j] = back[h + j] = PUT(d_z);
        out[2 * h + j] = PUT(d_n);
        back[2 * h + j] = PUT(d_n * r);
    }
}

/* The same step backward. Of the elements after, the first rows_after came from these: their gradients arrive. */
void NAME(packed_backward)(
    const NAME(Packed) *all, size first, size rows, size before, size rows_after, const S *const *sent, E *total,
    S *d_recurrent, S *d_gates
) {
    const NAME(Packed) p = *all;
    const size h = p.hidden, width = p.directions * h, after = first + rows;
#pragma omp parallel for schedule(static) collapse(2) if (p.directions * rows * h > 8192)
    for (size d = 0; d < p.directions; d++) {
        for (size i = 0; i < rows; i++) {
            size place = d ? p.mirrored[first + i] : first + i, here = d * p.elements + first + i;
            const E *sigmoids = p.sigmoids + here * 2 * h, *entries = p.entries + here * h;
            const E *candidates = p.candidates + here * h;
            const E *state = first ? p.outputs + (d * p.elements + before + i) * h : NULL;
            S *back = d_recurrent + here * 3 * h, *out = d_gates + place * 3 * width + d * 3 * h;
            E *gradient = total + here * h;
            if (i < rows_after) {
                size next = d * p.elements + after + i;
                const E *passed = total + next * h, *update = p.sigmoids + next * 2 * h + h;
                const S *arrived = sent[d] + i * h;
#pragma omp simd
                for (size j = 0; j < h; j++) gradient[j] += passed[j] * update[j] + GET(arrived[j]);
            }
            if (first)
                NAME(packed_row_backward)(h, sigmoids, entries, candidates, state, gradient, back, out, 0);
            else
                NAME(packed_row_backward)(h, sigmoids, entries, candidates, NULL, gradient, back, out, 1);
        }
    }
}

/* The softmax's normalizer of a row of logits, less their bias. `sum` is that of e^(logit - largest), of which `room`
keeps each one. */
ALWAYS_INLINE E NAME(normalizer)(
    size pieces, const S *row, const E *bias, E *room, E *sum, const int has_bias, const int keeps
) {
    E largest = -INFINITY, total = 0;
#pragma omp simd reduction(max : largest)
    for (size v = 0; v < pieces; v++) {
        E logit = has_bias ? GET(row[v]) + bias[v] : GET(row[v]);
        largest = largest > logit ? largest : logit;
    }
#pragma omp simd reduction(+ : total)
    for (size v = 0; v < pieces; v++) {
        E share = EXP((has_bias ? GET(row[v]) + bias[v] : GET(row[v])) - largest);
        if (keeps) room[v] = share;
        total += share;
    }
    *sum = total;
    return largest + (E)log((double)total);
}

/* The softmax's normalizer of rows of logits, less their bias, and the logit that was expected; with `gradient` the
logits become softmax - (1 - e) onehot - e / V. */
void NAME(loss)(
    size rows, size pieces, S *logits, const E *bias, const size *target, E smoothing, E *normalizer, E *expected,
    int gradient
) {
#pragma omp parallel for schedule(static)
    for (size i = 0; i < rows; i++) {
        S *row = logits + i * pieces;
        E *room = malloc(sizeof(E) * (size_t)pieces);
        E total;
        expected[i] = GET(row[target[i]]) + bias[target[i]];
        normalizer[i] = NAME(normalizer)(pieces, row, bias, room, &total, 1, 1);
        if (gradient) {
            E scale = (E)1 / total, floor = smoothing / (E)pieces;
            room[target[i]] += (smoothing - (E)1) * total;
#pragma omp simd
            for (size v = 0; v < pieces; v++) row[v] = PUT(room[v] * scale - floor);
        }
        free(room);
    }
}

/* v' tanh(query + key) of exponentials, one row of scores for each query of each group. */
void NAME(scores)(
    size groups, size queries, size positions, size units, const E *query, const E *keys, const E *energy, E *scores
) {
    E total = 0;
    for (size a = 0; a < units; a++) total += energy[a];
#pragma omp parallel for schedule(static) if (groups * queries * positions * units > 32768)
    for (size g = 0; g < groups; g++)
        for (size q = 0; q < queries; q++)
            for (size s = 0; s < positions; s++)
                scores[(g * queries + q) * positions + s] =
                    total - (E)2 * NAME(additive)(
                                       units, query + (g * queries + q) * units, keys + (g * positions + s) * units, energy
                                   );
}

/* Logits less the logarithm of their softmax's denominator; both may be one. */
void NAME(log_softmax)(size rows, size pieces, const S *logits, E *out) {
#pragma omp parallel for schedule(static) if (rows * pieces > 8192)
    for (size i = 0; i < rows; i++) {
        const S *row = logits + i * pieces;
        E total, normalizer = NAME(normalizer)(pieces, row, NULL, NULL, &total, 0, 0);
#pragma omp simd
        for (size v = 0; v < pieces; v++) out[i * pieces + v] = GET(row[v]) - normalizer;
    }
}

/* Sums over rows, added to what is there. */
void NAME(column_sums)(size rows, size pieces, const S *values, E *totals) {
#pragma omp parallel for schedule(static)
    for (size start = 0; start < pieces; start += 512) {
        size end = start + 512 < pieces ? start + 512 : pieces;
        for (size i = 0; i < rows; i++) {
            const S *row = values + i * pieces;
#pragma omp simd
            for (size v = start; v < end; v++) totals[v] += GET(row[v]);
        }
    }
}

#undef NAME
#undef E
#undef S
#undef GET
#undef PUT
#undef EXP
#undef LIMIT
