// CUDA on the CPU: streams, events and graphs do what CUDA promises and no more; a missing wait is found.
#include "test/cuda/cudahost_test.h"

#ifdef CUDAHOST

namespace {

struct Streams {
    cudaStream_t a = nullptr, b = nullptr;
    cudaEvent_t event = nullptr;
    Streams() {
        CUDA_CHECK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
        CUDA_CHECK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
        CUDA_CHECK(cudaEventCreate(&event));
    }
    ~Streams() { cudaEventDestroy(event), cudaStreamDestroy(a), cudaStreamDestroy(b); }
};
__global__ void store_kernel(float* to, float x) { *to = x; }
__global__ void nothing_kernel() {}
__global__ void copy_kernel(float* to, const float* from) { *to = *from; }

TEST(CudaHost, FindsMissingWaitsBetweenStreams) {
    auto right = [](bool wait) {
        return [wait] {
            Streams s;
            DeviceVector<float> x(1), y(1);
            launch(store_kernel, 1, 1, 0, s.a, x.get(), 5.0f);
            CUDA_CHECK(cudaEventRecord(s.event, s.a));
            if (wait) CUDA_CHECK(cudaStreamWaitEvent(s.b, s.event, 0));
            launch(copy_kernel, 1, 1, 0, s.b, y.get(), x.get());
            return y.host()[0] == 5;
        };
    };
    EXPECT_EQ(schedules_that_fail(right(true)), 0);
    EXPECT_GE(schedules_that_fail(right(false)), 1);
}

TEST(CudaHost, FindsMissingWaitsOfTheHost) {
    auto download = [](bool wait) {
        return [wait] {
            Streams s;
            DeviceVector<float> x(1);
            auto host = pinned<float>(1);
            launch(store_kernel, 1, 1, 0, s.a, x.get(), 5.0f);
            CUDA_CHECK(cudaMemcpyAsync(host.get(), x.get(), 4, cudaMemcpyDeviceToHost, s.a));
            if (wait) CUDA_CHECK(cudaStreamSynchronize(s.a));
            return *host == 5;
        };
    };
    EXPECT_EQ(schedules_that_fail(download(true)), 0);
    EXPECT_GE(schedules_that_fail(download(false)), 3);
    auto upload = [](bool wait) {  // pinned memory is read when the copy happens, not when it is asked for
        return [wait] {
            Streams s;
            DeviceVector<float> x(1);
            auto host = pinned<float>(1);
            *host = 5;
            CUDA_CHECK(cudaMemcpyAsync(x.get(), host.get(), 4, cudaMemcpyHostToDevice, s.a));
            CUDA_CHECK(cudaEventRecord(s.event, s.a));
            if (wait) CUDA_CHECK(cudaEventSynchronize(s.event));
            *host = 6;
            return x.host()[0] == 5;
        };
    };
    EXPECT_EQ(schedules_that_fail(upload(true)), 0);
    EXPECT_GE(schedules_that_fail(upload(false)), 3);
}

// The copy is staged when cudaMemcpy() returns, and a stream of its own does not wait until it has landed.
TEST(CudaHost, CopiesFromPageableMemoryLandLate) {
    auto right = [](bool wait) {
        return [wait] {
            Streams s;
            DeviceVector<float> x(1), y(1);
            std::vector<float> host{5};
            CUDA_CHECK(cudaMemcpy(x.get(), host.data(), 4, cudaMemcpyHostToDevice));
            host[0] = 6;
            if (wait) CUDA_CHECK(cudaStreamSynchronize(nullptr));
            launch(copy_kernel, 1, 1, 0, s.a, y.get(), x.get());
            CUDA_CHECK(cudaStreamSynchronize(s.a));
            return y.host()[0] == 5 && x.host()[0] == 5;
        };
    };
    EXPECT_EQ(schedules_that_fail(right(true)), 0);
    EXPECT_GE(schedules_that_fail(right(false)), 3);
}

TEST(CudaHost, DefaultStreamWaitsForBlockingStreams) {
    EXPECT_EQ(schedules_that_fail([] {
                  cudaStream_t s;
                  CUDA_CHECK(cudaStreamCreate(&s));
                  DeviceVector<float> x(1), y(1);
                  launch(store_kernel, 1, 1, 0, s, x.get(), 5.0f);
                  launch(copy_kernel, 1, 1, 0, nullptr, y.get(), x.get());
                  launch(store_kernel, 1, 1, 0, s, x.get(), 6.0f);
                  bool right = y.host()[0] == 5 && x.host()[0] == 6;
                  CUDA_CHECK(cudaStreamDestroy(s));
                  return right;
              }),
              0);
}

TEST(CudaHost, EventsTakeTime) {
    Streams s;
    cudaEvent_t end = nullptr;
    CUDA_CHECK(cudaEventCreate(&end));
    float ms = -1;
    CUDA_CHECK(cudaEventRecord(s.event, s.a));
    launch(nothing_kernel, 100, 128, 0, s.a);
    CUDA_CHECK(cudaEventRecord(end, s.a));
    CUDA_CHECK(cudaEventSynchronize(end));
    CUDA_CHECK(cudaEventElapsedTime(&ms, s.event, end));
    EXPECT_GT(ms, 0);
    CUDA_CHECK(cudaEventDestroy(end));
}

__global__ void add_kernel(float* x, const float* by) { *x += *by; }

TEST(CudaHost, GraphsReplayWithNewValues) {
    for_each_schedule([] {
        Streams s;
        DeviceVector<float> x(std::vector<float>{0}), by(std::vector<float>{1});
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t executable = nullptr;
        launch(add_kernel, 1, 1, 0, s.a, by.get(), x.get());
        CUDA_CHECK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal));
        launch(add_kernel, 1, 1, 0, s.a, x.get(), by.get());
        CUDA_CHECK(cudaEventRecord(s.event, s.a));  // a second stream joins, and is joined
        CUDA_CHECK(cudaStreamWaitEvent(s.b, s.event, 0));
        launch(add_kernel, 1, 1, 0, s.b, x.get(), by.get());
        CUDA_CHECK(cudaEventRecord(s.event, s.b));
        CUDA_CHECK(cudaStreamWaitEvent(s.a, s.event, 0));
        launch(add_kernel, 1, 1, 0, s.a, x.get(), x.get());
        CUDA_CHECK(cudaStreamEndCapture(s.a, &graph));
        CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
        EXPECT_EQ(x.host()[0], 0) << "a capture runs nothing";
        CUDA_CHECK(cudaGraphLaunch(executable, s.a));
        CUDA_CHECK(cudaStreamSynchronize(s.a));
        by.set({10});
        CUDA_CHECK(cudaGraphLaunch(executable, s.a));
        EXPECT_EQ(x.host()[0], 48);
        CUDA_CHECK(cudaGraphExecDestroy(executable));
        CUDA_CHECK(cudaGraphDestroy(graph));
    });
}

