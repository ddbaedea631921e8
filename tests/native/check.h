/* Helpers of the self-test of the vector kernels: guarded arrays, random numbers, and a verdict on each kernel.

   The kernels are compiled unchanged from csrc/simd and compared with plain loops of their formula in double precision.
   The error bound of each result is derived beside its formula, from the rounding of one float32 operation and for
   sums in any order, so that the tests need not know the vectors. */
#ifndef TINYGPT_CHECK_H
#define TINYGPT_CHECK_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ROUNDING 0x1p-24 /* largest relative error of one float32 operation */
#define TINY 0x1p-126    /* the smallest normal float32; exp returns 0 below it */
#define EXP 2.04         /* error of exp in roundings: 1.02 units in the last place, as math.h promises */

/* Each array ends at the end of its memory, so that the processor reports any access behind it. The bytes before it are
   checked when it is given back. n may be 0. */
float *blank(ptrdiff_t n);                              /* NaN: outputs, to be written before they are read */
float *uniform(ptrdiff_t n, float low, float high);
float *copy(const float *x, ptrdiff_t n);
int *whole(ptrdiff_t n, int low, int high);             /* low <= x < high */
uint16_t *halfwords(ptrdiff_t n);                       /* random bits */
int8_t *octets(ptrdiff_t n);
void give_back(void);                                   /* frees every array taken so far */

void begin(const char *isa, const char *kernel);
void at(const char *format, ...) __attribute__((format(printf, 1, 2))); /* names the case in messages */
void expect(double got, double wanted, double room);    /* |got - wanted| <= room; infinity and NaN must be equal */
void finish(void);                                      /* prints one line for the kernel */
int failures(void);
void watch(int readable);           /* a crash names the case; readable: reads behind an array are allowed */

/* The error bound of a float32 sum of n products, in any order. */
static inline double sum_room(double n, double magnitude) { return (n + 3) * ROUNDING * magnitude + TINY; }

/* Sizes around one vector, four vectors and a cache line, for 4, 8 and 16 lanes. */
#define SIZES {1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 29, 31, 32, 33, 47, 63, 64, 65, 101}
#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

#endif
