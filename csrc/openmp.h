/* OpenMP's version and thread count, with the answers of a serial build where OpenMP is missing. */
#ifndef TINYGPT_OPENMP_H
#define TINYGPT_OPENMP_H

#ifdef _OPENMP
#include <omp.h>
static inline int openmp_version(void) { return _OPENMP; }
static inline int openmp_max_threads(void) { return omp_get_max_threads(); }
#else
static inline int openmp_version(void) { return 0; }
static inline int openmp_max_threads(void) { return 1; }
#endif

#endif
