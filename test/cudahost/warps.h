// Functions of a warp: shuffles, votes, reductions. Each waits until the lanes of its mask are there.
#pragma once
#include <bit>
#include <cstring>

#include "test/cudahost/kernels.h"

namespace cudahost {

template <typename T>
struct Exchange {
    T value;     // what the lane gives
    int source;  // the lane whose value it gets
    T result;
};
// From a lane that has ended comes garbage, as on a GPU: all bits set.
template <typename T>
T exchange(const char* what, uint32_t mask, T value, int source, Site where) {
    static_assert(std::is_trivially_copyable_v<T>);
    Exchange<T> mine{value, source, value};
    warp_collective(
        what, mask, &mine,
        [](void* const(&data)[32], uint32_t lanes) {
            for (uint32_t left = lanes; left; left &= left - 1) {
                auto& lane = *static_cast<Exchange<T>*>(data[std::countr_zero(left)]);
                if (lanes >> lane.source & 1) lane.result = static_cast<Exchange<T>*>(data[lane.source])->value;
                else std::memset(&lane.result, 0xff, sizeof(T));
            }
        },
        where);
    return mine.result;
}
// Result of one value from all lanes: f(values of lanes, lanes) -> T
template <typename T, typename F>
T combine(const char* what, uint32_t mask, T value, F, Site where) {
    Exchange<T> mine{value, 0, value};
    warp_collective(
        what, mask, &mine,
        [](void* const(&data)[32], uint32_t lanes) {
            T values[32] = {};
            for (uint32_t left = lanes; left; left &= left - 1)
                values[std::countr_zero(left)] = static_cast<Exchange<T>*>(data[std::countr_zero(left)])->value;
            T result = F()(values, lanes);
            for (uint32_t left = lanes; left; left &= left - 1)
                static_cast<Exchange<T>*>(data[std::countr_zero(left)])->result = result;
        },
        where);
    return mine.result;
}
inline uint32_t ballot(const char* what, uint32_t mask, bool predicate, Site where) {
    auto bits = [](const uint32_t(&values)[32], uint32_t) {
        uint32_t set = 0;
        for (int i = 0; i < 32; i++) set |= values[i] << i;
        return set;
    };
    return combine<uint32_t>(what, mask, predicate, bits, where);
}

}  // namespace cudahost

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::exchange("__shfl_sync", mask, value, (cudahost::lane() & ~(width - 1)) + (source & (width - 1)),
                              where);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, cudahost::Site where = cudahost::Site::current()) {
    int lane = cudahost::lane(), source = lane ^ bits;
    if (source >= (lane & ~(width - 1)) + width) source = lane;  // a later group of `width` lanes: own value
    return cudahost::exchange("__shfl_xor_sync", mask, value, source, where);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                 cudahost::Site where = cudahost::Site::current()) {
    int lane = cudahost::lane(), source = lane - static_cast<int>(by);
    if (source < (lane & ~(width - 1))) source = lane;
    return cudahost::exchange("__shfl_up_sync", mask, value, source, where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   cudahost::Site where = cudahost::Site::current()) {
    int lane = cudahost::lane(), source = lane + static_cast<int>(by);
    if (source >= (lane & ~(width - 1)) + width) source = lane;
    return cudahost::exchange("__shfl_down_sync", mask, value, source, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::ballot("__ballot_sync", mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::ballot("__any_sync", mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::ballot("__all_sync", mask, predicate == 0, where) == 0;
}
#define CUDAHOST_REDUCE(name, T, expression)                                                  \
    inline T name(unsigned mask, T value, cudahost::Site where = cudahost::Site::current()) { \
        auto reduce = [](const T(&values)[32], uint32_t lanes) {                              \
            T a = values[std::countr_zero(lanes)];                                            \
            for (uint32_t left = lanes & (lanes - 1); left; left &= left - 1) {               \
                T b = values[std::countr_zero(left)];                                         \
                a = (expression);                                                             \
            }                                                                                 \
            return a;                                                                         \
        };                                                                                    \
        return cudahost::combine<T>(#name, mask, value, reduce, where);                       \
    }
CUDAHOST_REDUCE(__reduce_add_sync, unsigned, a + b)
CUDAHOST_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
CUDAHOST_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
CUDAHOST_REDUCE(__reduce_or_sync, unsigned, a | b)
CUDAHOST_REDUCE(__reduce_and_sync, unsigned, a& b)
CUDAHOST_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
CUDAHOST_REDUCE(__reduce_add_sync, int, a + b)
CUDAHOST_REDUCE(__reduce_min_sync, int, a < b ? a : b)
CUDAHOST_REDUCE(__reduce_max_sync, int, a > b ? a : b)
#undef CUDAHOST_REDUCE
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, cudahost::Site where = cudahost::Site::current()) {
    struct Match {
        T value;
        unsigned result;
    } mine{value, 0};
    cudahost::warp_collective(
        "__match_any_sync", mask, &mine,
        [](void* const(&data)[32], uint32_t lanes) {
            for (uint32_t i = lanes; i; i &= i - 1)
                for (uint32_t j = lanes; j; j &= j - 1) {
                    auto& a = *static_cast<Match*>(data[std::countr_zero(i)]);
                    if (a.value == static_cast<Match*>(data[std::countr_zero(j)])->value) a.result |= j & -j;
                }
        },
        where);
    return mine.result;
}
inline unsigned __activemask() { return 1u << cudahost::lane(); }  // whoever happens to be here: as few as may be
