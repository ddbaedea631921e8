/* Scanners that split a text into words: five patterns over UTF-8. For csrc/bpe.pyx and csrc/bpe_encode.pyx.

   A pattern is a regular expression (listed in tinygpt/tokenizers/patterns.py) whose alternatives are tried in order
   where the previous word ended. Each scanner tries the same alternatives in the same order, so it can be read beside
   the expression; tests hold the two equal. Every code point belongs to some word: nothing is skipped.

   Two facts keep a scanner short. Letters, numbers and spaces exclude each other, so the class of one code point
   rules out most alternatives. And \s+(?!\S), a run of spaces that does not touch what follows, is the whole run at
   the end of the text, and elsewhere the run without its last space. */
#ifndef TINYGPT_SPLIT_H
#define TINYGPT_SPLIT_H

#include "bpe/classes.h"

#include <stddef.h>
#include <string.h>

#define MAX_TEXT 2147483647LL /* bytes: a position in a text, or in all distinct words, is an int */

typedef const uint8_t *Text; /* a position in UTF-8 */

/* The class of a code point, from two bits of the table in classes.h. */
static inline int class_of(uint32_t code) {
    if (code >= CLASS_LIMIT) return OTHER;
    const uint8_t *row = class_bits + class_row[code / CLASS_ROW] * (CLASS_ROW / 4);
    return row[code % CLASS_ROW / 4] >> 2 * (code % 4) & 3;
}

/* The class of the code point at p < end, and its length in *width. Bytes that are not UTF-8 are OTHER, one at a time.
   Nothing at or after the end is read, whatever the bytes are. */
static inline int class_at(Text p, Text end, int *width) {
    *width = 1;
    if (*p < 0x80) return ascii_class[*p];
    const int n = *p >= 0xf0 ? 4 : *p >= 0xe0 ? 3 : *p >= 0xc0 ? 2 : 1;
    if (n == 1 || end - p < n) return OTHER;
    uint32_t code = *p & (0xff >> (n + 1)); /* a lead byte begins with n ones and a zero */
    for (int i = 1; i < n; i++) code = code << 6 | (p[i] & 0x3f);
    *width = n;
    return class_of(code);
}

/* True if there is a code point of this class at p. */
static inline int is_class(int kind, Text p, Text end) {
    int width;
    return p < end && class_at(p, end, &width) == kind;
}

/* The end of the run of a class that begins at p, after at most `most` code points. */
static inline Text run_of(int kind, Text p, Text end, ptrdiff_t most) {
    int width;
    for (; p < end && most > 0 && class_at(p, end, &width) == kind; most--) p += width;
    return p;
}

static inline Text run(int kind, Text p, Text end) { return run_of(kind, p, end, PTRDIFF_MAX); }

/* [\r\n]* */
static inline Text line_breaks(Text p, Text end) {
    while (p < end && (*p == '\r' || *p == '\n')) p++;
    return p;
}

/* The end of the run of one byte that begins at p. */
static inline Text run_of_byte(uint8_t byte, Text p, Text end) {
    while (p < end && *p == byte) p++;
    return p;
}

/* \s+(?!\S)|\s+ for a run of spaces from p to stop. */
static inline Text spaces(Text p, Text stop, Text end) {
    if (stop == end) return stop;
    Text last = stop - 1;
    while ((*last & 0xc0) == 0x80) last--; /* back over the continuation bytes of one code point */
    return last == p ? stop : last;
}

/* The length of 's 't 're 've 'm 'll 'd at p, or 0. With any_case also of 'S etc., and of ' with a long s (U+017F,
   c5 bf), which case folding makes an s. */
static inline int contraction(Text p, Text end, int any_case) {
    if (*p != '\'' || end - p < 2) return 0;
    const int lower = any_case ? 0x20 : 0; /* sets the bit in which ASCII cases differ; no other byte becomes a match */
    const int a = p[1] | lower, b = end - p > 2 ? p[2] | lower : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return any_case && end - p > 2 && p[1] == 0xc5 && p[2] == 0xbf ? 3 : 0;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static Text next_gpt2(Text p, Text end) {
    int width, kind;
    const int short_form = contraction(p, end, 0);
    if (short_form) return p + short_form;
    Text first = *p == ' ' && p + 1 < end && !is_class(SPACE, p + 1, end) ? p + 1 : p;
    kind = class_at(first, end, &width);
    Text stop = run(kind, first + width, end);
    return kind == SPACE ? spaces(p, stop, end) : stop;
}

/* \p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+ : each number alone. Between two
   numbers it splits like next_gpt2, to which a number is the end of the text. */
static Text next_smollm(Text p, Text end) {
    int width;
    if (class_at(p, end, &width) == NUMBER) return p + width;
    if (*p == ' ' && is_class(NUMBER, p + 1, end)) return p + 1;
    Text stop = next_gpt2(p, end), after = stop;
    if (is_class(SPACE, p, end)) after = run(SPACE, p, end);
    return is_class(NUMBER, after, end) ? after : stop;
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
   with `digits` for N. */
static inline Text next_of_gpt4(Text p, Text end, int digits) {
    int width;
    const int short_form = contraction(p, end, 1), kind = class_at(p, end, &width);
    if (short_form) return p + short_form;
    if (kind == LETTER) return run(LETTER, p + width, end);
    if (kind == NUMBER) return run_of(NUMBER, p, end, digits);
    if (*p != '\r' && *p != '\n' && is_class(LETTER, p + width, end)) return run(LETTER, p + width, end);
    Text first = *p == ' ' ? p + 1 : p;
    if (is_class(OTHER, first, end)) return line_breaks(run(OTHER, first, end), end);
    Text stop = run(SPACE, p + width, end), last = stop;
    while (last > p && last[-1] != '\r' && last[-1] != '\n') last--;
    return last > p ? last : spaces(p, stop, end); /* \s* gives back everything after the last line break */
}

static Text next_gpt4(Text p, Text end) { return next_of_gpt4(p, end, 3); }

static Text next_qwen2(Text p, Text end) { return next_of_gpt4(p, end, 1); }

/* [\r\n]+[ \t]*| {2,}|\t+|(?: |[^\s\p{L}\p{N}])?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s */
static Text next_code(Text p, Text end) {
    int width;
    const int kind = class_at(p, end, &width);
    if (*p == '\r' || *p == '\n') {
        p = line_breaks(p, end);
        while (p < end && (*p == ' ' || *p == '\t')) p++;
        return p;
    }
    if (*p == '\t') return run_of_byte('\t', p, end);
    Text stop = run_of_byte(' ', p, end);
    if (stop - p > 1) return stop;
    if (kind == LETTER) return run(LETTER, p + width, end);
    if ((*p == ' ' || kind == OTHER) && is_class(LETTER, p + width, end)) return run(LETTER, p + width, end);
    if (is_class(NUMBER, stop, end)) return run_of(NUMBER, stop, end, 3); /* stop: after one space, if there is one */
    if (is_class(OTHER, stop, end)) return run(OTHER, stop, end);
    return p + width;
}

typedef Text (*NextWord)(Text p, Text end);

/* The scanner of a pattern, or NULL if there is none of that name. */
static inline NextWord scanner(const char *pattern) {
    return strcmp(pattern, "gpt2") == 0     ? next_gpt2
           : strcmp(pattern, "gpt4") == 0   ? next_gpt4
           : strcmp(pattern, "code") == 0   ? next_code
           : strcmp(pattern, "smollm") == 0 ? next_smollm
           : strcmp(pattern, "qwen2") == 0  ? next_qwen2
                                            : NULL;
}

#endif
