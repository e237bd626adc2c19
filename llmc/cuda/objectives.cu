#include "llmc/cuda/objectives.cuh"

void preference_weights(float* weights, float* losses, const float* token_losses, const MicroBatch<float>& tokens,
                        float beta, int N, int T, cudaStream_t stream) {
    launch(preference_weights_kernel, ceil_div(N, 8), 256, 0, stream, weights, losses, token_losses, tokens, beta, N,
           T);
}

void policy_weights(PolicyNumbers<float> to, const float* token_losses, const MicroBatch<float>& tokens,
                    RewardOptions o, int N, cudaStream_t stream) {
    launch(policy_weights_kernel, ceil_div(N, 256), 256, 0, stream, to, token_losses, tokens, o, N);
}

template <typename X>
void value_loss(X* dscores, float* losses, const X* scores, const MicroBatch<float>& tokens, RewardOptions o,
                const StepState* state, int N, int Kp, cudaStream_t stream) {
    launch(value_loss_kernel<X>, ceil_div(N, 256), 256, 0, stream, dscores, losses, scores, tokens, o, state, N, Kp);
}
template void value_loss(float*, float*, const float*, const MicroBatch<float>&, RewardOptions, const StepState*, int,
                         int, cudaStream_t);
template void value_loss(bf16*, float*, const bf16*, const MicroBatch<float>&, RewardOptions, const StepState*, int,
                         int, cudaStream_t);
