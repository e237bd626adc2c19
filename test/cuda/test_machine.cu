// The GPU as the machine of a model.
#include "llmc/cuda/machine.cuh"
#include "test/cuda/device_test.h"

namespace {

// What travels between ranks must not wait for a product's last blocks.
TEST(Gpu, TheNetworkGoesFirst) {
    Gpu gpu;
    gpu.start();
    int least = 0, greatest = 0, layers = 0, network = 0;
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CUDA_CHECK(cudaStreamGetPriority(gpu.stream(), &layers));
    CUDA_CHECK(cudaStreamGetPriority(gpu.network(), &network));
    EXPECT_EQ(layers, least);
    EXPECT_EQ(network, greatest);
    EXPECT_LT(greatest, least);
}

}  // namespace
