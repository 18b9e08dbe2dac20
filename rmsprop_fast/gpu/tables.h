/* The kernels' parameters: C for the host, which fills them, and CUDA, which reads them.
 *
 * Each kernel takes one of these structs by value. So a step needs no copy to the device,
 * its launch can be captured into a graph, and the host may refill the struct at once.
 * A kernel has 32,764 bytes for parameters, from CUDA 12.1 and compute capability 7.0 on.
 */
#ifndef RMSPROP_FAST_GPU_TABLES_H
#define RMSPROP_FAST_GPU_TABLES_H

#include "rmsprop_fast/rmsprop.h" /* RMSPROP_SUM_RUN */

typedef unsigned long long rmsprop_address; /* on the device; 0: absent */

enum {
    RMSPROP_TABLE = 512,        /* variables in one dense launch */
    RMSPROP_ROWS_TABLE = 256,   /* row-sparse gradients in one launch */
    RMSPROP_THREADS = 256,      /* of every block */
    RMSPROP_CHUNK = 8192,       /* elements a block takes at a time */
    RMSPROP_ROWS_EACH = 4,      /* sorted occurrences a group of lanes takes at a time */
    RMSPROP_NORM_BLOCK = 4096,  /* elements whose squares are summed in 32 lanes */
    RMSPROP_DIGITS = 256,       /* of the radix sort */
    RMSPROP_SUBTILE = 2048,     /* occurrences that a block orders at a time */
    RMSPROP_MAX_TILES = 1024    /* of one pass of the sort; one block takes a tile */
};

/* One step's numbers, in double; a kernel rounds them once to its dtype. */
typedef struct {
    double lr;               /* learning rate; where lr_address is given, its divisor */
    double rho, momentum, epsilon;
    double weight_decay;     /* param is first multiplied by 1 - lr*weight_decay */
    double factor;           /* multiplies raw gradients before they are clipped */
    double clip;             /* bound on their magnitude, or +inf */
    rmsprop_address lr_address;  /* a scalar on the device */
    rmsprop_address scales;      /* double each: replace `factor`, from the norms */
    rmsprop_address stop;        /* int: where it is not 0 nothing is updated */
    int lr_is_f32;
} rmsprop_scalars;

/* Dense updates of variables of one dtype; or their clipped gradients into `param`. */
typedef struct {
    rmsprop_scalars s;
    rmsprop_address param[RMSPROP_TABLE], grad[RMSPROP_TABLE];
    rmsprop_address rms[RMSPROP_TABLE], mg[RMSPROP_TABLE], mom[RMSPROP_TABLE];
    long long size[RMSPROP_TABLE];          /* elements */
    unsigned first[RMSPROP_TABLE + 1];      /* chunks before each variable's */
    unsigned scale[RMSPROP_TABLE];          /* index into `scales` */
    unsigned char decays[RMSPROP_TABLE];    /* whether weight decay reaches it */
    int n;
} rmsprop_dense;

/* Row-sparse updates of variables of one dtype. Occurrences of all gradients are sorted
 * as one list; a key is a row number counted through all the variables. */
typedef struct {
    rmsprop_scalars s;
    rmsprop_address param[RMSPROP_ROWS_TABLE], values[RMSPROP_ROWS_TABLE];
    rmsprop_address rms[RMSPROP_ROWS_TABLE], mg[RMSPROP_ROWS_TABLE];
    rmsprop_address mom[RMSPROP_ROWS_TABLE];
    rmsprop_address indices[RMSPROP_ROWS_TABLE];
    rmsprop_address partial[RMSPROP_ROWS_TABLE]; /* sums of runs: a row per 32 occurrences */
    long long n_rows[RMSPROP_ROWS_TABLE];
    long long width[RMSPROP_ROWS_TABLE];    /* elements per row */
    unsigned long long base[RMSPROP_ROWS_TABLE];   /* the key of row 0 */
    long long start[RMSPROP_ROWS_TABLE + 1];       /* occurrences before each gradient's */
    unsigned first[RMSPROP_ROWS_TABLE + 1];        /* chunks before each gradient's */
    unsigned first_run[RMSPROP_ROWS_TABLE + 1];    /* chunks of runs, likewise */
    unsigned scale[RMSPROP_ROWS_TABLE];
    int pair[RMSPROP_ROWS_TABLE];           /* place in grads_and_vars, for an error */
    unsigned char kind[RMSPROP_ROWS_TABLE]; /* of integer, see rmsprop_load_index */
    unsigned char decays[RMSPROP_ROWS_TABLE];
    unsigned char lanes[RMSPROP_ROWS_TABLE]; /* threads per row: a power of two, <= 32 */
    rmsprop_address occurrences;            /* unsorted where written, sorted where read */
    rmsprop_address fault;                  /* rmsprop_fault */
    long long iterations;                   /* before this step; -1 in a captured graph */
    int n;
} rmsprop_rows;

/* Where the host finds that a row was out of range: memory that both can reach. */
typedef struct {
    unsigned long long row;  /* as it came, in 64 bits */
    long long position;      /* in `indices` */
    long long n_rows;
    long long iterations;
    int pair;
    int is_unsigned;
    int found;               /* written last */
} rmsprop_fault;

/* One pass of the stable sort by 8 bits of the key. */
typedef struct {
    rmsprop_address in, out;
    rmsprop_address counts;  /* digit by digit, each of n_tiles tiles */
    rmsprop_address totals;  /* of each digit */
    long long n;
    long long tile;          /* occurrences of one block, a multiple of the subtile */
    int n_tiles;
    int shift;               /* of this pass's digit */
    int n_passes;            /* of the kernel that makes them all */
} rmsprop_sort;

/* Squares of gradients of one dtype, summed in the specified order. */
typedef struct {
    rmsprop_address grad[RMSPROP_TABLE];
    long long size[RMSPROP_TABLE];
    unsigned first[RMSPROP_TABLE + 1];      /* blocks of 4,096 before each gradient's */
    unsigned scale[RMSPROP_TABLE];          /* index into `squares` */
    rmsprop_address sums;                   /* double: one for each block of this table */
    rmsprop_address squares;                /* double: one for each gradient of the step */
    int n;
} rmsprop_norms;

/* From squares to what multiplies each raw gradient. */
typedef struct {
    rmsprop_address squares, scales;
    long long n;
    double factor;
    double norm;                            /* the bound */
    int is_global;                          /* on all gradients together, or on each */
} rmsprop_norm_scales;

#endif /* RMSPROP_FAST_GPU_TABLES_H */
