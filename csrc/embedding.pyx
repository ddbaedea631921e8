"""Token and position embedding, forward and backward: rows of a table looked up and added, gradients scattered back.

    out[b T + t, c] = table[tokens[b, t], c] + positions[start + t, c]         tokens: (B, T), int32
    dtable[v, c] = sum of dy[b T + t, c] over tokens[b, t] = v                 table: (V, C), positions: (P, C), float32
    dpositions[start + t, c] = sum_b dy[b T + t, c]                            out, dy: (B T, C)

positions may be None, as with rotary positions. start is the position of the first column of tokens: 0 in training, and
the number of cached tokens during decoding. The caller has checked that 0 <= tokens < V and start + T <= P.

rung      the one idea it adds                                what it costs
naive     one token after the other                           one thread
parallel  forward: tokens are independent                     nothing more
          backward: each thread owns a range of the table     every thread reads all tokens to find its own
blocked   left out: a row of dy is read and used once, so a tile would reuse nothing
simd      rows are copied and added in vectors                nothing: sums in the same order, the bits of parallel

Design
- In backward one element is summed over b, then t, by the thread that owns its row, so any number of threads gives the
  same bits. Rejected: dividing the tokens among threads. That needs atomic additions, whose order varies from run to
  run, or one table per thread.
- The borders of the ranges follow the tokens, because frequent tokens have neighbouring ids: letters in bytes, the
  first merges in BPE. Rejected: V / n_threads rows each, which gives one thread most of the work.
- accumulate and accumulate_positions are separate: a table that is also the output layer already holds a gradient, the
  positions do not. Without the flag the whole array is set to zero first, including rows that no token uses.
"""
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from "scratch.h" nogil:
    float* scratch_floats(size_t floats)

cdef extern from "simd/embedding_kernel.h" nogil:
    ctypedef struct EmbeddingKernels:
        void (*add)(const float* a, const float* b, float* out, Py_ssize_t n) noexcept nogil
    const EmbeddingKernels* embedding_kernels(const char* isa)

# ALONE: up to this many elements, as in a single token, the calling thread finishes before it could wake another.
cdef enum:
    ALONE = 16384

cdef void embed_row(const int[:, ::1] tokens, const float[:, ::1] table, const float[:, ::1] positions,
                    Py_ssize_t start, float[:, ::1] out, Py_ssize_t b, Py_ssize_t t) noexcept nogil:
    """Compute out[b T + t, :], one row of table plus one of positions."""
    cdef Py_ssize_t c, r = b * tokens.shape[1] + t, v = tokens[b, t]
    for c in range(out.shape[1]):
        out[r, c] = table[v, c] if positions is None else table[v, c] + positions[start + t, c]


def embedding_naive(const int[:, ::1] tokens, const float[:, ::1] table, const float[:, ::1] positions,  # IN, IN, IN
                    Py_ssize_t start, float[:, ::1] out, int n_threads):                                 # OUT
    """Apply the formula to one token after the other, on one thread."""
    cdef Py_ssize_t b, t
    with nogil:
        for b in range(tokens.shape[0]):
            for t in range(tokens.shape[1]):
                embed_row(tokens, table, positions, start, out, b, t)


