/* Working memory that a thread keeps between calls, for packed panels and tiles, so that a call causes no page faults.

   It belongs to the thread that calls a kernel. That thread requests it before a parallel region and gives parts of
   it to the others. Each module has its own, because it is a static variable of a header. */
#ifndef TINYGPT_SCRATCH_H
#define TINYGPT_SCRATCH_H

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

#define SCRATCH_ALIGNMENT 64 /* a cache line, and the widest vector register */

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static _Thread_local void *scratch_memory;
static _Thread_local size_t scratch_bytes;

static void scratch_make_key(void) { (void)pthread_key_create(&scratch_key, free); } /* frees it when a thread ends */

/* Returns at least `floats` floats, 64-byte aligned and uninitialised, valid until the thread's next call; NULL if
   memory is short. A larger request frees the smaller block first, so its contents are lost. */
static float *scratch_floats(size_t floats) {
    size_t bytes = (floats * sizeof(float) / SCRATCH_ALIGNMENT + 1) * SCRATCH_ALIGNMENT;
    if (bytes > scratch_bytes) {
        pthread_once(&scratch_once, scratch_make_key);
        free(scratch_memory);
        scratch_bytes = 0;
        scratch_memory = NULL;
        if (posix_memalign(&scratch_memory, SCRATCH_ALIGNMENT, bytes) != 0) scratch_memory = NULL;
        else scratch_bytes = bytes;
        pthread_setspecific(scratch_key, scratch_memory);
    }
    return (float *)scratch_memory;
}

#endif
