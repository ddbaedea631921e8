"""Byte-pair encoding, training: learn a vocabulary of merges from text. csrc/bpe_encode.pyx encodes with it.

Gage (1994) compressed text by replacing its most frequent pair of bytes with a new byte, again and again. Sennrich,
Haddow and Birch (2016) learn a vocabulary that way, within words. Radford et al. (2019) start with the 256 bytes, so
that every text has tokens.

Split the texts into words w (csrc/bpe/split.h) and count each distinct word, n_w. Its tokens are at first its bytes.

    count(a, b) = sum_w n_w #{i : w[i] = a, w[i + 1] = b}
    repeat: take the pair with the greatest count, among equals the first in the order of their bytes;
            make the token ab; in every word, from left to right, replace a b by ab
    until no pair occurs twice

By hand, "aaabdaaabac" as one word: a a occurs 4 times, so aa is made: aa a b d aa a b a c. Now a b and aa a occur twice
each, and "a" comes before "aa", so ab is made: aa ab d aa ab a c. Then aa ab makes aaab: aaab d aaab a c. No pair
occurs twice any more.

Design
- A merge visits only the places of its pair. Every byte of the distinct words is a node, linked to its neighbours in
  the word. The nodes where one pair begins are linked to each other. Replacing a b removes at most three pairs and
  adds two. Rejected: counting again after each merge, which reads all words every time; a set of words per pair, which
  reads a long word once for every merge in it.
- The list of a pair is in the order of the text without sorting. All of it is appended in one pass from left to right,
  by the merge that made the younger of its two tokens.
- The heap of pairs is updated lazily. After that pass the count of a pair can only fall, so an entry of the heap is
  never too small. The top is either the right pair, or a pair whose count has fallen and that is pushed again.
  Rejected: moving entries with every change, most of which never reach the top.
- Ties are broken by bytes, not by ids or places, so the merges do not depend on the order of the texts.
- The bytes of a token are not stored but read at the place where it was first made. Tokens that grow by one byte at a
  time would otherwise take memory quadratic in their number.
"""
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp

cdef extern from "bpe/split.h" nogil:
    ctypedef const unsigned char* Text
    ctypedef Text (*NextWord)(Text p, Text end) noexcept nogil
    NextWord scanner(const char* pattern)
    int64_t MAX_TEXT

cdef extern from "bpe/tables.h" nogil:
    int NONE, NO_MEMORY
    ctypedef struct Word:
        int64_t count, start, length
    ctypedef struct WordTable:
        Word* words
        int64_t n_words, n_bytes
        unsigned char* bytes
    ctypedef struct PairTable:
        pass
    void* with_room(void* array, int64_t used, int64_t* room, size_t size)
    int word_table_add(WordTable* table, const unsigned char* bytes, int64_t length)
    void word_table_free(WordTable* table)
    int pair_add(PairTable* table, int left, int right)
    void pair_table_free(PairTable* table)

cdef extern from "bpe/heap.h" nogil:
    ctypedef struct Candidate:
        int64_t count
        int pair
    ctypedef bint (*pair_heap_order)(const Candidate* x, const Candidate* y, const void* context) noexcept nogil
    void pair_heap_push(Candidate* heap, int64_t n, Candidate entry, pair_heap_order first, const void* context)
    Candidate pair_heap_pop(Candidate* heap, int64_t n, pair_heap_order first, const void* context)

cdef enum:
    BYTES = 256


cdef struct Node:                        # a byte of a distinct word, at which a token begins or which is inside of one
    int token
    int word
    int before, after                    # the neighbouring tokens in the word, NONE at its ends
    int pair                             # the pair that begins here
    int previous, next                   # the places before and after this one where the same pair begins

cdef struct Pair:
    int64_t count
    int left, right                      # tokens
    int first, last                      # nodes

cdef struct Token:                       # where its bytes are found: a node has the index of its byte
    int64_t start, length

cdef struct Order:                       # the arrays that the order of two pairs depends on
    const Pair* pairs
    const Token* tokens
    const unsigned char* bytes


cdef int compare_bytes(const Order* order, int s, int t) noexcept nogil:
    """Return a negative number if the bytes of token s come before those of t, as words do in a dictionary."""
    cdef const Token* x = &order.tokens[s]
    cdef const Token* y = &order.tokens[t]
    cdef int result
    if s == t:
        return 0
    result = memcmp(order.bytes + x.start, order.bytes + y.start, min(x.length, y.length))
    return result if result != 0 else -1 if x.length < y.length else 1