def embedding_parallel(const int[:, ::1] tokens, const float[:, ::1] table,                              # IN, IN
                       const float[:, ::1] positions, Py_ssize_t start, float[:, ::1] out,               # IN, OUT
                       int n_threads):
    """Add threads: each owns whole rows of out, counted over sequences and positions together."""
    cdef Py_ssize_t r, T = tokens.shape[1]
    for r in prange(tokens.shape[0] * T, nogil=True, num_threads=n_threads, schedule="static"):
        embed_row(tokens, table, positions, start, out, r // T, r % T)


cdef const EmbeddingKernels* simd = embedding_kernels("scalar")


def set_isa(str name):
    """Switch the simd rung to an instruction set that `cpu.isas` lists."""
    global simd
    cdef const EmbeddingKernels* found = embedding_kernels(name.encode())
    if found == NULL:
        raise ValueError(f"[set_isa] 'name' must be an instruction set of this build, got '{name}'")
    simd = found


cdef void embed_row_simd(const int[:, ::1] tokens, const float[:, ::1] table, const float[:, ::1] positions,
                         Py_ssize_t start, float[:, ::1] out, Py_ssize_t b, Py_ssize_t t) noexcept nogil:
    """Compute the same row in vectors, or copy it when there are no positions to add."""
    cdef Py_ssize_t r = b * tokens.shape[1] + t, C = out.shape[1]
    if positions is None:
        memcpy(&out[r, 0], &table[tokens[b, t], 0], C * sizeof(float))
    else:
        simd.add(&table[tokens[b, t], 0], &positions[start + t, 0], &out[r, 0], C)


def embedding_simd(const int[:, ::1] tokens, const float[:, ::1] table,                                  # IN, IN
                   const float[:, ::1] positions, Py_ssize_t start, float[:, ::1] out,                   # IN, OUT
                   int n_threads):
    """Add vectors along a row."""
    cdef Py_ssize_t r, T = tokens.shape[1], rows = tokens.shape[0] * T
    if rows * out.shape[1] <= ALONE or n_threads == 1:
        with nogil:
            for r in range(rows):
                embed_row_simd(tokens, table, positions, start, out, r // T, r % T)
        return
    for r in prange(rows, nogil=True, num_threads=n_threads, schedule="static"):
        embed_row_simd(tokens, table, positions, start, out, r // T, r % T)


cdef void zero_rows(float[:, ::1] x, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Set x[first:last] to 0."""
    if first < last and x.shape[1] > 0:
        memset(&x[first, 0], 0, (last - first) * x.shape[1] * sizeof(float))


cdef void add_row(const float[:, ::1] dy, Py_ssize_t r, float[:, ::1] into, Py_ssize_t row,
                  bint vectors) noexcept nogil:
    """Add dy[r, :] to into[row, :], in vectors for the simd rung."""
    cdef Py_ssize_t c
    if vectors:
        simd.add(&into[row, 0], &dy[r, 0], &into[row, 0], dy.shape[1])
        return
    for c in range(dy.shape[1]):
        into[row, c] += dy[r, c]


def embedding_backward_naive(const float[:, ::1] dy, const int[:, ::1] tokens, float[:, ::1] dtable,     # IN, IN, OUT
                             float[:, ::1] dpositions, Py_ssize_t start, bint accumulate,                # OUT
                             bint accumulate_positions, int n_threads):
    """Add each row of dy to the rows that its token and its position came from, on one thread."""
    cdef Py_ssize_t b, t, T = tokens.shape[1]
    with nogil:
        if not accumulate:
            zero_rows(dtable, 0, dtable.shape[0])
        if dpositions is not None and not accumulate_positions:
            zero_rows(dpositions, 0, dpositions.shape[0])
        for b in range(tokens.shape[0]):
            for t in range(T):
                add_row(dy, b * T + t, dtable, tokens[b, t], False)
                if dpositions is not None:
                    add_row(dy, b * T + t, dpositions, start + t, False)


cdef void share_out(const int[:, ::1] tokens, Py_ssize_t* work, Py_ssize_t V, bint accumulate, Py_ssize_t* border,
                    int n_threads) noexcept nogil:
    """Divide the ids among threads: thread k owns border[k]:border[k + 1]. The ranges cover 0:V with about equal work.

    work (V,) is scratch: the rows written per id, one for each of its tokens and one to set it to zero.
    """
    cdef Py_ssize_t b, t, v, k = 1, before = 0, total = tokens.shape[0] * tokens.shape[1] + (0 if accumulate else V)
    for v in range(V):
        work[v] = 0 if accumulate else 1
    for b in range(tokens.shape[0]):
        for t in range(tokens.shape[1]):
            work[tokens[b, t]] += 1
    border[0] = 0
    for v in range(V):
        while k < n_threads and before * n_threads >= k * total:        # thread k starts where k shares are complete
            border[k] = v
            k += 1
        before += work[v]
    for k in range(k, n_threads + 1):
        border[k] = V


cdef void gather(const float[:, ::1] dy, const int[:, ::1] tokens, float[:, ::1] dtable, Py_ssize_t first,
                 Py_ssize_t last, bint accumulate, bint vectors) noexcept nogil:
    """Compute dtable[first:last], in the order of the tokens."""
    cdef Py_ssize_t b, t, T = tokens.shape[1]
    if not accumulate:
        zero_rows(dtable, first, last)
    for b in range(tokens.shape[0]):
        for t in range(T):
            if first <= tokens[b, t] < last:
                add_row(dy, b * T + t, dtable, tokens[b, t], vectors)


cdef void gather_position(const float[:, ::1] dy, Py_ssize_t B, Py_ssize_t T, float[:, ::1] dpositions, Py_ssize_t p,
                          Py_ssize_t start, bint accumulate, bint vectors) noexcept nogil:
    """Compute dpositions[p, :]. The tokens have positions start:start + T; other positions get no gradient."""
    cdef Py_ssize_t b
    if not accumulate:
        zero_rows(dpositions, p, p + 1)
    if start <= p < start + T:
        for b in range(B):
            add_row(dy, b * T + p - start, dpositions, p, vectors)


cdef void spread(const float[:, ::1] dy, const int[:, ::1] tokens, float[:, ::1] dtable, float[:, ::1] dpositions,
                 Py_ssize_t start, bint accumulate, bint accumulate_positions, Py_ssize_t* border, bint vectors,
                 int n_threads) noexcept nogil:
    """Give each thread its range of dtable, then some rows of dpositions. border (n_threads + 1 + V,) is scratch."""
    cdef Py_ssize_t k, p, B = tokens.shape[0], T = tokens.shape[1]
    if n_threads == 1:                                                  # both loops below without a region
        gather(dy, tokens, dtable, 0, dtable.shape[0], accumulate, vectors)
        for p in range(0 if dpositions is None else dpositions.shape[0]):
            gather_position(dy, B, T, dpositions, p, start, accumulate_positions, vectors)
        return
    share_out(tokens, border + n_threads + 1, dtable.shape[0], accumulate, border, n_threads)
    for k in prange(n_threads, num_threads=n_threads, schedule="static"):
        gather(dy, tokens, dtable, border[k], border[k + 1], accumulate, vectors)
    if dpositions is not None:
        for p in prange(dpositions.shape[0], num_threads=n_threads, schedule="static"):
            gather_position(dy, B, T, dpositions, p, start, accumulate_positions, vectors)


def embedding_backward_parallel(const float[:, ::1] dy, const int[:, ::1] tokens, float[:, ::1] dtable,  # IN, IN, OUT
                                float[:, ::1] dpositions, Py_ssize_t start, bint accumulate,             # OUT
                                bint accumulate_positions, int n_threads):
    """Add threads: each owns a range of dtable, then some rows of dpositions, so no element is shared."""
    cdef Py_ssize_t* border = <Py_ssize_t*> malloc((n_threads + 1 + dtable.shape[0]) * sizeof(Py_ssize_t))
    if border == NULL:
        raise MemoryError("[embedding_backward] no memory to share out the table")
    with nogil:
        spread(dy, tokens, dtable, dpositions, start, accumulate, accumulate_positions, border, False, n_threads)
    free(border)


def embedding_backward_simd(const float[:, ::1] dy, const int[:, ::1] tokens, float[:, ::1] dtable,      # IN, IN, OUT
                            float[:, ::1] dpositions, Py_ssize_t start, bint accumulate,                 # OUT
                            bint accumulate_positions, int n_threads):
    """Add vectors along a row. Rows are added in the same order, so the bits equal those of parallel."""
    cdef size_t words = n_threads + 1 + dtable.shape[0]
    cdef Py_ssize_t* border = <Py_ssize_t*> scratch_floats(words * sizeof(Py_ssize_t) // sizeof(float))
    if border == NULL:
        raise MemoryError("[embedding_backward] no memory to share out the table")
    with nogil:
        spread(dy, tokens, dtable, dpositions, start, accumulate, accumulate_positions, border, True, n_threads)


RUNGS = {
    "naive": {"embedding": embedding_naive, "embedding_backward": embedding_backward_naive},
    "parallel": {"embedding": embedding_parallel, "embedding_backward": embedding_backward_parallel},
    "simd": {"embedding": embedding_simd, "embedding_backward": embedding_backward_simd},
}
