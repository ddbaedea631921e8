"""Sampling: draw the next token from logits through penalties, top-k, top-p, min-p and temperature, in this order.

    penalties    for a token that occurs n times in the context: x = x / r if x > 0, else x r (Keskar et al. 2019,
    section 4.1); then x = x - presence - n frequency top-k        keep the k largest x, and all that tie with the last
    of them (Fan et al. 2018) top-p        keep the smallest set of largest p = softmax(x) whose sum is at least top_p;
    among equal p, keep the lowest ids (Holtzman et al. 2020) min-p        keep p >= min_p max(p) (Nguyen et al. 2024)
    temperature  p = softmax(x / temperature); 0: all probability for the first of the largest draw         the first
    token with p[0] + ... + p[token] > u              x: (V,), float32; u in [0, 1)

By hand: p = 0.4, 0.05, 0.25, 0.3. top_k 3 leaves 0.42, 0, 0.26, 0.32. top_p 0.7 leaves ids 0 and 3, with 0.57 and 0.43
between them. u = 0.5 draws 0, and u = 0.6 draws 3.

There are no rungs: one row is drawn per pass through the whole model, so one reasonably fast version is enough.

Design
- Nothing is sorted. The smallest value that top-k or top-p keeps is found by quickselect: partition the values at a
  pivot, then continue in the part that contains it. That takes a few times V steps for any logits, where a sort takes
  V log V. Both filters ask the same question: where does a sum from the largest value downwards reach a target? For
  top-k every value adds 1, for top-p it adds itself.
- Most tokens are excluded before that. top-k: at least k values reach the k-th largest of COLUMNS maxima, so smaller
  ones are out. top-p: all values below (1 - top_p) / V together sum to less than 1 - top_p, so the others are enough.
- Weights are not normalised: a draw scales u by their sum, and min-p compares with the largest weight, which is 1.
- Weights and sums are doubles. Penalised logits are rounded to float32 like those of a model, so that the rest of the
  chain reads one type.
- The context of a row is a list of its distinct tokens, searched from the front. Rejected: counts for all V, most of
  which are zero for a large vocabulary; a hash table, because a context is short and the model reads all of it in
  every step.
- Rows are drawn one after the other while holding the interpreter lock, so that contexts need no lock of their own.
  This takes a small part of the time in which the model computed the logits.
"""
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, NAN, ceil, isfinite
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

cdef extern from "scratch.h" nogil:
    float* scratch_floats(size_t floats)

cdef extern from "simd/sampling_kernel.h" nogil:
    int COLUMNS
    ctypedef struct SamplingKernels:
        void (*weights)(const float* x, double top, double temperature, double* e, Py_ssize_t n) noexcept nogil
        double (*sum)(const double* a, Py_ssize_t n) noexcept nogil
        int (*column_maxima)(const float* x, Py_ssize_t n, float* columns) noexcept nogil
        float (*largest)(const float* x, Py_ssize_t n) noexcept nogil
        Py_ssize_t (*at_least)(const float* x, Py_ssize_t n, float low, int* ids) noexcept nogil
    const SamplingKernels* sampling_kernels(const char* isa)
    void partition(double* a, double* low, Py_ssize_t n, double pivot, Py_ssize_t* above, Py_ssize_t* below)

# A draw first adds the weights in blocks of DRAW_BLOCK, then goes through one block token by token.
cdef enum:
    DRAW_BLOCK = 256
    ALIGNED = 8                         # doubles in a cache line

cdef const SamplingKernels* simd = sampling_kernels("scalar")


def set_isa(str name):
    """Switch to an instruction set that `cpu.isas` lists. The results are the same to the bit."""
    global simd
    cdef const SamplingKernels* found = sampling_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


# Scratch memory for one row. n <= V tokens remain: ids (n,) in ascending order, and their weights (n,).
cdef struct Scratch:
    double* weights
    double* high                        # the values that a search still considers,
    double* low                         # and the part of them below its pivot
    float* logits                       # with penalties applied
    float* columns
    int* ids


