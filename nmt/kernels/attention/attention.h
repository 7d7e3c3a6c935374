/* Attention: forward, backward, the gradient of the keys, and scores for the search; part of kernels.h. */

/* Writes e^2q of a query, whose elements are clamped to LIMIT as in nmt/kernels/attention/__init__.py. */
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
    size query_stride, query_sentence_stride;
    const void *keys; /* E, exponentials, with an energy; S without */
    size keys_sentence_stride, keys_position_stride;
    const S *memory;
    size memory_sentence_stride, memory_position_stride;
    const E *bias;
    const E *energy; /* NULL: the score is a product */
    E *scores;
    E *normalizer;
} NAME(Attention);

/* Returns sum v r, of which v' tanh(q + k) = sum v - 2 sum v r. */
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

/* Writes scores, the logarithm of the softmax's denominator, and the context. */
void NAME(attention)(const NAME(Attention) *all, S *context) {
    const NAME(Attention) args = *all;
    E total_energy = 0;
    if (args.energy)
        for (size a = 0; a < args.units; a++) total_energy += args.energy[a];
#pragma omp parallel for schedule(static) if (args.queries * args.sentences * args.positions * args.units > 32768)
    for (size b = 0; b < args.sentences; b++) {
        E *buffer = malloc(sizeof(E) * (size_t)(args.units + args.positions + args.features));
        E *query = buffer, *weights = buffer + args.units, *sum = weights + args.positions;
        for (size q = 0; q < args.queries; q++) {
            const S *query_row = args.query + q * args.query_stride + b * args.query_sentence_stride;
            E *scores = args.scores + (q * args.sentences + b) * args.positions;
            E largest = -INFINITY, total = 0;
            if (args.energy) NAME(exponentials)(args.units, query_row, query);
            for (size s = 0; s < args.positions; s++) {
                E bias = args.bias[b * args.positions + s];
                if (bias == -INFINITY) {
                    scores[s] = bias;
                    continue;
                }
                size at = b * args.keys_sentence_stride + s * args.keys_position_stride;
                E score = args.energy
                              ? total_energy - (E)2 * NAME(additive)(args.units, query, (const E *)args.keys + at, args.energy)
                              : NAME(dot)(args.units, query_row, (const S *)args.keys + at);
                scores[s] = score + bias;
                /* NaN propagates. */
                largest = scores[s] <= largest ? largest : scores[s];
            }
            for (size s = 0; s < args.positions; s++) {
                weights[s] = scores[s] == -INFINITY ? (E)0 : EXP(scores[s] - largest);
                total += weights[s];
            }
            E normalizer = total == (E)0 ? (E)0 : largest + (E)log((double)total);
            args.normalizer[q * args.sentences + b] = normalizer;
            memset(sum, 0, sizeof(E) * (size_t)args.features);
            for (size s = 0; s < args.positions; s++) {
                if (weights[s] == (E)0) continue;
                E weight = weights[s] / total;
                const S *memory = args.memory + b * args.memory_sentence_stride + s * args.memory_position_stride;
#pragma omp simd
                for (size c = 0; c < args.features; c++) sum[c] += weight * GET(memory[c]);
            }
            S *context_row = context + (q * args.sentences + b) * args.features;
#pragma omp simd
            for (size c = 0; c < args.features; c++) context_row[c] = PUT(sum[c]);
        }
        free(buffer);
    }
}

