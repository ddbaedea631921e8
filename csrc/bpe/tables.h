/* Two hash tables: distinct words with their counts, and pairs of tokens with their numbers. For csrc/bpe.pyx and
   csrc/bpe_encode.pyx.

   Both use open addressing with linear probing: the hash of a key gives the first slot, and the search continues with
   the next slot until it finds the key or an empty slot. At most half of the slots are used, so searches are short.
   Entries are never removed. Words and pairs are numbered 0, 1, ... in the order of their first appearance, so that
   further facts about them can be kept in arrays without gaps. */
#ifndef TINYGPT_TABLES_H
#define TINYGPT_TABLES_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NONE (-1)
#define NO_MEMORY (-2)
#define FIRST_SLOTS 1024 /* a power of two, like all sizes, so that a remainder is a bit mask */

/* Mix 64 bits so that each depends on every bit of x: the finaliser of MurmurHash3 (Appleby, 2011). */
static inline uint64_t mix(uint64_t x) {
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdULL;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ULL;
    return x ^ x >> 33;
}

/* The hash of a word, eight bytes at a time. Its length is part of the hash, so trailing zero bytes make a
   difference. */
static inline uint64_t hash_bytes(const uint8_t *bytes, ptrdiff_t n) {
    uint64_t hash = (uint64_t)n, part;
    for (; n >= 8; n -= 8, bytes += 8) {
        memcpy(&part, bytes, 8);
        hash = mix(hash ^ part);
    }
    for (part = 0; n > 0; n--) part = part << 8 | bytes[n - 1];
    return mix(hash ^ part);
}

/* Room for one more entry in an array that doubles its size. Returns NULL if memory is short, with the array
   unchanged. */
static inline void *with_room(void *array, int64_t used, int64_t *room, size_t size) {
    if (used < *room) return array;
    void *larger = realloc(array, (size_t)(*room ? 2 * *room : FIRST_SLOTS) * size);
    if (larger) *room = *room ? 2 * *room : FIRST_SLOTS;
    return larger;
}

/* ---------------------------------------------------------------------------------------------------- words */

typedef struct {
    uint64_t hash;
    int64_t count; /* occurrences in the texts */
    int64_t start; /* index of its first byte */
    int64_t length;
} Word;

typedef struct {
    Word *words;
    int64_t n_words, room;
    uint8_t *bytes; /* of all words, one after the other */
    int64_t n_bytes, bytes_room;
    int32_t *slots; /* numbers of words; NONE in an empty slot */
    int64_t n_slots;
} WordTable;

/* Double the number of slots and insert all words again. */
static inline int word_table_grow(WordTable *table) {
    const int64_t n = table->n_slots ? 2 * table->n_slots : FIRST_SLOTS;
    int32_t *slots = (int32_t *)malloc((size_t)n * sizeof(int32_t));
    if (!slots) return NO_MEMORY;
    memset(slots, 0xff, (size_t)n * sizeof(int32_t)); /* all NONE */
    /* The hashes are stored, so no word is read again. */
    for (int64_t i = 0; i < table->n_words; i++) {
        int64_t slot = (int64_t)(table->words[i].hash & (uint64_t)(n - 1));
        while (slots[slot] != NONE) slot = (slot + 1) & (n - 1);
        slots[slot] = (int32_t)i;
    }
    free(table->slots);
    table->slots = slots;
    table->n_slots = n;
    return 0;
}

/* The number of a word, or NONE if it is not in the table. */
static inline int32_t word_table_find(const WordTable *table, const uint8_t *bytes, int64_t length) {
    if (!table->n_slots) return NONE;
    const uint64_t hash = hash_bytes(bytes, length);
    int64_t slot = (int64_t)(hash & (uint64_t)(table->n_slots - 1));
    for (; table->slots[slot] != NONE; slot = (slot + 1) & (table->n_slots - 1)) {
        const Word *word = &table->words[table->slots[slot]];
        if (word->hash == hash && word->length == length &&
            memcmp(table->bytes + word->start, bytes, (size_t)length) == 0)
            break;
    }
    return table->slots[slot];
}

