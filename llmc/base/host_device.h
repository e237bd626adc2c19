// HOST_DEVICE marks a function that CUDA kernels call as well as host code; the host compiler sees a plain function.
#pragma once

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif
