// NcclCommunicator between 1, 2, 3 and 4 ranks: with NCCL on a GPU, which all ranks share, or over MPI on the CPU.
#include "test/cuda/device_test.h"
//
#include "llmc/ranks/nccl.cuh"
#include "test/ranks_test.h"

namespace {

void expect_all_pass(const RankProcess::Variables& variables = {}) {
    for (int world : {2, 3, 4}) {
        if (is_cudahost) expect_mpirun_passes(world, variables);
        else expect_ranks_pass(world, variables);
        if (::testing::Test::IsSkipped()) return;
    }
}

struct Streams {
    cudaStream_t compute = nullptr, communication = nullptr;
    cudaEvent_t event = nullptr;
    Streams() {
        CUDA_CHECK(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
        CUDA_CHECK(cudaStreamCreateWithFlags(&communication, cudaStreamNonBlocking));
        CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    }
    ~Streams() {
        cudaEventDestroy(event);
        cudaStreamDestroy(communication);
        cudaStreamDestroy(compute);
    }
    static void after(cudaStream_t later, cudaStream_t earlier, cudaEvent_t event) {
        CUDA_CHECK(cudaEventRecord(event, earlier));
        CUDA_CHECK(cudaStreamWaitEvent(later, event, 0));
    }
};

// What rank r gives: small whole numbers, whose sums are exact.
template <typename X>
std::vector<X> numbers(size_t n, int rank) {
    std::vector<X> x(n);
    for (size_t i = 0; i < n; i++) x[i] = static_cast<X>((static_cast<int>(i) * 7 + rank * 31) % 100 - 50);
    return x;
}
template <typename X>
std::vector<X> sums(size_t n, int world) {
    std::vector<X> sum(n);
    for (int r = 0; r < world; r++) {
        std::vector<X> each = numbers<X>(n, r);
        for (size_t i = 0; i < n; i++) sum[i] += each[i];
    }
    return sum;
}
template <typename X>
std::vector<X> slice(const std::vector<X>& x, size_t part, size_t n) {
    return {x.begin() + static_cast<long>(part * n), x.begin() + static_cast<long>((part + 1) * n)};
}

template <typename X>
void check_sums(NcclCommunicator& comm, cudaStream_t stream) {
    auto rank = static_cast<size_t>(comm.rank()), world = static_cast<size_t>(comm.size());
    for (size_t n : {size_t{1}, size_t{7}, size_t{1000}, size_t{4099}}) {
        DeviceVector<X> data(numbers<X>(n, comm.rank()));
        comm.all_reduce(data.get(), n, stream);
        EXPECT_EQ(data.host(), sums<X>(n, comm.size())) << n;

        DeviceVector<X> in(numbers<X>(world * n, comm.rank())), out(n);
        comm.reduce_scatter(out.get(), in.get(), n, stream);
        EXPECT_EQ(out.host(), slice(sums<X>(world * n, comm.size()), rank, n)) << n;
        EXPECT_EQ(in.host(), numbers<X>(world * n, comm.rank())) << "the input stays";
        comm.reduce_scatter(in.get() + rank * n, in.get(), n, stream);  // in place
        EXPECT_EQ(slice(in.host(), rank, n), out.host()) << n;
    }
}
template <typename X>
void check_copies(NcclCommunicator& comm, cudaStream_t stream) {
    auto rank = static_cast<size_t>(comm.rank()), world = static_cast<size_t>(comm.size());
    for (size_t n : {size_t{1}, size_t{5}, size_t{3001}}) {
        std::vector<X> all;
        for (int r = 0; r < comm.size(); r++)
            for (X x : numbers<X>(n, r)) all.push_back(x);
        DeviceVector<X> mine(numbers<X>(n, comm.rank())), gathered(world * n);
        comm.all_gather(gathered.get(), mine.get(), n, stream);
        EXPECT_TRUE(gathered.host() == all) << n;

        std::vector<X> partly(world * n);  // in place: each rank has its own part alone
        std::copy(all.begin() + static_cast<long>(rank * n), all.begin() + static_cast<long>((rank + 1) * n),
                  partly.begin() + static_cast<long>(rank * n));
        gathered.set(partly);
        comm.all_gather(gathered.get(), gathered.get() + rank * n, n, stream);
        EXPECT_TRUE(gathered.host() == all) << n;

        for (int root = 0; root < comm.size(); root++) {
            mine.set(numbers<X>(n, comm.rank()));
            comm.broadcast(mine.get(), n, root, stream);
            EXPECT_TRUE(mine.host() == numbers<X>(n, root)) << n;
        }
    }
}

void check_operations(NcclCommunicator& comm) {
    for_each_schedule([&] {
        check_sums<float>(comm, current_stream());
        check_sums<double>(comm, current_stream());
        check_copies<float>(comm, current_stream());
        check_copies<bf16>(comm, current_stream());
        check_copies<int8_t>(comm, current_stream());
        comm.wait(current_stream());
    });
}

TEST(NcclCommunicator, OneRankCopies) {
    Group group(Ranks{}, 1);
    NcclCommunicator comm(group);
    EXPECT_EQ(comm.size(), 1);
    check_operations(comm);
}

TEST(NcclCommunicator, EveryOperation) {
    if (is_rank())
        return in_rank([](Group& group) {
            NcclCommunicator comm(group);
            EXPECT_EQ(comm.rank(), group.rank());
            EXPECT_EQ(comm.size(), group.world());
            check_operations(comm);
        });
    expect_all_pass();
}

// Sums of random numbers: the same bits on all ranks and each time.
TEST(NcclCommunicator, SumsAreTheSameBitsOnAllRanksAndEachTime) {
    if (is_rank())
        return in_rank([](Group& group) {
            NcclCommunicator comm(group);
            std::vector<float> first;
            for_each_schedule([&] {
                DeviceVector<float> data(random_vector<float>(5003, static_cast<uint64_t>(comm.rank())));
                comm.all_reduce(data.get(), data.size(), current_stream());
                std::vector<float> got = data.host();
                if (first.empty()) first = got;
                EXPECT_EQ(got, first);
            });
            std::string bits(reinterpret_cast<const char*>(first.data()), first.size() * sizeof(float));
            for (const std::string& other : group.exchange(bits)) EXPECT_TRUE(other == bits);
        });
    expect_all_pass();
}

__global__ void __launch_bounds__(256) multiply_kernel(float* x, float by, int n) {
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] *= by;
}
void multiply(float* x, float by, size_t n, cudaStream_t stream) {
    launch(multiply_kernel, dim3(static_cast<unsigned>(ceil_div(static_cast<int64_t>(n), 256))), dim3(256), 0, stream,
           x, by, static_cast<int>(n));
}

// Two streams as in a training step: buckets are computed in one, reduced in the other, and used in the first again.
void two_streams(NcclCommunicator& comm, const Streams& s, float* x, size_t n, int buckets) {
    for (int b = 0; b < buckets; b++) {
        float* bucket = x + static_cast<size_t>(b) * n;
        multiply(bucket, 2, n, s.compute);
        Streams::after(s.communication, s.compute, s.event);
        comm.all_reduce(bucket, n, s.communication);
    }
    Streams::after(s.compute, s.communication, s.event);
    multiply(x, 0.5f, n * static_cast<size_t>(buckets), s.compute);
}

TEST(NcclCommunicator, OrderIsThatOfStreamsAndEvents) {
    if (is_rank())
        return in_rank([](Group& group) {
            NcclCommunicator comm(group);
            constexpr size_t n = 777;
            constexpr int buckets = 5;
            for_each_schedule([&] {
                Streams s;
                DeviceVector<float> x(numbers<float>(n * buckets, comm.rank()));
                if (comm.rank() == 0) multiply(x.get(), 1, n, s.compute);  // ranks' schedules are not alike
                two_streams(comm, s, x.get(), n, buckets);
                group.exchange("");  // a wait for the others that is no wait for the device
                comm.wait(s.compute);
                EXPECT_EQ(x.host(), sums<float>(n * buckets, comm.size()));
            });
        });
    expect_all_pass();
}

TEST(NcclCommunicator, GraphsCaptureIt) {
    if (is_rank())
        return in_rank([](Group& group) {
            Streams s;
            NcclCommunicator comm(group);
            constexpr size_t n = 777;
            constexpr int buckets = 3;
            for_each_schedule([&] {
                DeviceVector<float> x(numbers<float>(n * buckets, comm.rank())), first(std::vector<float>(1));
                multiply(first.get(), 1, 1, s.communication);  // as in a program, what comes first is not captured
                comm.all_reduce(first.get(), 1, s.communication);
                comm.wait(s.communication);
                cudaGraph_t graph = nullptr;
                cudaGraphExec_t replay = nullptr;
                CUDA_CHECK(cudaStreamBeginCapture(s.compute, cudaStreamCaptureModeThreadLocal));
                two_streams(comm, s, x.get(), n, buckets);
                CUDA_CHECK(cudaStreamEndCapture(s.compute, &graph));
                CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
                for (int i = 0; i < 2; i++) {
                    CUDA_CHECK(cudaGraphLaunch(replay, s.compute));
                    group.exchange("");
                }
                comm.wait(s.compute);
                std::vector<float> want = sums<float>(n * buckets, comm.size());
                for (float& w : want) w *= static_cast<float>(comm.size());
                EXPECT_EQ(x.host(), want);
                CUDA_CHECK(cudaGraphExecDestroy(replay));
                CUDA_CHECK(cudaGraphDestroy(graph));
                comm.all_reduce(first.get(), 1, s.communication);  // NCCL lets go of x, which ends before comm
                comm.wait(s.communication);
            });
        });
    expect_all_pass();
}

#ifdef CUDAHOST
// ---- what the tests on the CPU can see ----

// A missing wait need not show under every schedule, but under some.
void expect_some_schedule_finds(const std::function<bool()>& is_wrong) {
    int found = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        cudahost::set_seed(seed);
        found += is_wrong();
    }
    cudahost::set_seed(1);
    EXPECT_GT(found, 0);
}
bool throws_bug(const std::function<void()>& body) {
    try {
        body();
        CUDA_CHECK(cudaDeviceSynchronize());
        return false;
    } catch (const cudahost::Bug&) {
        return true;
    }
}

