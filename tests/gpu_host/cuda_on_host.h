// What rmsprop.cu uses of CUDA, for a C++ compiler: the kernels' own text runs on the CPU.
//
// A kernel without barriers is a loop over its threads. One with barriers or votes runs
// its threads as fibers, which change places there and nowhere else; the order of blocks
// and of threads is forward, reverse or random, so that a race changes the result.
// Not modelled: weak memory order, warps in lockstep, launch limits, occupancy.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>

struct Index {
    unsigned x;
};
extern Index threadIdx, blockIdx, gridDim;

namespace host {

struct Kernel {
    const char *name;
    std::size_t size;  // of its one parameter
    void (*call)(const void *);
    const Kernel *next;
};
extern const Kernel *kernels;

struct Registered {
    Kernel kernel;
    Registered(const char *name, std::size_t size, void (*call)(const void *))
        : kernel{name, size, call, kernels}
    {
        kernels = &kernel;
    }
};

void sync_block();
void sync_warp();
unsigned long long *exchange();  // 32 slots of the running thread's warp

template <typename T> T read_lane(T value, unsigned lane)
{
    unsigned long long *slots = exchange();
    std::memcpy(&slots[threadIdx.x % 32], &value, sizeof value);
    sync_warp();
    if (lane < 32)
        std::memcpy(&value, &slots[lane], sizeof value);
    sync_warp();
    return value;
}

inline unsigned match_any(unsigned value)
{
    unsigned long long *slots = exchange();
    unsigned equals = 0;
    slots[threadIdx.x % 32] = value;
    sync_warp();
    for (unsigned lane = 0; lane < 32; ++lane)
        equals |= (unsigned)(slots[lane] == value) << lane;
    sync_warp();
    return equals;
}

}  // namespace host

#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __syncthreads() host::sync_block()
#define __syncwarp() host::sync_warp()
#define __shfl_down_sync(mask, value, n) host::read_lane(value, threadIdx.x % 32 + (n))
#define __shfl_sync(mask, value, lane) host::read_lane(value, lane)
#define __match_any_sync(mask, value) host::match_any(value)
#define __popc(x) __builtin_popcount(x)
#define __threadfence_system()

inline int atomicCAS(int *address, int compare, int value)
{
    const int before = *address;
    if (before == compare)
        *address = value;
    return before;
}

inline unsigned long long atomicAdd(unsigned long long *address, unsigned long long value)
{
    const unsigned long long before = *address;
    *address += value;
    return before;
}

#define KERNEL(name, parameters)                                                          \
    static void run_kernel_##name(const parameters &t);                                   \
    static host::Registered registered_##name(                                            \
        "rmsprop_" #name, sizeof(parameters),                                             \
        [](const void *p) { run_kernel_##name(*static_cast<const parameters *>(p)); });   \
    static void run_kernel_##name(const parameters &t)
