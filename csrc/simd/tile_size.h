/* Size of the micro-tile (tile.h): MR rows and NV vectors = NR columns, for 32 or for 16 vector registers. */
#undef MR
#undef NR
#undef NV
#if REGISTERS >= 32
#define MR 8
#define NV 3
#else
#define MR 6
#define NV 2
#endif
#define NR (NV * LANES)
