// CUDA on the CPU: g++ compiles the real kernels and the programs around them, and they run without a GPU.
//
// How it works
//   Sources     A few lines of awk (filter.awk) rewrite `__shared__` arrays. This header, which the Makefile includes
//               before everything else (-include), supplies the rest of the language. NVIDIA's own headers supply types
//               and declarations; the .cpp files here define the functions. include/llmc/cuda/ptx.cuh takes the place of
//               llmc/cuda/ptx.cuh.
//   Threads     Each thread of a block is a fibre: a stack of its own, switched by hand (fibres.h). One runs at a
//               time, until it comes to a barrier or to a collective of its warp (shuffle, ballot, mma), where it waits
//               for the others. Which one runs next, the order of the blocks and which two are in flight is drawn from a
//               seed. A kernel that lacks a barrier reads what is not yet written, or overwrites what is not yet read, by
//               some seed, and each seed replays exactly. A barrier that not all threads reach is an error, not a hang.
//   Memory      New device and shared memory is full of NaN. What lies between two allocations, two shared arrays and
//               two tensors of an arena is guarded: by AddressSanitizer where the build has it (the very access is
//               reported, with a stack trace), else by bytes that are looked at after each kernel. Device memory is
//               closed to the host (SIGSEGV) while no kernel runs: on CPUs with protection keys always, on others under
//               one of the seeds and at times (closing.h). Kernels may not be given host pointers.
//   Time        Work in a stream, pageable copies too, is done at once or as late as somebody waits for it, by seed.
//               Asynchronous copies to shared memory (cp.async) too land at their beginning or at their wait.
//
// Using it
//   make test, make test_asan                 run test/cuda/*.cu this way, beside the tests of the CPU layers
//   CUDAHOST_DEVICE=75|80|86|90               in the environment: a device of that capability and its limits (90)
//   make debug K=layernorm_forward_kernel T=layernorm
//                                             gdb stops inside the kernel as test/cuda/test_layernorm.cu launches it;
//                                             `print threadIdx`, `next`, `info locals` work. FILTER='*Forward*' chooses
//                                             tests, SEED=n the schedule (default 0: threads in order)
//   CUDAHOST_SEED=n                           in the environment: the one schedule of tests, or of a whole program
//   CUDAHOST_NO_PKEYS=1                       in the environment: as on a CPU without protection keys (closing.h)
//
// Where what is
//   the language      language.h (__global__, threadIdx, barriers), warps.h (shuffles), intrinsics.h (atomics, bits);
//                     kernels.h is what they are made of
//   a block           block.h: scheduler.cpp (its threads), collectives.cpp (who waits for whom), tensor_cores.cpp,
//                     shared.cpp (shared memory); fibres.h and jump.h switch between threads
//   the runtime       streams.h: streams.cpp, events.cpp, graphs.cpp; memory.cpp (cudaMalloc, copies), device.cpp
//   device memory     heap.h (allocations, guards), closing.h (closed to the host), arguments.cpp (pointers of kernels)
//   libraries         cublaslt.cpp, nccl.cpp
//   for tests         tests.h; test/cuda/test_cudahost*.cu show that what the harness is there to find, it finds
//
// What it cannot show: speed; the limits of registers; what only the weaker memory ordering of a real GPU breaks (here a
// store is visible at once, and a shuffle orders the stores of its warp); blocks that wait for each other by spinning;
// the last bits of approximate instructions.
#pragma once
#ifndef CUDAHOST
#error "compile with -DCUDAHOST"
#endif

#include "test/cudahost/tests.h"

#include "test/cudahost/kernels.h"
#include "test/cudahost/language.h"

#include "test/cudahost/intrinsics.h"
#include "test/cudahost/warps.h"