TEST(NcclCommunicator, MissingWaitsShow) {
    if (is_rank())
        return in_rank([](Group& group) {
            NcclCommunicator comm(group);
            constexpr size_t n = 100;
            const std::vector<float> want = sums<float>(n, comm.size());
            auto wrong = [&](auto body) {
                expect_some_schedule_finds([&] {
                    Streams s;
                    DeviceVector<float> x(numbers<float>(n, comm.rank())), y(n);
                    bool bug = throws_bug([&] { body(s, x.get(), y.get()); });
                    return bug || y.host() != want;
                });
            };
            // the operation does not wait for what makes its input
            wrong([&](Streams& s, float* x, float* y) {
                multiply(x, 2, n, s.compute);
                comm.all_reduce(x, n, s.communication);
                Streams::after(s.compute, s.communication, s.event);
                multiply(x, 0.5f, n, s.compute);
                CUDA_CHECK(cudaMemcpyAsync(y, x, n * sizeof(float), cudaMemcpyDeviceToDevice, s.compute));
            });
            // who uses the output does not wait for the operation
            wrong([&](Streams& s, float* x, float* y) {
                Streams::after(s.communication, s.compute, s.event);
                comm.all_reduce(x, n, s.communication);
                CUDA_CHECK(cudaMemcpyAsync(y, x, n * sizeof(float), cudaMemcpyDeviceToDevice, s.compute));
            });
            // the input is overwritten before the operation is over
            wrong([&](Streams& s, float* x, float* y) {
                comm.broadcast(y, n, 0, s.compute);
                comm.reduce_scatter(y, x, n / static_cast<size_t>(comm.size()), s.communication);
                multiply(x, 2, n, s.compute);
                CUDA_CHECK(cudaStreamSynchronize(s.communication));
                CUDA_CHECK(cudaMemcpy(y, want.data(), n * sizeof(float), cudaMemcpyHostToDevice));
            });
        });
    expect_all_pass();
}