/* Count one more occurrence of a word; returns NO_MEMORY if there is none. */
static inline int word_table_add(WordTable *table, const uint8_t *bytes, int64_t length) {
    if (2 * table->n_words >= table->n_slots && word_table_grow(table) < 0) return NO_MEMORY;
    const uint64_t hash = hash_bytes(bytes, length);
    int64_t slot = (int64_t)(hash & (uint64_t)(table->n_slots - 1));
    for (; table->slots[slot] != NONE; slot = (slot + 1) & (table->n_slots - 1)) {
        Word *word = &table->words[table->slots[slot]];
        if (word->hash == hash && word->length == length &&
            memcmp(table->bytes + word->start, bytes, (size_t)length) == 0) {
            word->count++;
            return 0;
        }
    }
    /* A new word: its record, its bytes, and its number in the empty slot that the search ended at. */
    Word *words = (Word *)with_room(table->words, table->n_words, &table->room, sizeof(Word));
    if (!words) return NO_MEMORY;
    table->words = words;
    while (table->n_bytes + length > table->bytes_room) {
        uint8_t *more = (uint8_t *)with_room(table->bytes, table->bytes_room, &table->bytes_room, 1);
        if (!more) return NO_MEMORY;
        table->bytes = more;
    }
    memcpy(table->bytes + table->n_bytes, bytes, (size_t)length);
    words[table->n_words] = (Word){hash, 1, table->n_bytes, length};
    table->slots[slot] = (int32_t)table->n_words++;
    table->n_bytes += length;
    return 0;
}

static inline void word_table_free(WordTable *table) {
    free(table->words);
    free(table->bytes);
    free(table->slots);
    memset(table, 0, sizeof(*table));
}

/* ---------------------------------------------------------------------------------------------------- pairs */

typedef struct {
    uint64_t key;
    int32_t number; /* NONE in an empty slot */
} PairSlot;

typedef struct { /* keys are stored in the slots, because they have only 8 bytes */
    PairSlot *slots;
    int64_t n_slots;
    int32_t n_pairs;
} PairTable;

static inline uint64_t pair_key(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The slot that holds a key, or the empty slot where it belongs. */
static inline PairSlot *pair_slot(const PairTable *table, uint64_t key) {
    uint64_t slot = mix(key), mask = (uint64_t)(table->n_slots - 1);
    while (table->slots[slot & mask].number != NONE && table->slots[slot & mask].key != key) slot++;
    return &table->slots[slot & mask];
}

/* The number of a pair, or NONE if it is not in the table. */
static inline int32_t pair_find(const PairTable *table, int32_t left, int32_t right) {
    return table->n_pairs ? pair_slot(table, pair_key(left, right))->number : NONE;
}

/* Double the number of slots and insert all pairs again. */
static inline int pair_table_grow(PairTable *table) {
    PairTable larger = {NULL, table->n_slots ? 2 * table->n_slots : FIRST_SLOTS, table->n_pairs};
    larger.slots = (PairSlot *)malloc((size_t)larger.n_slots * sizeof(PairSlot));
    if (!larger.slots) return NO_MEMORY;
    for (int64_t i = 0; i < larger.n_slots; i++) larger.slots[i].number = NONE;
    for (int64_t i = 0; i < table->n_slots; i++)
        if (table->slots[i].number != NONE) *pair_slot(&larger, table->slots[i].key) = table->slots[i];
    free(table->slots);
    *table = larger;
    return 0;
}

/* The number of a pair, which is added if it is new; returns NO_MEMORY if there is none. */
static inline int32_t pair_add(PairTable *table, int32_t left, int32_t right) {
    if (2 * (int64_t)table->n_pairs >= table->n_slots && pair_table_grow(table) < 0) return NO_MEMORY;
    PairSlot *slot = pair_slot(table, pair_key(left, right));
    if (slot->number == NONE) *slot = (PairSlot){pair_key(left, right), table->n_pairs++};
    return slot->number;
}

static inline void pair_table_free(PairTable *table) {
    free(table->slots);
    memset(table, 0, sizeof(*table));
}

#endif
