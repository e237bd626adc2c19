#include "llmc/cuda/global_norm.cuh"

template void global_norm_squared(double*, const float*, int64_t, bool, cudaStream_t);