TEST(CudaHost, CapturesRefuseWhatAGraphCannotHold) {
    auto captured = [](auto illegal) {
        Streams s;
        cudaGraph_t graph = nullptr;
        CUDA_CHECK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal));
        cudaError_t error = illegal(s);
        EXPECT_EQ(cudaStreamEndCapture(s.a, &graph), cudaErrorStreamCaptureInvalidated);
        EXPECT_EQ(graph, nullptr);
        cudaGetLastError();
        return error;
    };
    DeviceVector<float> x(1);
    float host = 0;
    void* p = nullptr;
    EXPECT_EQ(captured([&](Streams&) { return cudaMalloc(&p, 1); }), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(captured([&](Streams& s) { return cudaStreamSynchronize(s.a); }), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(captured([&](Streams&) { return cudaDeviceSynchronize(); }), cudaErrorStreamCaptureUnsupported);
    EXPECT_NE(captured([&](Streams&) { return cudaMemcpy(&host, x.get(), 4, cudaMemcpyDeviceToHost); }), cudaSuccess);
    Streams s;
    cudaGraph_t graph = nullptr;
    launch(nothing_kernel, 1, 1, 0, s.b);
    CUDA_CHECK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal));
    CUDA_CHECK(cudaEventRecord(s.event, s.a));
    CUDA_CHECK(cudaStreamWaitEvent(s.b, s.event, 0));
    launch(nothing_kernel, 1, 1, 0, s.b);
    EXPECT_EQ(cudaStreamEndCapture(s.a, &graph), cudaErrorStreamCaptureUnjoined);
    cudaGetLastError();
}

TEST(CudaHost, EventsOfAnEndedCaptureAreOfNoUse) {
    Streams s;
    cudaGraph_t graph = nullptr;
    CUDA_CHECK(cudaEventRecord(s.event, s.a));
    CUDA_CHECK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal));
    CUDA_CHECK(cudaEventRecord(s.event, s.a));
    CUDA_CHECK(cudaStreamEndCapture(s.a, &graph));
    CUDA_CHECK(cudaGraphDestroy(graph));
    float ms = 0;
    EXPECT_EQ(cudaStreamWaitEvent(s.b, s.event, 0), cudaErrorInvalidValue);
    EXPECT_EQ(cudaEventSynchronize(s.event), cudaErrorCapturedEvent);
    EXPECT_EQ(cudaEventElapsedTime(&ms, s.event, s.event), cudaErrorInvalidValue);
    cudaGetLastError();
    CUDA_CHECK(cudaEventRecord(s.event, s.a));  // recorded anew, it is as good as any
    CUDA_CHECK(cudaStreamWaitEvent(s.b, s.event, 0));
    CUDA_CHECK(cudaStreamSynchronize(s.b));
}

__global__ void never_used_kernel(int) {}
__global__ void never_used_either_kernel() {}
TEST(CudaHost, KernelsAreLoadedBeforeACapture) {
    Streams s;
    cudaGraph_t graph = nullptr;
    CUDA_CHECK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeThreadLocal));
    EXPECT_BUG("never_used_kernel is first used while a stream is captured",
               launch(never_used_kernel, 1, 1, 0, s.a, 1));
    EXPECT_BUG("never_used_either_kernel is first used",
               cudaFuncSetAttribute(reinterpret_cast<const void*>(never_used_either_kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, 1024));
    CUDA_CHECK(cudaStreamEndCapture(s.a, &graph));
    CUDA_CHECK(cudaGraphDestroy(graph));
    launch(never_used_kernel, 1, 1, 0, s.a, 1);
    CUDA_CHECK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeThreadLocal));
    EXPECT_BUG("", launch(never_used_kernel, 1, 1, 0, s.a, 1));
    CUDA_CHECK(cudaStreamEndCapture(s.a, &graph));
    CUDA_CHECK(cudaGraphDestroy(graph));
}

}  // namespace

#endif  // CUDAHOST
