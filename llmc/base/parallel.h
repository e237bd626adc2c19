// Loops over cores. OpenMP where the compiler has it, one thread otherwise.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

int thread_count();

// body(i) for i in [0, n), each i on one thread; which thread does not change the result.
template <typename Body>
void parallel_for(int64_t n, Body body) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) body(i);
}

// The same where the work of one i differs much from that of another (causal attention).
template <typename Body>
void parallel_for_dynamic(int64_t n, Body body) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < n; i++) body(i);
}

// body(begin, end) over [0, n) in blocks of `block`; the blocks, and so the results, do not depend on the number of
// threads.
template <typename Body>
void parallel_blocks(int64_t n, int64_t block, Body body) {
    parallel_for((n + block - 1) / block,
                 [&](int64_t i) { body(i * block, i * block + block < n ? i * block + block : n); });
}

// Sum over [0, n) of body(begin, end) in double, block by block and then in the order of the blocks: the same bits for
// any number of threads.
template <typename Body>
double parallel_sum(int64_t n, int64_t block, Body body) {
    std::vector<double> part(static_cast<size_t>((n + block - 1) / block));
    parallel_blocks(n, block,
                    [&](int64_t begin, int64_t end) { part[static_cast<size_t>(begin / block)] = body(begin, end); });
    double sum = 0;
    for (double p : part) sum += p;
    return sum;
}
