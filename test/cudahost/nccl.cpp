// NCCL on the CPU, over MPI: ranks are the processes that mpirun started.
//
// The data of an operation are taken when it is issued, and land when the stream's work is done (streams.h,
// enqueue_collective). In between the output is all NaN, and input and output are watched: who reads the output too
// early, or writes either while the operation is in the stream, shows under every schedule that is not in order.
//
// Sums are in the order of ranks, of bf16 in float.
//
//   CUDAHOST_NCCL_ERROR=duplicate   connecting fails as it does for two ranks on one GPU
//   CUDAHOST_NCCL_ERROR=async       operations are well, but ncclCommGetAsyncError() reports an error
#include "test/cudahost/heap.h"
#include "test/cudahost/streams.h"

#if __has_include(<nccl.h>)
#include <nccl.h>
#include <climits>
#include <memory>
#include <thread>

#include "llmc/base/bf16.h"

#ifdef USE_MPI
#define OMPI_SKIP_MPICXX 1  // the C interface alone
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#else
using MPI_Comm = int;
#endif

struct ncclComm {
    MPI_Comm comm;
    int rank, size;
    bool connected = false;
};

namespace {

using cudahost::Bug;
using cudahost::format;

std::string last_error;
ncclResult_t failed(ncclResult_t result, const std::string& message) { return last_error = message, result; }
bool error_is(const char* which) {
    const char* wanted = getenv("CUDAHOST_NCCL_ERROR");
    return wanted && std::string(wanted) == which;
}

#ifdef USE_MPI
void check(int error, const char* call) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    if (error == MPI_SUCCESS) return;
    MPI_Error_string(error, text, &n);
    throw Bug(format("%s: %s", call, text));
}
#define CHECK_MPI(call) check(call, #call)

