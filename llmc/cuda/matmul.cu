#include "llmc/cuda/matmul.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(matmul_forward);
LLMC_INSTANTIATE_CUDA(matmul_backward);
LLMC_INSTANTIATE_CUDA(bias_backward);
LLMC_INSTANTIATE_CUDA(gelu_backward_with_sums);
template void matmul(const Matmul<float, float>&, cudaStream_t);
template void matmul(const Matmul<bf16, bf16>&, cudaStream_t);
template void matmul(const Matmul<bf16, float>&, cudaStream_t);
template void matmul_finish(Matmul<float, float>, cudaStream_t);
template void matmul_finish(Matmul<bf16, bf16>, cudaStream_t);
template void matmul_finish(Matmul<bf16, float>, cudaStream_t);
