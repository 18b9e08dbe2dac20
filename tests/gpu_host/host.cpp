// Runs the kernels of rmsprop.cu on the CPU; called by ctypes, with the calling
// convention of cuLaunchKernel: a list of pointers to the arguments.
#include "cuda_on_host.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include <setjmp.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define START_SWITCH(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define FINISH_SWITCH(saved, bottom, size) __sanitizer_finish_switch_fiber(saved, bottom, size)
#define SWITCH(from, to) swapcontext(&(from).context, &(to).context)
#else
#define START_SWITCH(save, bottom, size)
#define FINISH_SWITCH(saved, bottom, size)
// swapcontext asks the system for the signal mask twice: it takes fifty times as long.
#define SWITCH(from, to)                                                                  \
    do {                                                                                  \
        if (_setjmp((from).jump) == 0) {                                                  \
            if ((to).is_started)                                                          \
                _longjmp((to).jump, 1);                                                   \
            (to).is_started = true;                                                       \
            setcontext(&(to).context);                                                    \
        }                                                                                 \
    } while (0)
#endif

Index threadIdx, blockIdx, gridDim;

namespace host {

const Kernel *kernels = nullptr;

namespace {

enum State { READY, AT_BLOCK, AT_WARP, DONE };

const std::size_t STACK = 128 * 1024;

struct Fiber {
    ucontext_t context;
    jmp_buf jump;
    bool is_started;
    std::vector<char> stack;
    State state;
};

std::vector<Fiber> fibers;
Fiber scheduler;
[[maybe_unused]] void *scheduler_fake = nullptr;
[[maybe_unused]] const void *scheduler_bottom = nullptr;
[[maybe_unused]] std::size_t scheduler_size = 0;
bool has_fibers = false;
std::vector<unsigned long long> slots;  // 32 of each warp
const Kernel *running = nullptr;
const void *argument = nullptr;
std::mt19937_64 random_order;
int order = 0;

[[noreturn]] void give_up(const char *why)
{
    std::fprintf(stderr, "%s: %s\n", running->name, why);
    std::abort();
}

std::vector<unsigned> arrange(unsigned n)
{
    std::vector<unsigned> all(n);
    std::iota(all.begin(), all.end(), 0u);
    if (order == 1)
        std::reverse(all.begin(), all.end());
    if (order == 2)
        std::shuffle(all.begin(), all.end(), random_order);
    return all;
}

void start()
{
    FINISH_SWITCH(nullptr, &scheduler_bottom, &scheduler_size);
    running->call(argument);
    fibers[threadIdx.x].state = DONE;
    START_SWITCH(nullptr, scheduler_bottom, scheduler_size);
    SWITCH(fibers[threadIdx.x], scheduler);
}

void wait_at(State state)
{
    if (!has_fibers)
        give_up("a barrier in a kernel that is listed as having none");
    const unsigned self = threadIdx.x;
    Fiber &fiber = fibers[self];
    fiber.state = state;
    void *fake = nullptr;
    START_SWITCH(&fake, scheduler_bottom, scheduler_size);
    SWITCH(fiber, scheduler);
    FINISH_SWITCH(fake, &scheduler_bottom, &scheduler_size);
    (void)fake;
    threadIdx.x = self;
}

void resume(unsigned thread)
{
    threadIdx.x = thread;
    Fiber &fiber = fibers[thread];
    START_SWITCH(&scheduler_fake, fiber.stack.data(), STACK);
    SWITCH(scheduler, fiber);
    FINISH_SWITCH(scheduler_fake, nullptr, nullptr);
}

// Let those go on who all wait at the same barrier; returns how many.
unsigned release(unsigned begin, unsigned end, State barrier)
{
    unsigned waiting = 0;
    for (unsigned k = begin; k < end; ++k) {
        if (fibers[k].state == DONE && barrier == AT_BLOCK)
            continue;  // who has left counts as having arrived
        if (fibers[k].state != barrier)
            return 0;
        ++waiting;
    }
    for (unsigned k = begin; k < end; ++k)
        if (fibers[k].state == barrier)
            fibers[k].state = READY;
    return waiting;
}

void run_fibers(unsigned n)
{
    if (fibers.size() < n)
        fibers.resize(n);
    slots.assign(n, 0);
    scheduler.is_started = true;
    for (unsigned k = 0; k < n; ++k) {
        Fiber &fiber = fibers[k];
        fiber.stack.resize(STACK);
        fiber.state = READY;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;  // a fiber's last act is to switch back
        fiber.is_started = false;
        makecontext(&fiber.context, start, 0);
    }
    for (;;) {
        unsigned alive = 0, moved = 0;
        for (unsigned k : arrange(n))
            if (fibers[k].state == READY) {
                resume(k);
                ++moved;
            }
        for (unsigned k = 0; k < n; ++k)
            alive += fibers[k].state != DONE;
        if (alive == 0)
            return;
        for (unsigned warp = 0; warp < n; warp += 32)
            moved += release(warp, std::min(warp + 32, n), AT_WARP);
        moved += release(0, n, AT_BLOCK);
        if (moved == 0)
            give_up("threads wait at different barriers");
    }
}

bool has_barriers(const char *name)
{
    return std::strstr(name, "_sort_") || std::strstr(name, "_norm_");
}

const Kernel *find(const char *name)
{
    for (const Kernel *kernel = kernels; kernel; kernel = kernel->next)
        if (std::strcmp(kernel->name, name) == 0)
            return kernel;
    return nullptr;
}

}  // namespace

void sync_block() { wait_at(AT_BLOCK); }
void sync_warp() { wait_at(AT_WARP); }
unsigned long long *exchange() { return &slots[threadIdx.x / 32 * 32]; }

}  // namespace host

extern "C" {

// The bytes of a kernel's parameter; 0 for a name that is none.
std::size_t host_parameter_size(const char *name)
{
    const host::Kernel *kernel = host::find(name);
    return kernel ? kernel->size : 0;
}

// Orders: 0 forward, 1 reverse, 2 random from this seed.
void host_set_order(int order, unsigned long long seed)
{
    host::order = order;
    host::random_order.seed(seed);
}

void host_launch(const char *name, unsigned grid, unsigned block, void **arguments)
{
    host::running = host::find(name);
    host::argument = arguments[0];
    host::has_fibers = host::has_barriers(name);
    gridDim.x = grid;
    for (unsigned b : host::arrange(grid)) {
        blockIdx.x = b;
        if (host::has_fibers) {
            host::run_fibers(block);
            continue;
        }
        for (unsigned k : host::arrange(block)) {
            threadIdx.x = k;
            host::running->call(host::argument);
        }
    }
}

}  // extern "C"

#include RMSPROP_TEXT  // rmsprop.cu, or a mutant of it