void start_mpi() {
    int started = 0, level = 0;
    MPI_Initialized(&started);
    if (started) return;
    CHECK_MPI(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level));
    atexit([] { MPI_Finalize(); });
}
// Sleeps while it waits: there may be more ranks than cores.
template <typename Start>
void wait_for(Start start) {
    MPI_Request request = MPI_REQUEST_NULL;
    start(&request);
    for (int done = 0; !done;) {
        CHECK_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
        if (!done) std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
}
#endif

size_t size_of(ncclDataType_t type) {
    switch (type) {
        case ncclInt8:
            return 1;
        case ncclBfloat16:
            return 2;
        case ncclFloat:
            return 4;
        case ncclDouble:
            return 8;
        default:
            throw Bug(format("NCCL's data type %d is not known to the tests on the CPU", type));
    }
}

// out (n) = sum over ranks of in (size, n).
template <typename X, typename Sum = X>
void sum_as(char* out, const char* in, size_t n, int size) {
    for (size_t i = 0; i < n; i++) {
        Sum sum = 0;
        for (int r = 0; r < size; r++) {
            X x;
            std::memcpy(&x, in + (static_cast<size_t>(r) * n + i) * sizeof x, sizeof x);
            sum = r == 0 ? static_cast<Sum>(x) : sum + static_cast<Sum>(x);
        }
        X result = static_cast<X>(sum);
        std::memcpy(out + i * sizeof result, &result, sizeof result);
    }
}
std::vector<char> sum(const std::vector<char>& in, size_t n, int size, ncclDataType_t type) {
    std::vector<char> out(n * size_of(type));
    if (type == ncclFloat) sum_as<float>(out.data(), in.data(), n, size);
    else if (type == ncclDouble) sum_as<double>(out.data(), in.data(), n, size);
    else if (type == ncclBfloat16) sum_as<bf16, float>(out.data(), in.data(), n, size);
    else sum_as<int8_t, int>(out.data(), in.data(), n, size);
    return out;
}

// What a call to NCCL does first.
void let_go(ncclComm_t comm) {
    std::erase_if(cudahost::the().let_go, [=](const Registered& r) { return r.communicator == comm; });
}

// An operation that makes out_bytes of the in_bytes of each rank, by exchange(what this rank gives).
using Bytes = std::vector<char>;
ncclResult_t enqueue(const char* what, void* out, size_t out_bytes, const void* in, size_t in_bytes, ncclComm_t comm,
                     cudaStream_t stream, std::function<Bytes(const Bytes&)> exchange) {
    if (!comm) return failed(ncclInvalidArgument, "the communicator is null");
    if (in_bytes * static_cast<size_t>(comm->size) > INT_MAX)
        throw Bug("NCCL on the CPU is for less than 2 GiB at once");
    if (in_bytes == 0) return ncclSuccess;
    cudahost::check_device_range(in, in_bytes, what);
    cudahost::check_device_range(out, out_bytes, what);
    struct State {
        Bytes given, got;
    };
    auto state = std::make_shared<State>();
    auto transfer = [=] {
        state->given.assign(in_bytes, '\xff');
        cudahost::copy_memory(state->given.data(), in, in_bytes);
        state->got = exchange(state->given);
        cudahost::fill_memory(out, 0xff, out_bytes);
        cudahost::copy_memory(state->given.data(), in, in_bytes);  // in place: some or all of it is NaN by now
    };
    auto land = [=] {
        Bytes now(std::max(in_bytes, out_bytes), '\xff');
        cudahost::copy_memory(now.data(), in, in_bytes);
        if (std::memcmp(now.data(), state->given.data(), in_bytes) != 0)
            throw Bug(format("the input of %s was written while the operation was in its stream", what));
        std::fill(now.begin(), now.end(), '\xff');
        cudahost::copy_memory(now.data(), out, out_bytes);
        if (!cudahost::all_ones(now.data(), out_bytes))
            throw Bug(format("the output of %s was written while the operation was in its stream", what));
        cudahost::copy_memory(out, state->got.data(), out_bytes);
    };
    let_go(comm);
    if (CUgraph_st* graph = cudahost::resolve(stream)->capture.get()) {
        if (!comm->connected)
            throw Bug(format(
                "%s, the first operation of its communicator, is captured: NCCL makes its connections then", what));
        graph->registered.push_back({comm, static_cast<const char*>(in), in_bytes});
        graph->registered.push_back({comm, static_cast<const char*>(out), out_bytes});
    }
    comm->connected = true;
    cudaError_t error = cudahost::enqueue_collective(stream, transfer, land);
    return error == cudaSuccess ? ncclSuccess : failed(ncclUnhandledCudaError, cudaGetErrorString(error));
}

// What each rank gives, by rank.
Bytes gather(ncclComm_t comm, [[maybe_unused]] const Bytes& in) {
    Bytes all(in.size() * static_cast<size_t>(comm->size));
#ifdef USE_MPI
    int n = static_cast<int>(in.size());
    wait_for([&](MPI_Request* request) {
        CHECK_MPI(MPI_Iallgather(in.data(), n, MPI_BYTE, all.data(), n, MPI_BYTE, comm->comm, request));
    });
#endif
    return all;
}

}  // namespace