cdef int lay_out_scratch(Scratch* scratch, Py_ssize_t V) except -1:
    """Place the arrays of a Scratch in the memory that this thread keeps."""
    cdef Py_ssize_t n = (max(V, COLUMNS) + ALIGNED - 1) // ALIGNED * ALIGNED
    cdef double* start = <double*> scratch_floats(6 * n + 3 * n)
    if start == NULL:
        raise MemoryError("[sample] no memory for a row of logits")
    scratch.weights, scratch.high, scratch.low = start, start + n, start + 2 * n
    scratch.logits = <float*> (start + 3 * n)
    scratch.columns = scratch.logits + n
    scratch.ids = <int*> (scratch.columns + n)
    return 0


cdef double pivot_of(const double* a, Py_ssize_t n, uint64_t* state) noexcept nogil:
    """Return the median of three random elements. With fixed places some order of tokens would be the worst case."""
    cdef double x[3]
    cdef Py_ssize_t i
    for i in range(3):
        state[0] = state[0] * 6364136223846793005u + 1442695040888963407u         # Knuth's MMIX generator
        x[i] = a[<Py_ssize_t> ((state[0] >> 33) % <uint64_t> n)]
    return max(min(x[0], x[1]), min(max(x[0], x[1]), x[2]))


cdef double value_at_sum(double* a, double* b, Py_ssize_t n, double target, bint weighed,
                         Py_ssize_t* needed) noexcept nogil:
    """Return the value at which the sum of a (n,) from its largest value downwards reaches `target`; n > 0.

    Each value adds itself if `weighed`, otherwise 1, so that the result is the target-th largest. `needed` receives how
    many of the values equal to it the sum takes. a and b (n,) are left in any order.
    """
    cdef Py_ssize_t above, below, equal
    cdef double pivot, part, each, done = 0
    cdef uint64_t state = 1
    while True:
        # Partition at a pivot. `part` is the sum of everything above it, `done` that of what was passed before.
        pivot = pivot_of(a, n, &state)
        partition(a, b, n, pivot, &above, &below)
        part = simd.sum(a, above) if weighed else above
        if above > 0 and done + part >= target:     # reached above the pivot: continue there
            n = above
            continue
        equal, each = n - above - below, pivot if weighed else 1
        if below == 0 or done + part + equal * each >= target:      # reached at the pivot itself
            needed[0] = equal
            if each > 0:                # rounding must give at least 1, and no more than exist
                needed[0] = <Py_ssize_t> max(1, min(equal, ceil((target - done - part) / each)))
            return pivot
        done += part + equal * each     # not reached yet: continue below the pivot
        n = below
        a, b = b, a


cdef Py_ssize_t keep_top_k(const float* x, Py_ssize_t V, Py_ssize_t k, const Scratch* scratch) noexcept nogil:
    """Keep the ids of the k largest and of their ties; 0 < k < V. Return how many there are."""
    cdef Py_ssize_t i, n, needed, kept = 0
    cdef float low = -INFINITY
    if V > COLUMNS and k <= COLUMNS:
        for i in range(COLUMNS):
            scratch.high[i] = scratch.columns[i]
        low = <float> value_at_sum(scratch.high, scratch.low, COLUMNS, k, False, &needed)
    n = simd.at_least(x, V, low, scratch.ids)
    for i in range(n):
        scratch.high[i] = x[scratch.ids[i]]
    low = <float> value_at_sum(scratch.high, scratch.low, n, k, False, &needed)
    for i in range(n):
        scratch.ids[kept] = scratch.ids[i]
        kept += x[scratch.ids[i]] >= low
    return kept


cdef Py_ssize_t keep_top_p(Py_ssize_t n, double top_p, const Scratch* scratch) noexcept nogil:
    """Keep the ids and weights of the nucleus among n tokens; return how many there are."""
    cdef double* e = scratch.weights
    cdef double total = simd.sum(e, n)
    # Half of the threshold derived above, because both sides of the comparison are rounded.
    cdef double last, least = 0.5 * (1 - top_p) * total / n
    cdef Py_ssize_t i, equals, m = 0, kept = 0
    cdef bint keep
    for i in range(n):
        scratch.high[m] = e[i]
        m += e[i] >= least
    last = value_at_sum(scratch.high, scratch.low, m, top_p * total, True, &equals)
    for i in range(n):
        keep = (e[i] > last) | ((e[i] == last) & (equals > 0))
        equals -= e[i] == last
        e[kept], scratch.ids[kept] = e[i], scratch.ids[i]
        kept += keep
    return kept