// Memory outlives the communicator, and that the graphs; the communicator's first operation is not captured.
TEST(NcclCommunicator, OrderOfLivesShows) {
    if (is_rank())
        return in_rank([](Group& group) {
            Streams s;
            DeviceVector<float> first(std::vector<float>(1));
            std::unique_ptr<NcclCommunicator> comm;
            std::unique_ptr<DeviceVector<float>> x;
            cudaGraphExec_t replay = nullptr;
            auto begin = [&](bool connect) {
                comm = std::make_unique<NcclCommunicator>(group);
                x = std::make_unique<DeviceVector<float>>(std::vector<float>(3));
                if (connect) comm->all_reduce(first.get(), 1, s.compute);
                cudaGraph_t graph = nullptr;
                CUDA_CHECK(cudaStreamBeginCapture(s.compute, cudaStreamCaptureModeThreadLocal));
                bool bug = false;
                try {
                    comm->all_reduce(x->get(), 3, s.compute);
                } catch (const cudahost::Bug&) {
                    bug = true;
                }
                CUDA_CHECK(cudaStreamEndCapture(s.compute, &graph));
                CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
                CUDA_CHECK(cudaGraphDestroy(graph));
                return bug;
            };
            auto end_graph = [&] { CUDA_CHECK(cudaGraphExecDestroy(replay)); };
            EXPECT_TRUE(begin(false));  // nothing was captured
            end_graph(), comm.reset(), x.reset();
            EXPECT_FALSE(begin(true));
            EXPECT_FALSE(throws_bug([&] { end_graph(), comm.reset(), x.reset(); }));
            begin(true);
            EXPECT_TRUE(throws_bug([&] { comm.reset(); }));
            end_graph(), x.reset();
            begin(true);
            EXPECT_TRUE(throws_bug([&] { end_graph(), x.reset(); }));
            comm.reset();
            begin(true);
            EXPECT_TRUE(throws_bug([&] { x.reset(); }));
            end_graph(), comm.reset();
        });
    expect_mpirun_passes(2);
}

std::string error_of(const std::function<void()>& body) {
    try {
        body();
    } catch (const Error& e) {
        return e.what();
    }
    return "";
}

TEST(NcclCommunicator, ErrorsNameCallAndRemedy) {
    if (is_rank())
        return in_rank([](Group& group) {
            setenv("CUDAHOST_NCCL_ERROR", "duplicate", 1);
            std::string duplicate = error_of([&] { NcclCommunicator comm(group); });
            for (const char* part : {"nccl.cuh:", "ncclCommInitRank", "invalid usage", "Duplicate GPU", "NCCL_HOSTID",
                                     "no more ranks than GPUs"})
                EXPECT_NE(duplicate.find(part), std::string::npos) << part << " is not in: " << duplicate;
            EXPECT_EQ(duplicate.find('\n'), std::string::npos);

            unsetenv("CUDAHOST_NCCL_ERROR");
            NcclCommunicator comm(group);
            comm.check_async();
            setenv("CUDAHOST_NCCL_ERROR", "async", 1);
            std::string async = error_of([&] { comm.check_async(); });
            for (const char* part : {"remote process exited", "no word from the other end"})
                EXPECT_NE(async.find(part), std::string::npos) << part << " is not in: " << async;
            cudahost::set_seed(2);  // work is deferred
            DeviceVector<float> x(3);
            std::string waiting;  // one of these waits finds work that is not done
            for (int i = 0; i < 100 && waiting.empty(); i++) {
                CUDA_CHECK(cudaMemsetAsync(x.get(), 0, 4, current_stream()));
                waiting = error_of([&] { comm.wait(current_stream()); });
            }
            EXPECT_NE(waiting, "");
            unsetenv("CUDAHOST_NCCL_ERROR");
        });
    expect_all_pass();
}
#endif

}  // namespace