cdef bint more_frequent(const Candidate* x, const Candidate* y, const void* context) noexcept nogil:
    """Order the heap of pairs: the greatest count first, then by the bytes of the left and the right token."""
    cdef const Order* order = <const Order*>context
    cdef int result
    if x.count != y.count:
        return x.count > y.count
    result = compare_bytes(order, order.pairs[x.pair].left, order.pairs[y.pair].left)
    if result == 0:
        result = compare_bytes(order, order.pairs[x.pair].right, order.pairs[y.pair].right)
    return result < 0


cdef class Trainer:
    """Learn merges: `add` texts, `start`, then `merge` until there are enough tokens."""

    cdef NextWord _next_word
    cdef WordTable _words
    cdef Node* _nodes
    cdef PairTable _numbers
    cdef Pair* _pairs
    cdef Token* _tokens
    cdef Candidate* _heap                # the counts are those when pushed, and may have fallen since
    cdef int64_t _n_pairs, _pairs_room, _n_tokens, _tokens_room, _n_heap, _heap_room

    def __cinit__(self, str pattern):
        self._next_word = scanner(pattern.encode())
        if self._next_word == NULL:
            raise ValueError(f"[train] 'pattern' is not known: '{pattern}'")

    def __dealloc__(self):
        word_table_free(&self._words)
        pair_table_free(&self._numbers)
        free(self._nodes)
        free(self._pairs)
        free(self._tokens)
        free(self._heap)

    def add(self, const unsigned char[::1] text):                                                                # IN
        """Count the words of a UTF-8 text."""
        if self._nodes != NULL:
            raise ValueError("[train] texts must be added before the start")
        if text.shape[0] == 0:
            return
        cdef Text p = &text[0], end = p + text.shape[0], stop
        cdef int result = 0
        # Word by word; the table counts repeated words instead of storing them again.
        with nogil:
            while p < end and result == 0:
                stop = self._next_word(p, end)
                result = word_table_add(&self._words, p, stop - p)
                p = stop
        if result < 0:
            raise MemoryError("[train] no memory for the words of the text")
        if self._words.n_bytes > MAX_TEXT:
            raise ValueError(f"[train] the distinct words must have at most {MAX_TEXT} bytes together")

    def start(self):
        """End the counting and turn every byte of every distinct word into a node."""
        cdef int result
        if self._nodes == NULL:
            self._nodes = <Node*>malloc((self._words.n_bytes + 1) * sizeof(Node))
            self._tokens_room = BYTES
            self._tokens = <Token*>calloc(BYTES, sizeof(Token))
            self._n_tokens = BYTES
            if self._nodes == NULL or self._tokens == NULL:
                raise MemoryError("[train] no memory for the positions of the words")
            with nogil:
                result = self._place_nodes()
            if result < 0:
                raise MemoryError("[train] no memory for the pairs")

    def merge(self, int[:, ::1] out):                                                                           # OUT
        """Make one token per row of `out` (n, 2), and write there the two tokens that it is made of.

        Returns the number of tokens made: less than n if no pair occurs twice any more.
        """
        cdef Py_ssize_t done = 0
        cdef int pair = 0
        with nogil:
            while done < out.shape[0]:
                pair = self._most_frequent()
                if pair < 0:
                    break
                out[done, 0], out[done, 1] = self._pairs[pair].left, self._pairs[pair].right
                if self._replace(pair) < 0:
                    pair = NO_MEMORY
                    break
                done += 1
        if pair == NO_MEMORY:
            raise MemoryError("[train] no memory for the pairs")
        return done

    cdef int _place_nodes(self) noexcept nogil:
        """Link the bytes of every word, and list the places of every pair."""
        cdef int64_t w, i, start, end
        cdef Word* words = self._words.words
        for w in range(self._words.n_words):
            start, end = words[w].start, words[w].start + words[w].length
            for i in range(start, end):
                self._nodes[i] = Node(self._words.bytes[i], w, i - 1 if i > start else NONE,
                                      i + 1 if i + 1 < end else NONE, NONE, NONE, NONE)
                self._tokens[self._words.bytes[i]] = Token(i, 1)
            # Pairs only after all nodes of the word, because a pair reads the token after it.
            for i in range(start, end - 1):
                if self._begin_pair(i) < 0:
                    return NO_MEMORY
        return self._push_from(0)

    cdef int _replace(self, int pair) noexcept nogil:
        """Merge a pair: replace every a b by the new token, from left to right."""
        cdef int64_t known = self._n_pairs
        cdef int i = self._pairs[pair].first, b, before, after
        cdef Token* tokens = <Token*>with_room(self._tokens, self._n_tokens, &self._tokens_room, sizeof(Token))
        if tokens == NULL:
            return NO_MEMORY
        self._tokens = tokens
        # The bytes of the new token are found at its first place: those of a, followed by those of b.
        tokens[self._n_tokens] = tokens[self._pairs[pair].left]
        tokens[self._n_tokens].start = i
        tokens[self._n_tokens].length += tokens[self._pairs[pair].right].length
        # Take the first of the list each time, because in "aaa" merging the first a a removes the second.
        while self._pairs[pair].first != NONE:
            i = self._pairs[pair].first
            b = self._nodes[i].after     # the places of a and b, and of their neighbours in the word
            before, after = self._nodes[i].before, self._nodes[b].after
            # Three pairs end: a b, the one before it, and the one after it.
            self._end_pair(i)
            if before != NONE:
                self._end_pair(before)
            if after != NONE:
                self._end_pair(b)
                self._nodes[after].before = i
            # The new token takes the place of a, the node of b is skipped, and two pairs begin.
            self._nodes[i].token = <int>self._n_tokens
            self._nodes[i].after = after
            if before != NONE and self._begin_pair(before) < 0 or after != NONE and self._begin_pair(i) < 0:
                return NO_MEMORY
        self._n_tokens += 1
        return self._push_from(known)    # only pairs with the new token are new

    cdef int _begin_pair(self, int i) noexcept nogil:
        """Append node i to the places of the pair that now begins there."""
        cdef Node* node = &self._nodes[i]
        cdef int right = self._nodes[node.after].token
        cdef int number = pair_add(&self._numbers, node.token, right)
        if number < 0:
            return NO_MEMORY
        if number == self._n_pairs:      # never seen before
            pairs = <Pair*>with_room(self._pairs, self._n_pairs, &self._pairs_room, sizeof(Pair))
            if pairs == NULL:
                return NO_MEMORY
            self._pairs = pairs
            pairs[number] = Pair(0, node.token, right, NONE, NONE)
            self._n_pairs += 1
        # The end of the list is its place: pairs begin from left to right.
        cdef Pair* pair = &self._pairs[number]
        pair.count += self._words.words[node.word].count
        node.pair, node.previous, node.next = number, pair.last, NONE
        if pair.last == NONE:
            pair.first = i
        else:
            self._nodes[pair.last].next = i
        pair.last = i
        return 0

    cdef void _end_pair(self, int i) noexcept nogil:
        """Remove node i from the places of its pair."""
        cdef Node* node = &self._nodes[i]
        cdef Pair* pair = &self._pairs[node.pair]
        pair.count -= self._words.words[node.word].count
        if node.previous == NONE:
            pair.first = node.next
        else:
            self._nodes[node.previous].next = node.next
        if node.next == NONE:
            pair.last = node.previous
        else:
            self._nodes[node.next].previous = node.previous

    cdef int _most_frequent(self) noexcept nogil:
        """Remove the pair to merge next from the heap; NONE if no pair occurs twice, or NO_MEMORY."""
        cdef Candidate top
        cdef Order order = Order(self._pairs, self._tokens, self._words.bytes)
        while self._n_heap > 0:
            top = pair_heap_pop(self._heap, self._n_heap, more_frequent, &order)
            self._n_heap -= 1
            if self._pairs[top.pair].count == top.count:
                return top.pair          # its count is current, and no other is greater
            if self._push(top.pair) < 0:
                return NO_MEMORY
        return NONE

    cdef int _push_from(self, int64_t first) noexcept nogil:
        """Push all pairs from number `first` on."""
        cdef int64_t i
        for i in range(first, self._n_pairs):
            if self._push(<int>i) < 0:
                return NO_MEMORY
        return 0

    cdef int _push(self, int pair) noexcept nogil:
        """Push a pair with its present count. A pair that occurs once is left out: merging it would shorten nothing."""
        cdef Order order = Order(self._pairs, self._tokens, self._words.bytes)
        if self._pairs[pair].count < 2:
            return 0
        heap = <Candidate*>with_room(self._heap, self._n_heap, &self._heap_room, sizeof(Candidate))
        if heap == NULL:
            return NO_MEMORY
        self._heap = heap
        pair_heap_push(heap, self._n_heap, Candidate(self._pairs[pair].count, pair), more_frequent, &order)
        self._n_heap += 1
        return 0