extern "C" {

const char* ncclGetErrorString(ncclResult_t result) {
    switch (result) {
        case ncclSuccess:
            return "no error";
        case ncclUnhandledCudaError:
            return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
        case ncclInvalidArgument:
            return "invalid argument (run with NCCL_DEBUG=WARN for details)";
        case ncclInvalidUsage:
            return "invalid usage (run with NCCL_DEBUG=WARN for details)";
        case ncclRemoteError:
            return "remote process exited or there was a network error";
        default:
            return "unknown result code";
    }
}
const char* ncclGetLastError(ncclComm_t) { return last_error.c_str(); }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) { return *id = {}, ncclSuccess; }
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId, int rank) {
    if (error_is("duplicate"))
        return failed(ncclInvalidUsage, "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000");
#ifdef USE_MPI
    start_mpi();
    int mpi_rank = 0, mpi_size = 0;
    MPI_Comm all;
    CHECK_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &all));
    MPI_Comm_set_errhandler(all, MPI_ERRORS_RETURN);
    CHECK_MPI(MPI_Comm_rank(all, &mpi_rank));
    CHECK_MPI(MPI_Comm_size(all, &mpi_size));
    if (mpi_rank != rank || mpi_size != size)
        return failed(ncclInvalidUsage, format("rank %d of %d, but MPI says %d of %d: on the CPU, ranks are started "
                                               "with mpirun",
                                               rank, size, mpi_rank, mpi_size));
    *comm = new ncclComm{all, rank, size};
    return ncclSuccess;
#else
    (void)comm, (void)size, (void)rank;
    return failed(ncclInvalidUsage, "this build has no MPI (package libopenmpi-dev)");
#endif
}
ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) { return *count = comm->size, ncclSuccess; }
ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) { return *rank = comm->rank, ncclSuccess; }
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    cudahost::keep_bug([&] {
        for (CUgraphExec_st* e : cudahost::the().executables)
            for (const Registered& r : e->graph.registered)
                if (r.communicator == comm)
                    throw Bug("ncclCommDestroy waits without end for a graph that has operations of the communicator");
    });
    return ncclCommAbort(comm);
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    let_go(comm);
    for (CUgraphExec_st* e : cudahost::the().executables)
        std::erase_if(e->graph.registered, [=](const Registered& r) { return r.communicator == comm; });
    return delete comm, ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* error) {
    *error = error_is("async") ? failed(ncclRemoteError, "no word from the other end") : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
    if (op != ncclSum) return failed(ncclInvalidArgument, "only sums are known to the tests on the CPU");
    size_t bytes = n * size_of(type);
    return enqueue("ncclAllReduce", out, bytes, in, bytes, comm, stream,
                   [=](const Bytes& given) { return sum(gather(comm, given), n, comm->size, type); });
}
ncclResult_t ncclReduceScatter(const void* in, void* out, size_t n, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
    if (op != ncclSum) return failed(ncclInvalidArgument, "only sums are known to the tests on the CPU");
    size_t bytes = n * size_of(type);
    return enqueue("ncclReduceScatter", out, bytes, in, bytes * static_cast<size_t>(comm->size), comm, stream,
                   [=]([[maybe_unused]] const Bytes& given) {
                       Bytes parts(bytes * static_cast<size_t>(comm->size));
#ifdef USE_MPI
                       wait_for([&](MPI_Request* request) {
                           CHECK_MPI(MPI_Ialltoall(given.data(), static_cast<int>(bytes), MPI_BYTE, parts.data(),
                                                   static_cast<int>(bytes), MPI_BYTE, comm->comm, request));
                       });
#endif
                       return sum(parts, n, comm->size, type);
                   });
}
ncclResult_t ncclAllGather(const void* in, void* out, size_t n, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
    size_t bytes = n * size_of(type);
    return enqueue("ncclAllGather", out, bytes * static_cast<size_t>(comm->size), in, bytes, comm, stream,
                   [=](const Bytes& given) { return gather(comm, given); });
}
ncclResult_t ncclBroadcast(const void* in, void* out, size_t n, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
    if (root < 0 || root >= comm->size) return failed(ncclInvalidArgument, "no such root");
    size_t bytes = n * size_of(type);
    return enqueue("ncclBroadcast", out, bytes, in, bytes, comm, stream, [=](Bytes given) {
#ifdef USE_MPI
        wait_for([&](MPI_Request* request) {
            CHECK_MPI(MPI_Ibcast(given.data(), static_cast<int>(bytes), MPI_BYTE, root, comm->comm, request));
        });
#endif
        return given;
    });
}

}  // extern "C"
#endif
