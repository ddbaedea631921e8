/* Implementation of check.h: guarded arrays, random numbers, and the verdict. */
#define _DEFAULT_SOURCE
#include "check.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define ARRAYS 64 /* more than any case takes */
#define MARK 0xA5 /* fills the bytes from the start of the page to the array */

static struct {
    unsigned char *memory, *array;
    size_t bytes;
} arrays[ARRAYS];
static int n_arrays;

static char kernel_name[64], case_name[128];
static long values, wrong;
static double worst;
static int failed, readable;
static uint64_t state; /* of the random numbers, reset for every kernel: all instruction sets see the same */

/* Memory that ends at a page without access (or, if readable, without writing). */
static void *take(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (bytes / page + 1) * page;
    unsigned char *memory;
    if (n_arrays == ARRAYS) {
        fprintf(stderr, "more than %d arrays in a case\n", ARRAYS);
        exit(2);
    }
    memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + room, page, readable ? PROT_READ : PROT_NONE) != 0) {
        perror("mmap");
        exit(2);
    }
    memset(memory, MARK, room - bytes);
    arrays[n_arrays].memory = memory;
    arrays[n_arrays].array = memory + room - bytes;
    arrays[n_arrays].bytes = room + page;
    return arrays[n_arrays++].array;
}

/* Check the bytes before every array, then free it. */
void give_back(void) {
    while (n_arrays > 0) {
        unsigned char *p = arrays[--n_arrays].memory;
        for (; p < arrays[n_arrays].array; p++)
            if (*p != MARK) {
                at("something was written before an array");
                expect(1, 0, 0);
                break;
            }
        munmap(arrays[n_arrays].memory, arrays[n_arrays].bytes);
    }
}

/* A number in [0, 1) with 53 random bits (xorshift64*, Vigna, 2016). */
static double random_number(void) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (double)(state * 0x2545F4914F6CDD1DULL >> 11) * 0x1p-53;
}

float *blank(ptrdiff_t n) {
    float *x = take((size_t)n * sizeof(float));
    for (ptrdiff_t i = 0; i < n; i++) x[i] = NAN;
    return x;
}

float *uniform(ptrdiff_t n, float low, float high) {
    float *x = take((size_t)n * sizeof(float));
    for (ptrdiff_t i = 0; i < n; i++) x[i] = (float)(low + (high - low) * random_number());
    return x;
}

float *copy(const float *x, ptrdiff_t n) {
    float *y = take((size_t)n * sizeof(float));
    memcpy(y, x, (size_t)n * sizeof(float));
    return y;
}

int *whole(ptrdiff_t n, int low, int high) {
    int *x = take((size_t)n * sizeof(int));
    for (ptrdiff_t i = 0; i < n; i++) x[i] = low + (int)((high - low) * random_number());
    return x;
}

uint16_t *halfwords(ptrdiff_t n) {
    uint16_t *x = take((size_t)n * sizeof(uint16_t));
    for (ptrdiff_t i = 0; i < n; i++) x[i] = (uint16_t)(65536 * random_number());
    return x;
}

int8_t *octets(ptrdiff_t n) {
    int8_t *x = take((size_t)n);
    for (ptrdiff_t i = 0; i < n; i++) x[i] = (int8_t)(256 * random_number() - 128);
    return x;
}

void begin(const char *isa, const char *kernel) {
    snprintf(kernel_name, sizeof kernel_name, "%-8s%-28s", isa, kernel);
    case_name[0] = 0;
    state = 1;
    values = wrong = 0;
    worst = 0;
}

void at(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(case_name, sizeof case_name, format, arguments);
    va_end(arguments);
}

/* Count a value, note how much of its bound was used, and print the first three that exceed it. */
void expect(double got, double wanted, double room) {
    values++;
    if (got == wanted || (isnan(got) && isnan(wanted))) return;
    const double off = fabs(got - wanted);
    if (off <= room) {
        if (off / room > worst) worst = off / room;
        return;
    }
    if (wrong++ < 3)
        printf("%s wrong: got %.9g instead of %.9g, may be off by %.2g (%s)\n", kernel_name, got, wanted, room,
               case_name);
}

/* A kernel for which nothing was compared counts as failed. */
void finish(void) {
    give_back();
    if (values == 0 || wrong > 0) failed++;
    printf("%s %8ld values  ", kernel_name, values);
    if (wrong > 0) printf("%ld WRONG\n", wrong);
    else if (values == 0) printf("NOTHING COMPARED\n");
    else printf("ok, at worst %2.0f %% of the room\n", 100 * worst);
}

int failures(void) { return failed; }

/* Called when a kernel reads or writes past an array. write is allowed in signal handlers, printf is not. */
static void crashed(int number) {
    static const char what[] = " touched memory that is not there (";
    ssize_t n = write(1, kernel_name, strlen(kernel_name));
    n += write(1, what, sizeof what - 1);
    n += write(1, case_name, strlen(case_name));
    n += write(1, ")\n", 2);
    _exit(n > 0 && number > 0 ? 3 : 4);
}

void watch(int read_behind) {
    readable = read_behind;
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGSEGV, crashed);
    signal(SIGBUS, crashed);
}