cdef Py_ssize_t keep_min_p(Py_ssize_t n, double min_p, const Scratch* scratch) noexcept nogil:
    """Keep the ids and weights that reach min_p times the largest weight, which is 1; return how many there are."""
    cdef Py_ssize_t i, kept = 0
    cdef bint keep
    for i in range(n):
        keep = scratch.weights[i] >= min_p
        scratch.weights[kept], scratch.ids[kept] = scratch.weights[i], scratch.ids[i]
        kept += keep
    return kept


cdef void compute_weights(const float* x, Py_ssize_t V, Py_ssize_t n, double top, double temperature,
                          const Scratch* scratch) noexcept nogil:
    """Compute the weights of the n remaining tokens; the largest weight is 1."""
    cdef Py_ssize_t i
    cdef float* chosen = <float*> scratch.high
    if n == V:                          # then the ids are 0 ... V - 1
        simd.weights(x, top, temperature, scratch.weights, V)
        return
    for i in range(n):
        chosen[i] = x[scratch.ids[i]]
    simd.weights(chosen, top, temperature, scratch.weights, n)


cdef Py_ssize_t draw_index(const double* e, Py_ssize_t n, double u) noexcept nogil:
    """Return the first i with e[0] + ... + e[i] > u sum(e); never one with weight 0."""
    cdef Py_ssize_t start, i, stop = n
    cdef double part, target, total = 0, so_far = 0
    for start from 0 <= start < n by DRAW_BLOCK:
        total += simd.sum(e + start, min(DRAW_BLOCK, n - start))
    target = u * total
    for start from 0 <= start < n by DRAW_BLOCK:
        stop = min(start + DRAW_BLOCK, n)
        part = simd.sum(e + start, stop - start)
        if so_far + part > target:
            for i in range(start, stop):
                so_far += e[i]
                if so_far > target:
                    return i
            break
        so_far += part
    # Rounding put the target at the end of a block, or of all tokens: take its last token with a weight.
    i = stop - 1
    while e[i] == 0:
        i -= 1
    return i


# The context of one row: its distinct tokens in order of first appearance, and how often each occurs.
cdef struct Seen:
    int64_t token
    int64_t count

cdef struct Context:
    Seen* seen
    Py_ssize_t n, room


