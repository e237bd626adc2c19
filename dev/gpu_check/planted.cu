// Two errors, for dev/gpu_check.sh to see that compute-sanitizer finds them: `planted memcheck` writes behind the end
// of an array, `planted racecheck` reads what another warp has written without a barrier between them.
#include <cstdio>
#include <cstring>

__global__ void write_behind_the_end(int* x, int n) { x[threadIdx.x + (threadIdx.x == 31 ? n : 0)] = 1; }

__global__ void race(int* x) {
    __shared__ int shared[64];
    shared[threadIdx.x] = static_cast<int>(threadIdx.x);
    x[threadIdx.x] = shared[63 - threadIdx.x];
}

int main(int argc, char** argv) {
    int* x = nullptr;
    if (cudaMalloc(&x, 64 * sizeof(int)) != cudaSuccess) return 2;
    if (argc > 1 && !strcmp(argv[1], "racecheck")) race<<<1, 64>>>(x);
    else write_behind_the_end<<<1, 32>>>(x, 64);
    cudaError_t error = cudaDeviceSynchronize();
    printf("%s\n", cudaGetErrorName(error));
    return 0;
}
