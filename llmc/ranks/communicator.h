// Collective operations between the ranks of a run, on host memory: MPI behind a small interface.
//
// nccl.cuh has the same interface for device memory. `stream` is in both an order of work that goes on
// beside the caller: here a thread that makes all MPI calls, one after the other, there a CUDA stream. An operation is
// put into a stream and begins when those before it have ended; wait() returns when all have.
//
// Sums have an order that depends on the number of ranks and on the size alone. A build without MPI has world 1 only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include "llmc/base/bf16.h"
#include "llmc/ranks/group.h"

// Operations that run beside the caller, in order.
class HostStream {
  public:
    HostStream();
    ~HostStream();  // ends the work first
    HostStream(const HostStream&) = delete;
    int64_t add(std::function<void()> work);  // returns its ticket: 1, 2, 3, ...
    void wait(int64_t ticket);                // until that work is done; throws what any work threw
    void wait();                              // until everything added so far is done
    int64_t last() const;                     // the newest ticket

    // Seconds since clear_times(): that this stream was at work, and that the caller stood still in wait().
    struct Times {
        double busy = 0, waited = 0;
    };
    Times times() const;
    void clear_times();
    bool overlap = true;  // false: add() waits for the work at once, to see what working beside it is worth

  private:
    struct State;
    std::unique_ptr<State> state_;
};

class Communicator {
  public:
    // All ranks of `group`. One rank: no MPI is started, and every operation does nothing or copies.
    // Error: the build has no MPI, or MPI counts other ranks than `group`.
    explicit Communicator(Group& group);
    ~Communicator();
    Communicator(const Communicator&) = delete;

    int rank() const;
    int size() const;

    // Each returns the ticket of its place in the stream, 0 where there was nothing to do.
    //
    // data (n) = sum over all ranks. T: float, double.
    template <typename T>
    int64_t all_reduce(T* data, size_t n, HostStream& stream) {
        return all_reduce_numbers(data, n, std::is_same_v<T, double>, stream);
    }
    // out (n) = part `rank()` of the sum over all ranks of in (size() * n); out may be that part of in.
    template <typename T>
    int64_t reduce_scatter(T* out, const T* in, size_t n, HostStream& stream) {
        return reduce_scatter_numbers(out, in, n, std::is_same_v<T, double>, stream);
    }
    // out (size() * n) = what each rank gave as in (n), by rank; in may be its own place in out. T: any plain type.
    template <typename T>
    int64_t all_gather(T* out, const T* in, size_t n, HostStream& stream) {
        return all_gather_bytes(out, in, n * sizeof(T), stream);
    }
    template <typename T>
    int64_t broadcast(T* data, size_t n, int root, HostStream& stream) {
        return broadcast_bytes(data, n * sizeof(T), root, stream);
    }

  private:
    struct State;
    int64_t all_reduce_numbers(void* data, size_t n, bool is_double, HostStream& stream);
    int64_t reduce_scatter_numbers(void* out, const void* in, size_t n, bool is_double, HostStream& stream);
    int64_t all_gather_bytes(void* out, const void* in, size_t bytes, HostStream& stream);
    int64_t broadcast_bytes(void* data, size_t bytes, int root, HostStream& stream);
    std::unique_ptr<State> state_;
};