cdef class Chain:
    """Settings of a sampling chain and, for penalties, the contexts of its rows.

    Neutral values are top_k 0, top_p 1, min_p 0, repetition 1, presence 0, frequency 0. The caller checked the ranges.
    """

    cdef double _temperature, _top_p, _min_p, _repetition, _presence, _frequency
    cdef Py_ssize_t _top_k, _rows
    cdef Context* _contexts
    cdef readonly bint counts           # True if there are penalties, which need contexts

    def __cinit__(self, double temperature, Py_ssize_t top_k, double top_p, double min_p, double repetition,
                  double presence, double frequency, Py_ssize_t rows):
        self._temperature, self._top_k, self._top_p, self._min_p = temperature, top_k, top_p, min_p
        self._repetition, self._presence, self._frequency = repetition, presence, frequency
        self.counts = repetition != 1 or presence != 0 or frequency != 0
        if self.counts:
            self._rows = rows
            self._contexts = <Context*> calloc(rows + 1, sizeof(Context))
            if self._contexts == NULL:
                raise MemoryError("[sample] no memory for the contexts")

    def __dealloc__(self):
        cdef Py_ssize_t row
        for row in range(self._rows if self._contexts != NULL else 0):
            free(self._contexts[row].seen)
        free(self._contexts)

    def start(self, const int64_t[:, :] tokens):                                                     # IN
        """Set the contexts of all rows to tokens (B, T). Needs penalties, and as many rows as the chain has."""
        cdef Py_ssize_t row, t
        for row in range(self._rows):
            self._contexts[row].n = 0
            for t in range(tokens.shape[1]):
                self._count(row, tokens[row, t])

    def draw(self, const float[:, ::1] logits, list numbers, int[::1] tokens):                       # IN, IN, OUT
        """Draw one token for each row of logits (B, V), from its number in [0, 1); temperature 0 ignores the number."""
        cdef Py_ssize_t row, n, V = logits.shape[1]
        cdef Scratch scratch
        lay_out_scratch(&scratch, V)
        for row in range(logits.shape[0]):
            n = self._candidates(logits, row, row, &scratch)
            tokens[row] = scratch.ids[0 if n == 1 else draw_index(scratch.weights, n, numbers[row])]
        if self.counts:                 # after the loop, when no row can fail any more
            for row in range(logits.shape[0]):
                self._count(row, tokens[row])

    def probabilities(self, const float[:, ::1] logits, Py_ssize_t row, double[::1] out):            # IN, OUT
        """Compute the distribution (V,) from which logits (1, V) would be drawn in a row."""
        cdef Py_ssize_t i, n, V = logits.shape[1]
        cdef double total
        cdef Scratch scratch
        lay_out_scratch(&scratch, V)
        n = self._candidates(logits, 0, row, &scratch)
        total = simd.sum(scratch.weights, n)
        memset(&out[0], 0, V * sizeof(double))
        for i in range(n):
            out[scratch.ids[i]] = scratch.weights[i] / total

    cdef int _count(self, Py_ssize_t row, int64_t token) except -1:
        """Add one occurrence of a token to the context of a row."""
        cdef Context* context = &self._contexts[row]
        cdef Seen* more
        cdef Py_ssize_t i
        for i in range(context.n):
            if context.seen[i].token == token:
                context.seen[i].count += 1
                return 0
        if context.n == context.room:
            more = <Seen*> realloc(context.seen, (2 * context.room + 64) * sizeof(Seen))
            if more == NULL:
                raise MemoryError("[sample] no memory for the tokens of a context")
            context.seen, context.room = more, 2 * context.room + 64
        context.seen[context.n].token, context.seen[context.n].count = token, 1
        context.n += 1
        return 0

    cdef int _penalise(self, float* x, Py_ssize_t V, Py_ssize_t row) except -1:
        """Apply the penalties to x (V,) for the tokens in the context of a row."""
        cdef Context* context = &self._contexts[row]
        cdef Py_ssize_t i
        cdef int64_t token
        cdef double value
        for i in range(context.n):
            token = context.seen[i].token
            if not 0 <= token < V:
                raise IndexError(f"[sample] 'tokens' must be in 0..{V - 1}, got {token}")
            value = x[token]
            if isfinite(value):         # -inf stays excluded, and NaN is reported later
                value = value / self._repetition if value > 0 else value * self._repetition
                value -= self._presence + context.seen[i].count * self._frequency
                x[token] = <float> max(-FLT_MAX, min(FLT_MAX, value))
        return 0

    cdef Py_ssize_t _candidates(self, const float[:, ::1] logits, Py_ssize_t at, Py_ssize_t row,
                                const Scratch* scratch) except -1:
        """Compute ids and weights of the tokens that may be drawn from logits[at] in a row; return their number."""
        cdef Py_ssize_t V = logits.shape[1]
        cdef const float* x = &logits[at, 0]
        cdef float top = -INFINITY
        if self.counts:
            memcpy(scratch.logits, x, V * sizeof(float))
            self._penalise(scratch.logits, V, row)
            x = scratch.logits
        top = NAN if simd.column_maxima(x, V, scratch.columns) else simd.largest(scratch.columns, min(V, COLUMNS))
        if not isfinite(top):
            raise ValueError(f"[sample] 'logits' must be finite at their largest, got {top} in row {row}")
        return self._filter(x, V, top, scratch)

    cdef Py_ssize_t _filter(self, const float* x, Py_ssize_t V, float top, const Scratch* scratch) noexcept nogil:
        """Apply the chain after the penalties, for a row whose largest logit is `top`."""
        cdef Py_ssize_t i = 0, n = V
        if self._temperature == 0:
            while x[i] != top:
                i += 1
            scratch.ids[0], scratch.weights[0] = <int> i, 1
            return 1
        if 0 < self._top_k < V:
            n = keep_top_k(x, V, self._top_k, scratch)
        else:
            for i in range(V):
                scratch.ids[i] = <int> i
        if self._top_p < 1 or self._min_p > 0:
            compute_weights(x, V, n, top, 1, scratch)
            if self._top_p < 1:
                n = keep_top_p(n, self._top_p, scratch)
            if self._min_p > 0:
                n = keep_min_p(n, self._min_p, scratch)
            if self._temperature == 1:
                return n
        compute_weights(x, V, n, top, self._temperature, scratch)
        return n
