// Collective operations between the GPUs of a run: NCCL behind the interface of communicator.h.
//
// A call puts the operation into a CUDA stream and returns; a GPU comes to it in the order of its stream, and there
// waits for the others. Which work comes before and after it is said by streams and events, as with kernels, and a
// CUDA graph captures it as it does kernels. All ranks issue the operations of a communicator in the same order. With
// one rank NCCL is not even opened, and an operation does nothing or copies.
//
// Each rank sends 2*(size-1)/size of the bytes for all_reduce, half of that for reduce_scatter and all_gather.
//
// Nothing hangs: a rank that dies or stays away is found by the group's watch (group.h), which counts the waits below
// and ends all ranks within --comm-timeout; that also limits the time to connect. What NCCL itself finds (a cable, a
// switch), wait() throws.
//
// Objects are destroyed in the opposite order to this: memory that takes part, communicator, captured graphs. (gpt2.h:
// the model owns all three.) NCCL waits for the graphs, and cudaFree() for operations that only the communicator's end
// aborts. A communicator's first operation should not be captured: NCCL makes its connections then.
#pragma once
#include <chrono>
#include <exception>
#include <memory>
#include <thread>
#include <type_traits>
#include "llmc/base/cuda_check.h"
#include "llmc/base/error.h"
#include "llmc/ranks/group.h"
#if __has_include(<nccl.h>)
#include <nccl.h>
#ifndef CUDAHOST
#include "llmc/base/dynamic_library.h"
#endif

// ---- the library ----

// The functions of nccl.h, under their own names.
struct NcclFunctions {
#ifdef CUDAHOST  // the tests on the CPU link functions of these names
#define NCCL_FUNCTION(name) decltype(&::name) name = &::name
#else
    void* library =
        open_library("NCCL", "libnccl.so", {NCCL_MAJOR},
                     "several GPUs need it: install libnccl2 of NVIDIA's repository or pip's nvidia-nccl-cu13");
#define NCCL_FUNCTION(name) decltype(&::name) name = find_function<decltype(::name)>(library, #name)
#endif
    NCCL_FUNCTION(ncclGetErrorString);
    NCCL_FUNCTION(ncclGetLastError);
    NCCL_FUNCTION(ncclGetUniqueId);
    NCCL_FUNCTION(ncclCommInitRank);
    NCCL_FUNCTION(ncclCommCount);
    NCCL_FUNCTION(ncclCommUserRank);
    NCCL_FUNCTION(ncclCommDestroy);
    NCCL_FUNCTION(ncclCommAbort);
    NCCL_FUNCTION(ncclCommGetAsyncError);
    NCCL_FUNCTION(ncclAllReduce);
    NCCL_FUNCTION(ncclReduceScatter);
    NCCL_FUNCTION(ncclAllGather);
    NCCL_FUNCTION(ncclBroadcast);

    void check(ncclResult_t result, const char* call, const char* file, int line) const {
        if (result == ncclSuccess) return;
        std::string text = strf("%s:%d: %s: %s", file, line, call, ncclGetErrorString(result));
        const char* last = ncclGetLastError(nullptr);  // of this thread: NCCL's own words
        if (last && *last) text += strf("; NCCL says: %s", last);
        while (text.back() == '\n') text.pop_back();
        if (text.find("Duplicate GPU") != std::string::npos)
            text += "; start no more ranks than GPUs (to try several on one GPU, give each an NCCL_HOSTID of its own)";
        throw Error(text);
    }
};
// Opened by the first call.
inline const NcclFunctions& nccl() {
    static const NcclFunctions functions;
    return functions;
}
#define NCCL_CHECK(call) nccl().check(nccl().call, #call, __FILE__, __LINE__)

struct NcclDestroy {
    void operator()(ncclComm_t comm) const {
        // On the way out of an error nobody waits for ranks that may have left.
        if (std::uncaught_exceptions() > 0) nccl().ncclCommAbort(comm);
        else nccl().ncclCommDestroy(comm);
    }
};
using NcclComm = std::unique_ptr<std::remove_pointer_t<ncclComm_t>, NcclDestroy>;

template <typename X>
constexpr ncclDataType_t number_type() {
    static_assert(std::is_same_v<X, float> || std::is_same_v<X, double>);
    return std::is_same_v<X, double> ? ncclDouble : ncclFloat;
}

