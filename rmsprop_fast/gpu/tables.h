/* The kernels' parameters: C for the host, which fills them, and CUDA, which reads them.
 *
 * Each kernel takes one of these structs by value. So a step needs no copy to the device,
 * its launch can be captured into a graph, and the host may refill the struct at once.
 * A kernel has 32,764 bytes for parameters, from CUDA 12.1 and compute capability 7.0 on.
 */
#ifndef RMSPROP_FAST_GPU_TABLES_H
#define RMSPROP_FAST_GPU_TABLES_H

#include "rmsprop_fast/rmsprop.h" /* slots, RMSPROP_SUM_RUN, rmsprop_idle */

typedef unsigned long long rmsprop_address; /* on the device; 0: absent */

enum {
    RMSPROP_TABLE = 500,        /* variables in one launch */
    RMSPROP_ROWS_TABLE = 128,   /* the same for row-sparse updates and for catching up */
    RMSPROP_THREADS = 256,      /* of every block */
    RMSPROP_CHUNK = 8192,       /* elements a block updates at a time */
    RMSPROP_ROWS_EACH = 4,      /* occurrences a group of lanes handles at a time */
    RMSPROP_NORM_BLOCK = 4096,  /* elements whose squares are summed in 32 lanes */
    RMSPROP_DIGITS = 256,       /* of the radix sort */
    RMSPROP_SUBTILE = 2048,     /* occurrences that a block orders at a time */
    RMSPROP_MAX_TILES = 1024,   /* of one pass of the sort; one block sorts a tile */
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

/* One variable and its gradient. All variables of a table have one dtype. */
typedef struct {
    rmsprop_address param;   /* or where the clipped gradient is written */
    rmsprop_address slots[RMSPROP_N_SLOTS];
    rmsprop_address grad;    /* or the values of a row-sparse gradient */
    long long size;          /* elements of grad */
    unsigned first;          /* chunks, or blocks, of the variables before */
    unsigned scale : 31;     /* index into `scales`, `squares` and `nonfinite` */
    unsigned decays : 1;     /* whether weight decay applies */
    int pair;                /* place in grads_and_vars, for an error */
    int variable;            /* the optimizer's number of it, likewise */
} rmsprop_var;

/* Dense updates; or gradients to be clipped, summed or checked. */
typedef struct {
    rmsprop_scalars s;
    rmsprop_address sums;      /* double: sums of squares, one for each block */
    rmsprop_address squares;   /* double: one for each gradient, or 0 */
    rmsprop_address any;       /* int: an element is not finite */
    rmsprop_address nonfinite; /* rmsprop_nonfinite: one for each gradient */
    rmsprop_var var[RMSPROP_TABLE];
    int n;
    unsigned n_chunks;
} rmsprop_table;

/* The rows of one variable. A key is a row number counted through all variables, an
 * occurrence one number of `indices`. */
typedef struct {
    long long n_rows, width; /* width: elements per row */
    long long start;         /* items, i.e. occurrences or pieces, of variables before */
    unsigned long long base; /* the key of row 0 */
    rmsprop_address indices;
    rmsprop_address partial; /* sums of runs: a row for 32 occurrences */
    rmsprop_address steps;     /* long long[2]: made by the variable, and by every row */
    rmsprop_address row_steps; /* long long[n_rows]: made by each row; 0: not counted */
    unsigned first_run;      /* chunks of runs of the variables before */
    unsigned char kind;      /* of integer, see load_index */
    unsigned char lanes;     /* threads per row: a power of two, <= 32 */
} rmsprop_var_rows;

/* Rows that are updated, or that catch up. Occurrences of all gradients are sorted as one
 * list. Where all rows catch up there is no list: the items are pieces of rows. */
typedef struct {
    rmsprop_scalars s;
    union {                  /* see rmsprop_idle_powers */
        rmsprop_idle_f32 f32[RMSPROP_COUNT_BITS];
        rmsprop_idle_f64 f64[RMSPROP_COUNT_BITS];
    } missed;
    rmsprop_var var[RMSPROP_ROWS_TABLE];
    rmsprop_var_rows rows[RMSPROP_ROWS_TABLE];
    rmsprop_address occurrences; /* unsorted where written, sorted where read */
    rmsprop_address fault;       /* rmsprop_fault */
    long long n_items;
    long long step;          /* as in rmsprop_finiteness */
    int n;
    unsigned n_chunks, n_run_chunks;
    int made;                /* steps that each variable makes now */
    int is_all;              /* whether every row makes them */
} rmsprop_rows_table;

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

/* From squares to what multiplies each raw gradient. */
typedef struct {
    rmsprop_address squares, scales;
    long long n;
    double factor;
    double norm;             /* the bound */
    int is_global;           /* on all gradients together, or on each */
} rmsprop_norms;

/* What becomes of a step whose gradients are not finite. */
typedef struct {
    rmsprop_address stop, any, nonfinite, fault;
    long long n;             /* gradients */
    long long step;          /* its number, for the host; -1 in a captured graph */
    int skips;               /* leave it out; else stop until the host has raised */
} rmsprop_finiteness;

#endif /* RMSPROP_FAST_GPU_TABLES_H */
