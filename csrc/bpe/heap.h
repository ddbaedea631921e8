/* A binary heap of numbers with the least on top, for csrc/bpe.pyx: no parent is greater than its two children, which
   stand at 2 i + 1 and 2 i + 2. */
#ifndef TINYGPT_HEAP_H
#define TINYGPT_HEAP_H

#include <stdint.h>

/* Puts a number into a heap of n; there must be room. */
static inline void heap_push(uint64_t *heap, int64_t n, uint64_t number) {
    int64_t i = n;
    for (; i > 0 && heap[(i - 1) / 2] > number; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = number;
}

/* Takes the least number out of a heap of n > 0. */
static inline uint64_t heap_pop(uint64_t *heap, int64_t n) {
    const uint64_t least = heap[0], last = heap[n - 1];
    int64_t i = 0;
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child + 1 < n - 1 && heap[child + 1] < heap[child]) child++;
        if (child >= n - 1 || heap[child] >= last) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return least;
}

#endif