// All ranks of the group, each with the GPU that is current in this thread. Rank 0 draws an id, which says where it
// listens, too; with it the others find it.
inline NcclComm nccl_connect(Group& group) {
    ncclUniqueId id{};
    if (group.rank() == 0) NCCL_CHECK(ncclGetUniqueId(&id));
    group.exchange(std::string(id.internal, sizeof id.internal))[0].copy(id.internal, sizeof id.internal);
    ncclComm_t comm = nullptr;
    group.begin_wait();
    NCCL_CHECK(ncclCommInitRank(&comm, group.world(), id, group.rank()));
    group.end_wait();
    return NcclComm(comm);
}

#else  // no nccl.h: a program for one GPU

using ncclComm_t = char*;
using NcclComm = std::unique_ptr<char>;
inline void no_nccl() {
    throw Error("this build has no NCCL, which several GPUs need: install libnccl-dev of NVIDIA's and run make again");
}
#define NCCL_CHECK(call) no_nccl()
inline NcclComm nccl_connect(Group&) { return no_nccl(), nullptr; }
#endif

// ---- the communicator ----

class NcclCommunicator {
  public:
    // All ranks of `group`. All make one at the same time.
    explicit NcclCommunicator(Group& group) : group_(&group) {
        if (group.world() > 1) own(nccl_connect(group));
    }
    int rank() const { return rank_; }
    int size() const { return size_; }

    // data (n) = sum over all ranks. X: float, double.
    template <typename X>
    void all_reduce([[maybe_unused]] X* data, [[maybe_unused]] size_t n, [[maybe_unused]] cudaStream_t stream) {
        if (size_ > 1) NCCL_CHECK(ncclAllReduce(data, data, n, number_type<X>(), ncclSum, comm_.get(), stream));
    }
    // out (n) = part `rank()` of the sum over all ranks of in (size() * n); out may be that part of in.
    template <typename X>
    void reduce_scatter(X* out, const X* in, size_t n, cudaStream_t stream) {
        if (size_ == 1) return copy(out, in, n * sizeof(X), stream);
        NCCL_CHECK(ncclReduceScatter(in, out, n, number_type<X>(), ncclSum, comm_.get(), stream));
    }
    // out (size() * n) = what each rank gave as in (n), by rank; in may be its own place in out. X: any plain type.
    template <typename X>
    void all_gather(X* out, const X* in, size_t n, cudaStream_t stream) {
        static_assert(std::is_trivially_copyable_v<X>);
        if (size_ == 1) return copy(out, in, n * sizeof(X), stream);
        NCCL_CHECK(ncclAllGather(in, out, n * sizeof(X), ncclInt8, comm_.get(), stream));
    }
    template <typename X>
    void broadcast([[maybe_unused]] X* data, [[maybe_unused]] size_t n, [[maybe_unused]] int root,
                   [[maybe_unused]] cudaStream_t stream) {
        static_assert(std::is_trivially_copyable_v<X>);
        if (size_ > 1) NCCL_CHECK(ncclBroadcast(data, data, n * sizeof(X), ncclInt8, root, comm_.get(), stream));
    }
    // The host waits until the stream's work is done. All ranks call it alike. Error: what NCCL found in the meantime.
    void wait(cudaStream_t stream) const {
        if (size_ == 1) return CUDA_CHECK(cudaStreamSynchronize(stream));
        group_->begin_wait();
        cudaError_t state;
        while ((state = cudaStreamQuery(stream)) == cudaErrorNotReady) {
            cudaGetLastError();  // "not ready" counts as an error, which CUB would report at its next call
            check_async();
            std::this_thread::sleep_for(std::chrono::microseconds(20));
        }
        CUDA_CHECK(state);
        group_->end_wait();
    }
    // Error: an operation that was begun has failed.
    void check_async() const {
#ifdef NCCL_FUNCTION
        ncclResult_t error = ncclSuccess;
        if (size_ > 1) NCCL_CHECK(ncclCommGetAsyncError(comm_.get(), &error));
        if (error != ncclSuccess) nccl().check(error, "an operation between GPUs", __FILE__, __LINE__);
#endif
    }

  private:
    void own([[maybe_unused]] NcclComm comm) {
        NCCL_CHECK(ncclCommCount(comm.get(), &size_));
        NCCL_CHECK(ncclCommUserRank(comm.get(), &rank_));
        comm_ = std::move(comm);
    }
    static void copy(void* out, const void* in, size_t bytes, cudaStream_t stream) {
        if (out != in) CUDA_CHECK(cudaMemcpyAsync(out, in, bytes, cudaMemcpyDeviceToDevice, stream));
    }

    Group* group_ = nullptr;
    int rank_ = 0, size_ = 1;
    NcclComm comm_;
};