/* Writes or, with `add`, adds the gradient of the queries in one of two dtypes. Writes that of the weights to
`d_all_weights`. */
void NAME(attention_backward)(
    const NAME(Attention) *all, E *d_context, const S *pending, const E *d_weights, S *d_query, E *d_query_state,
    size d_query_stride, size d_query_sentence_stride, E *d_all_weights, int add
) {
    const NAME(Attention) args = *all;
#pragma omp parallel for schedule(static) if (args.queries * args.sentences * args.positions * args.units > 32768)
    for (size b = 0; b < args.sentences; b++) {
        E *buffer = malloc(sizeof(E) * (size_t)(2 * args.units + 2 * args.positions));
        E *query = buffer, *sum = buffer + args.units, *weights = sum + args.units, *d_scores = weights + args.positions;
        for (size q = 0; q < args.queries; q++) {
            size row = q * args.sentences + b;
            E *d_context_row = d_context + row * args.features, *d_weights_row = d_all_weights + row * args.positions;
            const E *scores = args.scores + row * args.positions;
            if (pending) {
                const S *pending_row = pending + row * args.features;
#pragma omp simd
                for (size c = 0; c < args.features; c++) d_context_row[c] += GET(pending_row[c]);
            }
            E mean = 0;
            for (size s = 0; s < args.positions; s++) {
                weights[s] = EXP(scores[s] - args.normalizer[row]);
                const S *memory = args.memory + b * args.memory_sentence_stride + s * args.memory_position_stride;
                d_weights_row[s] = NAME(mixed_dot)(args.features, d_context_row, memory);
                if (d_weights) d_weights_row[s] += d_weights[row * args.positions + s];
                mean += weights[s] * d_weights_row[s];
            }
            for (size s = 0; s < args.positions; s++) d_scores[s] = weights[s] * (d_weights_row[s] - mean);
            memset(sum, 0, sizeof(E) * (size_t)args.units);
            const S *query_row = args.query + q * args.query_stride + b * args.query_sentence_stride;
            if (args.energy) NAME(exponentials)(args.units, query_row, query);
            for (size s = 0; s < args.positions; s++) {
                E d_score = d_scores[s];
                if (d_score == (E)0) continue;
                size at = b * args.keys_sentence_stride + s * args.keys_position_stride;
                if (args.energy) {
                    const E *keys = (const E *)args.keys + at;
#pragma omp simd
                    for (size a = 0; a < args.units; a++) {
                        E r = (E)1 / ((E)1 + query[a] * keys[a]);
                        sum[a] += d_score * (r - r * r);
                    }
                } else {
                    const S *keys = (const S *)args.keys + at;
#pragma omp simd
                    for (size a = 0; a < args.units; a++) sum[a] += d_score * GET(keys[a]);
                }
            }
            if (args.energy) {
#pragma omp simd
                for (size a = 0; a < args.units; a++) sum[a] *= (E)4 * args.energy[a];
            }
            size start = q * d_query_stride + b * d_query_sentence_stride;
            if (d_query_state) {
                E *out = d_query_state + start;
#pragma omp simd
                for (size a = 0; a < args.units; a++) out[a] = (add ? out[a] : (E)0) + sum[a];
            } else {
                S *out = d_query + start;
#pragma omp simd
                for (size a = 0; a < args.units; a++) out[a] = PUT((add ? GET(out[a]) : (E)0) + sum[a]);
            }
        }
        free(buffer);
    }
}

/* Writes the gradients of keys and energy for each sentence, summed over all queries. The keys are exponentials. */
void NAME(attention_keys_backward)(const NAME(Attention) *all, const E *d_scores, E *d_keys, E *d_energy) {
    const NAME(Attention) args = *all;
#pragma omp parallel for schedule(static)
    for (size b = 0; b < args.sentences; b++) {
        E *query = malloc(sizeof(E) * (size_t)(args.queries * args.units));
        E *energy = d_energy + b * args.units;
        memset(energy, 0, sizeof(E) * (size_t)args.units);
        for (size q = 0; q < args.queries; q++)
            NAME(exponentials)(
                args.units, args.query + q * args.query_stride + b * args.query_sentence_stride, query + q * args.units
            );
        for (size s = 0; s < args.positions; s++) {
            const E *keys = (const E *)args.keys + b * args.keys_sentence_stride + s * args.keys_position_stride;
            E *out = d_keys + (b * args.positions + s) * args.units;
            memset(out, 0, sizeof(E) * (size_t)args.units);
            for (size q = 0; q < args.queries; q++) {
                E d_score = d_scores[(q * args.sentences + b) * args.positions + s];
                if (d_score == (E)0) continue;
                const E *query_row = query + q * args.units;
#pragma omp simd
                for (size a = 0; a < args.units; a++) {
                    E r = (E)1 / ((E)1 + query_row[a] * keys[a]);
                    out[a] += d_score * (r - r * r);
                    energy[a] += d_score * ((E)1 - (E)2 * r);
                }
            }
#pragma omp simd
            for (size a = 0; a < args.units; a++) out[a] *= (E)4 * args.energy[a];
        }
        free(query);
    }
}

/* Writes v' tanh(query + key), a row of scores for each query of each group. Queries and keys are exponentials. */
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
                                       units, query + (g * queries + q) * units, keys + (g * positions + s) * units,
                                       energy
                                   );
}
