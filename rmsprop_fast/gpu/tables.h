/* The kernels' parameters: C for the host, which fills them, and CUDA, which reads them.
 *
 * Each kernel takes one of these structs by value. So a step needs no copy to the device,
 * its launch can be captured into a graph, and the host may refill the struct at once.
 * A kernel has 32,764 bytes for parameters, from CUDA 12.1 and compute capability 7.0 on.
 */
#ifndef RMSPROP_FAST_GPU_TABLES_H
#define RMSPROP_FAST_GPU_TABLES_H

#include "rmsprop_fast/rmsprop.h" /* RMSPROP_SUM_RUN, rmsprop_idle */

typedef unsigned long long rmsprop_address; /* on the device; 0: absent */

enum {
    RMSPROP_TABLE = 512,        /* variables in one dense launch */
    RMSPROP_ROWS_TABLE = 256,   /* row-sparse gradients, or variables that catch up */
    RMSPROP_THREADS = 256,      /* of every block */
    RMSPROP_CHUNK = 8192,       /* elements a block takes at a time */
    RMSPROP_ROWS_EACH = 4,      /* sorted occurrences a group of lanes takes at a time */
    RMSPROP_NORM_BLOCK = 4096,  /* elements whose squares are summed in 32 lanes */
    RMSPROP_DIGITS = 256,       /* of the radix sort */
    RMSPROP_SUBTILE = 2048,     /* occurrences that a block orders at a time */
    RMSPROP_MAX_TILES = 1024,   /* of one pass of the sort; one block takes a tile */
    RMSPROP_COUNT_BITS = 63,    /* of a count of steps */
    RMSPROP_MAX_REPORTED = 64   /* gradients that are not finite, by place and count */
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
    rmsprop_address skip;        /* the same for this step alone, or 0 */
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
    long long step;                         /* as in rmsprop_verdict */
    int n;
} rmsprop_rows;

/* Rows that catch up: those of a sorted list, whose fields are as above, or all. */
typedef struct {
    rmsprop_scalars s;
    rmsprop_idle_f32 idle_f32[RMSPROP_COUNT_BITS]; /* see rmsprop_idle_powers */
    rmsprop_idle_f64 idle_f64[RMSPROP_COUNT_BITS];
    rmsprop_address param[RMSPROP_ROWS_TABLE], rms[RMSPROP_ROWS_TABLE];
    rmsprop_address mg[RMSPROP_ROWS_TABLE], mom[RMSPROP_ROWS_TABLE];
    rmsprop_address steps[RMSPROP_ROWS_TABLE];     /* long long: made; had by all rows */
    rmsprop_address row_steps[RMSPROP_ROWS_TABLE]; /* of each row; 0: not counted */
    long long width[RMSPROP_ROWS_TABLE];
    long long pieces[RMSPROP_ROWS_TABLE];          /* of RMSPROP_CHUNK elements in a row */
    unsigned long long base[RMSPROP_ROWS_TABLE];
    long long start[RMSPROP_ROWS_TABLE + 1];       /* occurrences, or pieces, before */
    unsigned first[RMSPROP_ROWS_TABLE + 1];
    unsigned char lanes[RMSPROP_ROWS_TABLE];
    rmsprop_address occurrences;
    int made;                /* steps that each variable has made now */
    int is_all;              /* whether all rows have them */
    int n;
} rmsprop_idle_rows;

/* What was found, and is written to rmsprop_fault last. */
enum { RMSPROP_ROW_FOUND = 1, RMSPROP_NONFINITE_FOUND = 2 };

/* Elements of one gradient that are not finite. */
typedef struct {
    unsigned long long count;
    long long size;          /* of the gradient */
    int pair;                /* place in grads_and_vars */
    int variable;
} rmsprop_nonfinite;

/* Where the host finds why a step did nothing: memory that both can reach. */
typedef struct {
    unsigned long long row;  /* out of range, as it came, in 64 bits */
    long long position;      /* in `indices` */
    long long n_rows;
    int pair;
    int is_unsigned;
    rmsprop_nonfinite bad[RMSPROP_MAX_REPORTED];
    int n_bad;               /* may be more than are told apart above */
    int found;
    long long step;
    long long skipped[2];    /* steps left out since ever: of calls, of graphs */
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

/* Gradients of one dtype: their squares are summed in the specified order, and their
 * elements looked at. */
typedef struct {
    rmsprop_address grad[RMSPROP_TABLE];
    long long size[RMSPROP_TABLE];
    unsigned first[RMSPROP_TABLE + 1];      /* blocks of 4,096 before each gradient's */
    unsigned scale[RMSPROP_TABLE];          /* index into `squares` and `nonfinite` */
    int pair[RMSPROP_TABLE];                /* place in grads_and_vars, for an error */
    int variable[RMSPROP_TABLE];
    rmsprop_address sums;                   /* double: one for each block of this table */
    rmsprop_address squares;                /* double: one for each gradient, or 0 */
    rmsprop_address any;                    /* int: an element is not finite */
    rmsprop_address nonfinite;              /* rmsprop_nonfinite: one for each gradient */
    int n;
} rmsprop_gradients;

/* From squares to what multiplies each raw gradient. */
typedef struct {
    rmsprop_address squares, scales;
    long long n;
    double factor;
    double norm;                            /* the bound */
    int is_global;                          /* on all gradients together, or on each */
} rmsprop_norm_scales;

/* What becomes of a step whose gradients are not finite. */
typedef struct {
    rmsprop_address stop, any, nonfinite, fault;
    long long n;             /* gradients */
    long long step;          /* its number, for the host; -1 in a captured graph */
    int skips;               /* leave it out; else stop until the host has raised */
} rmsprop_verdict;

#endif /* RMSPROP_FAST_GPU_TABLES_H */
