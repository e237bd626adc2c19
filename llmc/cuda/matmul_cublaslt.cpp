#include "llmc/cuda/matmul_cublaslt.cuh"

template void matmul_cublaslt(const Matmul<float, float>&, cudaStream_t);
template void matmul_cublaslt(const Matmul<bf16, bf16>&, cudaStream_t);
template void matmul_cublaslt(const Matmul<bf16, float>&, cudaStream_t);
