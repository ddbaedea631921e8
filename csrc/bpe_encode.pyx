"""Byte-pair encoding, use: turn text into tokens and back. csrc/bpe.pyx learns the merges.

The number of a merge is its rank: the merge that was learnt first has the lowest.

    split the text into words (csrc/bpe/split.h); for each word: start with its bytes
    repeat: of all neighbours that are a merge take the one of lowest rank, among equals the leftmost; merge it

By hand, with the merges 0: a a, 1: a b, 2: aa ab and the word "aaab". a a a b has the ranks 0, 0, 1, so the first two
are merged: aa a b. Its ranks are none and 1: aa ab. Then rank 2: aaab. Training made the same merges in this order, so
a word of the training text gets the tokens that it had at the end of training.

Design
- Words of up to SHORT bytes are merged by searching all pairs each time, which is quadratic but needs no data
  structure. Longer ones use a heap of (rank, place), n log n, because a megabyte without a space is one word.
- The heap is updated lazily. An entry is stale if its rank is no longer that of its place: the tokens at a place only
  ever grow, so a rank does not return. Rejected: moving entries, which would have to know their position in the heap.
- The words of a text repeat, so a cache keeps the ids of recent words: one cache line per word, and a new word
  replaces an old one. Rejected: a table that grows, because it would have to be emptied at some point.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memmove

cdef extern from "bpe/split.h" nogil:
    ctypedef const unsigned char* Text
    ctypedef Text (*NextWord)(Text p, Text end) noexcept nogil
    NextWord scanner(const char* pattern)
    int class_of(unsigned int code)
    const char* UNICODE_VERSION
    int64_t MAX_TEXT

cdef extern from "bpe/tables.h" nogil:
    int NONE, NO_MEMORY
    ctypedef struct PairTable:
        pass
    ctypedef struct WordTable:
        int64_t n_words
    uint64_t hash_bytes(const unsigned char* bytes, Py_ssize_t n)
    int word_table_find(const WordTable* table, const unsigned char* bytes, int64_t length)
    int word_table_add(WordTable* table, const unsigned char* bytes, int64_t length)
    void word_table_free(WordTable* table)
    int pair_find(const PairTable* table, int left, int right)
    int pair_add(PairTable* table, int left, int right)
    void pair_table_free(PairTable* table)

cdef extern from "bpe/heap.h" nogil:
    ctypedef bint (*rank_heap_order)(const uint64_t* x, const uint64_t* y, const void* context) noexcept nogil
    void rank_heap_push(uint64_t* heap, int64_t n, uint64_t entry, rank_heap_order first, const void* context)
    uint64_t rank_heap_pop(uint64_t* heap, int64_t n, rank_heap_order first, const void* context)
    bint lowest_rank(const uint64_t* x, const uint64_t* y, const void* context) noexcept

# An entry of the cache is one cache line of 64 bytes: a word of up to 22 bytes, two lengths, and up to 10 ids. About
# three in a thousand words of source code are longer. 2^15 entries are 2 MB.
cdef enum:
    BYTES = 256
    SHORT = 64
    WORD_BYTES = 22
    WORD_IDS = 10
    ENTRIES = 1 << 15


cdef NextWord find_scanner(str pattern) except NULL:
    """Return the scanner of a pattern by its name."""
    cdef NextWord found = scanner(pattern.encode())
    if found == NULL:
        raise ValueError(f"[encode] 'pattern' is not known: '{pattern}'")
    return found


def unicode_version():
    """Return the version of Unicode that defines the letters, numbers and spaces of the patterns."""
    return UNICODE_VERSION.decode("ascii")


def classes(unsigned int first, unsigned int stop):
    """Return the class of every code point in [first, stop), one byte each: 0 other, 1 letter, 2 number, 3 space."""
    cdef unsigned int code
    return bytes([class_of(code) for code in range(first, stop)])


def word_ends(const unsigned char[::1] text, str pattern):                                                       # IN
    """Return the ends of the words of a UTF-8 text, in bytes; the last is the end of the text."""
    cdef NextWord next_word = find_scanner(pattern)
    if text.shape[0] == 0:
        return []
    cdef Text start = &text[0], p = start, end = start + text.shape[0]
    ends = []
    while p < end:
        p = next_word(p, end)
        ends.append(p - start)
    return ends


cdef struct Entry:
    unsigned char length, n_ids          # length 0: empty
    unsigned char word[WORD_BYTES]
    int ids[WORD_IDS]


cdef class Cache:
    """Ids of recent words. Two threads that encode at the same time need a cache each."""

    cdef Entry* _entries

    def __cinit__(self):
        self._entries = <Entry*>calloc(ENTRIES, sizeof(Entry))
        if self._entries == NULL:
            raise MemoryError("[encode] no memory for the cache of words")

    def __dealloc__(self):
        free(self._entries)


cdef class Encoder:
    """Turn text into ids.

    `byte_ids` (256,) has the id of each byte, or -1 for a byte that is dropped from texts. `merges` (M, 3) has rows of
    left id, right id and the id of both together, in the order of rank; each pair occurs once. `whole` are words that
    are not merged but have an id of their own, at the same index in `whole_ids`.
    """

    cdef NextWord _next_word
    cdef int _byte_ids[BYTES]
    cdef PairTable _ranks
    cdef int* _merged                    # rank -> id
    cdef WordTable _whole
    cdef int* _whole_ids                 # number of a word -> id
    cdef Py_ssize_t _longest             # length in bytes of the longest of these words

    def __cinit__(self, str pattern, const int[::1] byte_ids, const int[:, ::1] merges, list whole=None,
                  const int[::1] whole_ids=None):                                                                 # IN
        cdef Py_ssize_t i
        self._next_word = find_scanner(pattern)
        if byte_ids.shape[0] != BYTES or merges.shape[1] != 3:
            raise ValueError(f"[bpe] 'byte_ids' must have {BYTES} ids and 'merges' rows of 3")
        for i in range(BYTES):
            self._byte_ids[i] = byte_ids[i]
        self._merged = <int*>malloc((merges.shape[0] + 1) * sizeof(int))
        if self._merged == NULL:
            raise MemoryError("[bpe] no memory for the merges")
        for i in range(merges.shape[0]):
            self._merged[i] = merges[i, 2]
            if pair_add(&self._ranks, merges[i, 0], merges[i, 1]) != i:
                raise ValueError(f"[bpe] 'merges' must hold each pair once, row {i} is a duplicate")
        self._keep_whole(whole or [], whole_ids)

    cdef _keep_whole(self, list words, const int[::1] ids):
        """Store the words that have an id of their own."""
        cdef const unsigned char[::1] word
        cdef Py_ssize_t i
        if len(words) != (0 if ids is None else ids.shape[0]):
            raise ValueError("[bpe] 'whole' and 'whole_ids' must have the same length")
        self._whole_ids = <int*>malloc((len(words) + 1) * sizeof(int))
        if self._whole_ids == NULL:
            raise MemoryError("[bpe] no memory for the words")
        for i in range(len(words)):
            word = words[i]
            if word.shape[0] == 0:
                raise ValueError("[bpe] 'whole' must not hold an empty word")
            if word_table_add(&self._whole, &word[0], word.shape[0]) < 0:
                raise MemoryError("[bpe] no memory for the words")
            if self._whole.n_words != i + 1:
                raise ValueError(f"[bpe] 'whole' must hold each word once, word {i} is a duplicate")
            self._whole_ids[i] = ids[i]
            self._longest = max(self._longest, word.shape[0])

    def __dealloc__(self):
        pair_table_free(&self._ranks)
        free(self._merged)
        word_table_free(&self._whole)
        free(self._whole_ids)

    def encode(self, const unsigned char[::1] text, int[::1] out, Cache cache not None):              # IN, OUT, INOUT
        """Write the ids of a UTF-8 text to the front of `out`, which has one element per byte; return how many."""
        cdef Py_ssize_t n = 0
        if text.shape[0] > MAX_TEXT:
            raise ValueError(f"[encode] 'text' must have at most {MAX_TEXT} bytes, got {text.shape[0]}")
        if out.shape[0] < text.shape[0]:
            raise ValueError(f"[encode] 'out' must have an element for each of {text.shape[0]} bytes")
        if text.shape[0] > 0:
            with nogil:
                n = self._encode(&text[0], &text[0] + text.shape[0], &out[0], cache._entries)
        if n < 0:
            raise MemoryError("[encode] no memory for a long word")
        return n

    cdef Py_ssize_t _encode(self, Text p, Text end, int* out, Entry* entries) noexcept nogil:
        """Encode word by word, short words through the cache."""
        cdef Py_ssize_t n, n_ids, total = 0
        cdef Text stop
        while p < end:
            stop = self._next_word(p, end)
            n = stop - p
            if n <= WORD_BYTES:
                n_ids = self._remembered(p, n, out + total, entries)
            else:
                n_ids = self._merge_word(p, n, out + total)
            if n_ids < 0:
                return NO_MEMORY
            total += n_ids
            p = stop
        return total

    cdef Py_ssize_t _remembered(self, Text word, Py_ssize_t n, int* ids, Entry* entries) noexcept nogil:
        """Write the ids of a short word from the cache; if it is not there, merge it and store it."""
        cdef Entry* entry = &entries[hash_bytes(word, n) & (ENTRIES - 1)]
        cdef Py_ssize_t n_ids
        # One slot per hash: a hit copies the ids, a miss overwrites whatever word was there.
        if entry.length == n and memcmp(entry.word, word, n) == 0:
            for i in range(entry.n_ids):
                ids[i] = entry.ids[i]
            return entry.n_ids
        n_ids = self._merge_word(word, n, ids)
        if 0 < n_ids <= WORD_IDS:
            entry.length, entry.n_ids = <unsigned char>n, <unsigned char>n_ids
            memcpy(entry.word, word, n)
            memcpy(entry.ids, ids, n_ids * sizeof(int))
        return n_ids

    cdef Py_ssize_t _merge_word(self, Text word, Py_ssize_t n, int* ids) noexcept nogil:
        """Encode one word: `ids`, with room for one per byte, is merged in place. Return how many ids remain."""
        cdef Py_ssize_t i, n_ids = 0
        cdef int found = word_table_find(&self._whole, word, n) if n <= self._longest else NONE
        if found != NONE:
            ids[0] = self._whole_ids[found]
            return 1
        for i in range(n):
            ids[n_ids] = self._byte_ids[word[i]]
            n_ids += ids[n_ids] >= 0    # the id of a dropped byte is overwritten by the next
        return self._merge_short(ids, n_ids) if n_ids <= SHORT else self._merge_long(ids, n_ids)

    cdef unsigned int _rank(self, int left, int right) noexcept nogil:
        """Return the rank of a pair. A pair that is no merge has NONE, which is the largest unsigned number."""
        return <unsigned int>pair_find(&self._ranks, left, right)

    cdef Py_ssize_t _merge_short(self, int* ids, Py_ssize_t n) noexcept nogil:
        """Merge a short word: find the lowest rank by looking at all pairs, merge it, repeat. Return the ids left."""
        cdef unsigned int ranks[SHORT]   # ranks[i] belongs to the pair that begins at i
        cdef Py_ssize_t i, best
        for i in range(n - 1):
            ranks[i] = self._rank(ids[i], ids[i + 1])
        while n > 1:
            best = 0                     # strictly lower, so that the leftmost of equals is taken
            for i in range(1, n - 1):
                if ranks[i] < ranks[best]:
                    best = i
            if ranks[best] == <unsigned int>NONE:
                break
            ids[best] = self._merged[ranks[best]]
            n -= 1
            # Everything right of the pair moves one to the left: n - best - 1 ids, and one rank less.
            memmove(&ids[best + 1], &ids[best + 2], (n - best - 1) * sizeof(int))
            if best + 1 < n:
                memmove(&ranks[best + 1], &ranks[best + 2], (n - best - 2) * sizeof(int))
                ranks[best] = self._rank(ids[best], ids[best + 1])
            # The new token has new pairs on both sides; all other ranks are unchanged.
            if best > 0:
                ranks[best - 1] = self._rank(ids[best - 1], ids[best])
        return n

    cdef Py_ssize_t _merge_long(self, int* ids, Py_ssize_t n) noexcept nogil:
        """Merge a long word: a heap of (rank, place) in place of the search, links in place of moves."""
        cdef unsigned int* ranks = <unsigned int*>malloc(n * sizeof(int))
        cdef int* before = <int*>malloc(n * sizeof(int))
        cdef int* after = <int*>malloc(n * sizeof(int))
        # A merge removes one entry and adds two, and there are fewer than n merges.
        cdef uint64_t* heap = <uint64_t*>malloc(2 * n * sizeof(uint64_t))
        cdef Py_ssize_t left = NO_MEMORY
        if ranks != NULL and before != NULL and after != NULL and heap != NULL:
            left = self._merge_linked(ids, <int>n, ranks, before, after, heap)
        free(ranks)
        free(before)
        free(after)
        free(heap)
        return left

    cdef Py_ssize_t _merge_linked(self, int* ids, int n, unsigned int* ranks, int* before, int* after,
                                  uint64_t* heap) noexcept nogil:
        """Merge with links: before and after are the places of a token's neighbours. Return the ids left."""
        cdef int64_t n_heap = 0
        cdef uint64_t top
        cdef int i, b, left = 0
        for i in range(n):
            before[i], after[i] = i - 1, i + 1
            n_heap = self._note(ids, n, i, ranks, after, heap, n_heap)
        while n_heap > 0:
            top = rank_heap_pop(heap, n_heap, lowest_rank, NULL)
            n_heap -= 1
            i = <int><unsigned int>top   # the lower half
            if ranks[i] != top >> 32:    # stale: the pair that was here has been merged
                continue
            # The merged token takes place i, and place b is no longer linked.
            b = after[i]
            ids[i] = self._merged[ranks[i]]
            ranks[b] = <unsigned int>NONE
            after[i] = after[b]
            if after[i] < n:
                before[after[i]] = i
            n_heap = self._note(ids, n, i, ranks, after, heap, n_heap)
            if i > 0:
                n_heap = self._note(ids, n, before[i], ranks, after, heap, n_heap)
        # Close the gaps: follow the links and move the ids to the front.
        i = 0
        while i < n:
            ids[left] = ids[i]
            left += 1
            i = after[i]
        return left

    cdef int64_t _note(self, const int* ids, int n, int i, unsigned int* ranks, const int* after,
                       uint64_t* heap, int64_t n_heap) noexcept nogil:
        """Look up the rank of the pair that begins at i, and push it if it is a merge. Return the size of the heap."""
        ranks[i] = self._rank(ids[i], ids[after[i]]) if after[i] < n else <unsigned int>NONE
        if ranks[i] == <unsigned int>NONE:
            return n_heap
        rank_heap_push(heap, n_heap, <uint64_t>ranks[i] << 32 | <unsigned int>i, lowest_rank, NULL)
        return n_heap + 1


# ---------------------------------------------------------------------------------------------------- decoding

def join(const int[::1] ids, const unsigned char[::1] pieces, const int64_t[::1] starts):                        # IN
    """Return the bytes of tokens, joined: those of token t are pieces[starts[t] : starts[t + 1]]."""
    cdef Py_ssize_t i, n_tokens = starts.shape[0] - 1, total = 0
    cdef char* to
    for i in range(ids.shape[0]):
        if not 0 <= ids[i] < n_tokens:
            raise IndexError(f"[decode] 'ids' must be in 0 ... {n_tokens - 1}, got {ids[i]} at {i}")
        total += starts[ids[i] + 1] - starts[ids[i]]
    joined = PyBytes_FromStringAndSize(NULL, total)
    to = joined
    with nogil:
        for i in range(ids.shape[0]):
            memcpy(to, &pieces[starts[ids[i]]], starts[ids[i] + 1] - starts[ids[i]])
            to += starts[ids[i] + 1] - starts[ids[i]]
    return joined
