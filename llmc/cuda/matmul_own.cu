#include "llmc/cuda/matmul_own.cuh"

template void matmul_own(const Matmul<float, float>&, cudaStream_t, Sums<float>);
template void matmul_own(const Matmul<bf16, bf16>&, cudaStream_t, Sums<bf16>);
template void matmul_own(const Matmul<bf16, float>&, cudaStream_t, Sums<bf16>);
