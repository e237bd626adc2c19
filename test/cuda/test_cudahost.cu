// CUDA on the CPU (test/cudahost) itself: what it is there to find, it finds.
#include "test/cuda/device_test.h"

#include "llmc/layernorm.cuh"

TEST(CudaHost, Layernorm) {
    int N = 1024, C = 768;
    auto x = random_vector<bf16>(size_t(N) * C, 1), w = random_vector<bf16>(C, 2), b = random_vector<bf16>(C, 3), y = x;
    std::vector<float> mean(N), rstd(N);
    cpu::layernorm_forward(y.data(), mean.data(), rstd.data(), x.data(), w.data(), b.data(), N, C);
    for_each_schedule([&] {
        DeviceVector<bf16> dx(x), dw(w), db(b), dy(x.size());
        DeviceVector<float> dmean(N), drstd(N);
        layernorm_forward(dy.get(), dmean.get(), drstd.get(), dx.get(), dw.get(), db.get(), N, C, current_stream());
        EXPECT_LT(relative_error(dy.host(), y), rounding<bf16>);
        EXPECT_LT(relative_error(drstd.host(), rstd), 1e-6);
    });
}
