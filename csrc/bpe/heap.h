/* A binary heap, written once for the entries of training and of encoding. For csrc/bpe.pyx and csrc/bpe_encode.pyx.

   The children of entry i are 2 i + 1 and 2 i + 2, and no child comes before its parent, so entry 0 comes first of all.
   `first(x, y, context)` says whether x comes before y. It is a constant wherever push and pop are inlined, so that the
   compiler inlines it as well. Rejected: one entry type for both. With 16 bytes per entry instead of 8, encoding a long
   word took 1.3 times as long. */
#ifndef TINYGPT_HEAP_H
#define TINYGPT_HEAP_H

#include <stdint.h>

/* NAME_push adds an entry to a heap of n, which must have room for it. NAME_pop removes the first entry of a heap of
   n > 0: the last entry takes its place and sinks below each child that comes before it. */
#define DEFINE_HEAP(NAME, ENTRY)                                                                                      \
    typedef int (*NAME##_order)(const ENTRY *x, const ENTRY *y, const void *context);                                 \
    static inline void NAME##_push(ENTRY *heap, int64_t n, ENTRY entry, NAME##_order first, const void *context) {    \
        int64_t i = n;                                                                                                \
        for (; i > 0 && first(&entry, &heap[(i - 1) / 2], context); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];     \
        heap[i] = entry;                                                                                              \
    }                                                                                                                 \
    static inline ENTRY NAME##_pop(ENTRY *heap, int64_t n, NAME##_order first, const void *context) {                 \
        const ENTRY top = heap[0], last = heap[n - 1];                                                                \
        int64_t i = 0;                                                                                                \
        for (;;) {                                                                                                    \
            int64_t child = 2 * i + 1;                                                                                \
            if (child + 1 < n - 1 && first(&heap[child + 1], &heap[child], context)) child++;                         \
            if (child >= n - 1 || !first(&heap[child], &last, context)) break;                                        \
            heap[i] = heap[child];                                                                                    \
            i = child;                                                                                                \
        }                                                                                                             \
        heap[i] = last;                                                                                               \
        return top;                                                                                                   \
    }

/* Training: a pair of tokens, and its count when it was pushed. */
typedef struct {
    int64_t count;
    int32_t pair;
} Candidate;
DEFINE_HEAP(pair_heap, Candidate)

/* Encoding: the rank of a merge in the upper 32 bits, its place in the word in the lower ones. */
DEFINE_HEAP(rank_heap, uint64_t)

static inline int lowest_rank(const uint64_t *x, const uint64_t *y, const void *context) {
    (void)context;
    return *x < *y;
}

#endif
