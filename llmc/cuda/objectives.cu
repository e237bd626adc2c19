#include "llmc/cuda/objectives.cuh"

void preference_weights(float* weights, float* losses, const float* token_losses, const MicroBatch<float>& tokens,
                        float beta, int N, int T, cudaStream_t stream) {
    launch(preference_weights_kernel, ceil_div(N, 8), 256, 0, stream, weights, losses, token_losses, tokens, beta, N,
           T);
}
