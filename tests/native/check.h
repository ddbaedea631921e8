/* What a self-test of the vector kernels needs: arrays between guards, random numbers, and a verdict on each kernel.

   The kernels are compiled here as they are, from csrc/simd, and held against the plain loops of their formula in
   double precision. How far a result may be off is derived beside each formula from the rounding of one float32
   operation, for sums in any order: the tests know nothing of vectors. */
#ifndef TINYGPT_CHECK_H
#define TINYGPT_CHECK_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ROUNDING 0x1p-24 /* of one float32 operation, relative to its result */
#define TINY 0x1p-126    /* the smallest normal float32: exp gives 0 below it */
#define EXP 2.04         /* roundings in exp: 1.02 units in the last place, as math.h promises */

/* Arrays end where their memory ends: to touch what lies behind is an error that the processor reports. What lies
   before them is compared when they are given back. n may be 0. */
float *blank(ptrdiff_t n);                              /* NaN: outputs, not to be read before they are written */
float *uniform(ptrdiff_t n, float low, float high);
float *copy(const float *x, ptrdiff_t n);
int *whole(ptrdiff_t n, int low, int high);             /* low <= x < high */
uint16_t *halfwords(ptrdiff_t n);                       /* any bits */
int8_t *octets(ptrdiff_t n);
void give_back(void);                                   /* every array so far */

void begin(const char *isa, const char *kernel);
void at(const char *format, ...) __attribute__((format(printf, 1, 2))); /* the case, for the message */
void expect(double got, double wanted, double room);    /* |got - wanted| <= room; infinity and NaN as they are */
void finish(void);                                      /* one line for the kernel */
int failures(void);
void watch(int readable);           /* a crash names the case; readable: reads behind an array are none */

/* How far a float32 sum of n products may be off, whatever its order. */
static inline double sum_room(double n, double magnitude) { return (n + 3) * ROUNDING * magnitude + TINY; }

/* Sizes on both sides of a vector, of four vectors and of a cache line, for 4, 8 and 16 lanes. */
#define SIZES {1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 29, 31, 32, 33, 47, 63, 64, 65, 101}
#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

#endif
