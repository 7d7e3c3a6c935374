/* Cross-entropy with label smoothing, and log-softmax; part of kernels.h. */

/* Returns the logarithm of the softmax's denominator for a row of logits plus, with `has_bias`, the bias. `sum` is the
sum of e^(logit - largest); with `keeps` the summands are written to `room`. */
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

/* Writes for each row the logarithm of the softmax's denominator and the logit of the target. The bias is added to the
logits. With `gradient` the logits are overwritten by softmax - (1 - e) onehot - e / V. */
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

/* Computes `loss` for two passes, the `rows` of the second behind those of the first in logits, targets and results, and
writes for each row of both the divergence (KL(p || q) + KL(q || p)) / 2. With `gradient` the logits are overwritten by
the sum of the gradient of the loss and alpha times that of the divergence: by the logits of p the latter is
(p (log p - log q - KL(p || q)) + p - q) / 2, by those of q the same with both exchanged. */
void NAME(regularized_loss)(
    size rows, size pieces, S *logits, const E *bias, const size *target, E smoothing, E alpha, E *normalizer,
    E *expected, E *divergence, int gradient
) {
#pragma omp parallel for schedule(static)
    for (size i = 0; i < rows; i++) {
        S *one = logits + i * pieces, *other = logits + (rows + i) * pieces;
        E *p = malloc(sizeof(E) * (size_t)pieces * 2), *q = p + pieces;
        E total_p, total_q, to_other = 0, to_one = 0;
        expected[i] = GET(one[target[i]]) + bias[target[i]];
        expected[rows + i] = GET(other[target[i]]) + bias[target[i]];
        normalizer[i] = NAME(normalizer)(pieces, one, bias, p, &total_p, 1, 1);
        normalizer[rows + i] = NAME(normalizer)(pieces, other, bias, q, &total_q, 1, 1);
        E scale_p = (E)1 / total_p, scale_q = (E)1 / total_q, shift = normalizer[i] - normalizer[rows + i];
        /* The bias is the same in both, so it is in the normalizers alone. */
#pragma omp simd reduction(+ : to_other, to_one)
        for (size v = 0; v < pieces; v++) {
            E ratio = GET(one[v]) - GET(other[v]) - shift;
            p[v] *= scale_p;
            q[v] *= scale_q;
            to_other += p[v] * ratio;
            to_one -= q[v] * ratio;
        }
        divergence[i] = (to_other + to_one) / (E)2;
        if (gradient) {
            E floor = smoothing / (E)pieces, weight = alpha / (E)2;
#pragma omp simd
            for (size v = 0; v < pieces; v++) {
                E ratio = GET(one[v]) - GET(other[v]) - shift, difference = p[v] - q[v];
                E d_one = p[v] * (ratio - to_other) + difference, d_other = q[v] * (-ratio - to_one) - difference;
                p[v] += weight * d_one - floor;
                q[v] += weight * d_other - floor;
            }
            p[target[i]] += smoothing - (E)1;
            q[target[i]] += smoothing - (E)1;
#pragma omp simd
            for (size v = 0; v < pieces; v++) {
                one[v] = PUT(p[v]);
                other[v] = PUT(q[v]);
            }
        }
        free(p);
    }
}

/* Writes the log-softmax of each row. `out` may be the same memory as `logits`. */
void NAME(log_softmax)(size rows, size pieces, const S *logits, E *out) {
#pragma omp parallel for schedule(static) if (rows * pieces > 8192)
    for (size i = 0; i < rows; i++) {
        const S *row = logits + i * pieces;
        E total, normalizer = NAME(normalizer)(pieces, row, NULL, NULL, &total, 0, 0);
#pragma omp simd
        for (size v = 0; v < pieces; v++) out[i * pieces + v] = GET(row[v]) - normalizer;
    }
}

/* Adds the sum over the rows to `totals`. */
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
