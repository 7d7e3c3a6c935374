/* The operations, each in one pass over its operands; included once for each format.

S is the format of products, E that of states and sums. Sizes and strides count elements; features lie side by side.
Every row is computed by one thread, whatever their number: results do not depend on it.

Shapes as in nmt/kernels/steps.py and nmt/kernels/packed.py. */

ALWAYS_INLINE E NAME(sigmoid)(E x) { return (E)1 / ((E)1 + EXP(-x)); }

ALWAYS_INLINE E NAME(tanh)(E x) { return (E)2 / ((E)1 + EXP((E)-2 * x)) - (E)1; }

#include "attention/attention.h"
#include "rnn/rnn.h"
#include "gru/gru.h"
#include "lstm/lstm.h"
#include "dropout/dropout.h"
#include "cross_entropy/cross_entropy.h"

#undef NAME
#undef E
#undef S
#undef GET
#undef PUT
#undef EXP
#undef LIMIT
