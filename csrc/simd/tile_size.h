/* Rows and vectors of the register tile (tile.h) for the number of registers at hand. */
#undef MR
#undef NV
#if REGISTERS >= 32
#define MR 8
#define NV 3
#else
#define MR 6
#define NV 2
#endif
