/* OpenMP's own questions, answered also by a build without it. */
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
