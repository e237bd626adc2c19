// Softmax and cross entropy over the vocabulary.                            (the maths and the layer:
// llmc/cuda/classifier.cuh)
//
//   losses[i] = -log softmax(logits[i])[targets[i]]                 logits (N,Vp), of which V columns count; losses (N)
//   dlogits[i] = (softmax(logits[i]) - onehot(targets[i])) * weights[i] * normaliser             in place of the logits
//
// softmax(x)[v] = exp(x[v] - max) / sum_v exp(x[v] - max): without the maximum, exp would overflow.
//
// A row is long, V = 50257 for GPT-2, so there is no lack of parallel work; what counts is how often it is visited. The
// logits are the largest tensor of the step: read once and written once, 2 N Vp sizeof(X) bytes, is the limit.
//
// (The versions overwrite their logits. When one is timed, it gets from its second launch on what the launch before has
// left, which takes just as long.)
#include "dev/cuda/zoo.cuh"

namespace classifier_page {

// ---- 1: softmax, loss and gradient, one after the other ------------------------------------------------------------
// As the formulas say it: a kernel that writes probabilities (N,V) to memory, one that picks the losses from them, one
// that turns them into gradients. Three reads of a row by a thread that has it to itself, lanes Vp elements apart; and
// the probabilities, in fp32, are written and read once more: with 16-bit logits these alone are twice the layer's
// least bytes.
template <typename X>
__global__ void softmax_kernel(float* probabilities, const X* logits, int N, int V, int Vp) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= N) return;
    const X* row = logits + static_cast<int64_t>(i) * Vp;
    float* out = probabilities + static_cast<int64_t>(i) * V;
    float max = -1e30f, sum = 0;
    for (int v = 0; v < V; v++) max = fmaxf(max, static_cast<float>(row[v]));
    for (int v = 0; v < V; v++) sum += expf(static_cast<float>(row[v]) - max);
    for (int v = 0; v < V; v++) out[v] = expf(static_cast<float>(row[v]) - max) / sum;
}

static __global__ void loss_kernel(float* losses, const float* probabilities, const int* targets, int N, int V) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < N) losses[i] = targets[i] < 0 ? 0.0f : -logf(probabilities[static_cast<int64_t>(i) * V + targets[i]]);
}

template <typename X>
__global__ void gradient_kernel(X* dlogits, const float* probabilities, const int* targets, const float* weights,
                                const StepState* state, int N, int V, int Vp) {
    int64_t element = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (element >= static_cast<int64_t>(N) * Vp) return;
    int i = static_cast<int>(element / Vp), v = static_cast<int>(element % Vp);
    float weight = targets[i] < 0 ? 0.0f : weights[i] * state->loss_normaliser;
    float p = v < V ? probabilities[static_cast<int64_t>(i) * V + v] - (v == targets[i]) : 0.0f;
    dlogits[element] = X(p * weight);
}

// ---- 2: a block per row, all in one kernel -------------------------------------------------------------------------
// The threads of a block share a row, so that lanes read neighbours. And since the gradient of a row needs nothing but
// that row, the same block goes on to write it: no probabilities in memory. What remains are three visits for reading
// (maximum, sum, gradient) and one for writing. Two of the reads may find the row, 100 KB in bf16, in a cache still.
// Not in L1, which eight blocks of 256 threads share; and 132 multiprocessors with eight rows each work on 100 MB at a
// time, twice the L2 of an H100. Larger blocks are fewer rows: -b 1024 brings them down to 26 MB.
//
// Maximum and sum go through block_max and block_sum (llmc/cuda/pack.cuh): shuffles within warps, then one value of each
// warp through shared memory and one barrier. That barrier is also what keeps this in-place layer right: all threads
// have read row[target], the maximum and the sum before anyone writes a gradient over a logit.
template <typename X>
__global__ void block_per_row_kernel(X* logits, float* losses, const int* targets, const float* weights,
                                     const StepState* state, int V, int Vp) {
    __shared__ float maxima[32];
    __shared__ float sums[32];
    int i = blockIdx.x, target = targets[i];
    X* row = logits + static_cast<int64_t>(i) * Vp;
    float at_target = target < 0 ? 0.0f : static_cast<float>(row[target]), max = -1e30f, sum = 0;
    for (int v = threadIdx.x; v < V; v += blockDim.x) max = fmaxf(max, static_cast<float>(row[v]));
    max = block_max(max, maxima);
    for (int v = threadIdx.x; v < V; v += blockDim.x) sum += __expf(static_cast<float>(row[v]) - max);
    sum = block_sum(sum, sums);

    float weight = target < 0 ? 0.0f : weights[i] * state->loss_normaliser, scale = weight / sum;
    if (threadIdx.x == 0) losses[i] = target < 0 ? 0.0f : max + logf(sum) - at_target;
    for (int v = threadIdx.x; v < Vp; v += blockDim.x) {
        float p = v < V ? __expf(static_cast<float>(row[v]) - max) * scale : 0.0f;
        row[v] = X(v == target ? p - weight : p);
    }
}

// ---- 3: online softmax ---------------------------------------------------------------------------------------------
// Maximum and sum in one visit (Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867). A thread keeps the sum
// relative to the maximum that it has seen so far, and when a larger x comes, rescales what it has:
//
//   sum <- sum * exp(max - x) + 1, max <- x        if x > max
//   sum <- sum + exp(x - max)                      else
//
// In the end the threads' sums are rescaled to the block's maximum and added up. One read less: two reads, one write.
// It is the same trick that makes flash attention possible.
template <typename X>
__global__ void online_kernel(X* logits, float* losses, const int* targets, const float* weights,
                              const StepState* state, int V, int Vp) {
    __shared__ float maxima[32];
    __shared__ float sums[32];
    int i = blockIdx.x, target = targets[i];
    X* row = logits + static_cast<int64_t>(i) * Vp;
    float at_target = target < 0 ? 0.0f : static_cast<float>(row[target]), my_max = -1e30f, my_sum = 0;
    for (int v = threadIdx.x; v < V; v += blockDim.x) {
        float x = static_cast<float>(row[v]), smaller = __expf(-fabsf(x - my_max));  // one exp, whichever is larger
        my_sum = x > my_max ? my_sum * smaller + 1 : my_sum + smaller;
        my_max = fmaxf(my_max, x);
    }
    float max = block_max(my_max, maxima);
    float sum = block_sum(my_sum * __expf(my_max - max), sums);

    float weight = target < 0 ? 0.0f : weights[i] * state->loss_normaliser, scale = weight / sum;
    if (threadIdx.x == 0) losses[i] = target < 0 ? 0.0f : max + logf(sum) - at_target;
    for (int v = threadIdx.x; v < Vp; v += blockDim.x) {
        float p = v < V ? __expf(static_cast<float>(row[v]) - max) * scale : 0.0f;
        row[v] = X(v == target ? p - weight : p);
    }
}

// ---- 4: 16 bytes at a time, and the second visit backwards ----------------------------------------------------------
// Packs of W elements as on the other pages, with one more gain: the maximum of a pack is found first, by comparisons,
// and the sum is rescaled once for a pack, not for each element. That breaks up the chain in which every element of 3
// waits for the exponential of the one before.
//
// The second visit walks from the row's end to its beginning: what the first has read last is the likeliest to be in a
// cache still. It is stored with a streaming hint, so that these gradients, which fill whole lines and are read by
// another kernel, do not push out the rest of the row while it is waiting to be read again.
template <int W, typename X>
__device__ void statistics_of_pack(float* max, float* sum, const float (&x)[W], int v, int V) {
    float larger = *max, s = 0;
#pragma unroll
    for (int j = 0; j < W; j++)
        if (v + j < V) larger = fmaxf(larger, x[j]);
#pragma unroll
    for (int j = 0; j < W; j++)
        if (v + j < V) s += __expf(x[j] - larger);
    *sum = *sum * __expf(*max - larger) + s, *max = larger;
}

template <int W, typename X>
__device__ void gradient_of_pack(float (&x)[W], int v, int V, int target, float max, float scale, float weight) {
#pragma unroll
    for (int j = 0; j < W; j++) {
        x[j] = v + j < V ? __expf(x[j] - max) * scale : 0.0f;
        if (v + j == target) x[j] -= weight;
    }
}

template <int W, typename X>
__global__ void packed_kernel(X* logits, float* losses, const int* targets, const float* weights,
                              const StepState* state, int V, int Vp) {
    __shared__ float maxima[32];
    __shared__ float sums[32];
    int i = blockIdx.x, target = targets[i];
    X* row = logits + static_cast<int64_t>(i) * Vp;
    float at_target = target < 0 ? 0.0f : static_cast<float>(row[target]), my_max = -1e30f, my_sum = 0;
    int stride = blockDim.x * W, first = threadIdx.x * W;
    for (int v = first; v < V; v += stride) {
        float x[W];
        load_pack(x, row + v);
        statistics_of_pack<W, X>(&my_max, &my_sum, x, v, V);
    }
    float max = block_max(my_max, maxima);
    float sum = block_sum(my_sum * __expf(my_max - max), sums);

    float weight = target < 0 ? 0.0f : weights[i] * state->loss_normaliser, scale = weight / sum;
    if (threadIdx.x == 0) losses[i] = target < 0 ? 0.0f : max + logf(sum) - at_target;
    for (int k = (Vp - first + stride - 1) / stride - 1; k >= 0; k--) {
        int v = first + k * stride;
        float x[W];
        load_pack(x, row + v);
        gradient_of_pack<W, X>(x, v, V, target, max, scale, weight);
        store_pack<W, Cached::no>(row + v, x);
    }
}

// ---- 5: the row in shared memory -----------------------------------------------------------------------------------
// What remains beyond the limit is the second read. Registers cannot hold a row of 50 thousand, but a multiprocessor of
// an H100 has 227 KB of shared memory, an A100 163, and a row of bf16 is 100 KB. The first visit leaves it there, the
// second reads it back, each thread its own packs, so that not even a barrier is needed. Now every byte is moved once,
// by construction and not by luck.
//
// The price: one or two rows fill the multiprocessor. While one block reads, sums and waits at its barriers, at most
// one other is there to keep the memory busy, where version 4 has as many as threads allow. Whether a certain second
// read out of the L2 cache costs more than idle memory is a question to the machine. Rows that do not fit (fp32 on most
// GPUs) take version 4.
template <int W, typename X>
__global__ void shared_kernel(X* logits, float* losses, const int* targets, const float* weights,
                              const StepState* state, int V, int Vp) {
    __shared__ float maxima[32];
    __shared__ float sums[32];
    extern __shared__ __align__(16) unsigned char shared_memory[];
    X* kept = reinterpret_cast<X*>(shared_memory);
    int i = blockIdx.x, target = targets[i];
    X* row = logits + static_cast<int64_t>(i) * Vp;
    float at_target = target < 0 ? 0.0f : static_cast<float>(row[target]), my_max = -1e30f, my_sum = 0;
    int stride = blockDim.x * W, first = threadIdx.x * W;
    for (int v = first; v < Vp; v += stride) {
        float x[W];
        load_pack<W, Cached::no>(x, row + v);
        store_pack(kept + v, x);
        statistics_of_pack<W, X>(&my_max, &my_sum, x, v, V);
    }
    float max = block_max(my_max, maxima);
    float sum = block_sum(my_sum * __expf(my_max - max), sums);

    float weight = target < 0 ? 0.0f : weights[i] * state->loss_normaliser, scale = weight / sum;
    if (threadIdx.x == 0) losses[i] = target < 0 ? 0.0f : max + logf(sum) - at_target;
    for (int v = first; v < Vp; v += stride) {
        float x[W];
        load_pack(x, kept + v);
        gradient_of_pack<W, X>(x, v, V, target, max, scale, weight);
        store_pack(row + v, x);
    }
}

// ---- 6: llmc/cuda/classifier.cuh ----------------------------------------------------------------------------------------
// Version 4 with more bytes under way: four packs of a thread are loaded before the first is used, in both visits, and
// the first four even before the target is known, so that a block does not wait twice where it begins. Blocks of 512
// are few rows at a time, which the L2 cache keeps for the second visit.

// ---- the page ------------------------------------------------------------------------------------------------------

inline const zoo::Sizes sizes = {
    "N V Vp", {1024, 50257, 50304}, {{1, 1, 1}, {3, 77, 80}, {3, 513, 1024}, {2, 1031, 1031}}};

template <typename X>
zoo::Page page(const zoo::Setup& setup) {
    int N = setup.size[0], V = setup.size[1], Vp = setup.size[2], block = setup.block;
    CHECK(V <= Vp, "V=%d Vp=%d", V, Vp);
    int64_t n = static_cast<int64_t>(N) * Vp;
    std::vector<X> logits = zoo::random<X>(n, 1, 3.0f), dlogits = logits;
    std::vector<float> weights = zoo::random<float>(N, 2), losses(N);
    std::vector<int> targets(N);
    for (int i = 0; i < N; i++) targets[i] = i % 7 == 2 ? -1 : static_cast<int>(i * 7919ll % V);
    StepState state;
    state.loss_normaliser = 1.0f / N;
    if (setup.reference)
        fused_classifier(dlogits.data(), losses.data(), targets.data(), weights.data(), &state, N, V, Vp, true);
    zoo::Page p;
    p.bytes = 2.0 * n * sizeof(X);
    const int* dtargets = p.input(targets);
    const float* dweights = p.input(weights);
    const StepState* dstate = p.input(std::vector<StepState>{state});
    float* probabilities = p.input(std::vector<float>(static_cast<size_t>(N) * V, NAN));
    X* x = p.output("dlogits", dlogits, logits);
    float* dlosses = p.output("losses", losses);

    constexpr int pack = pack_width<X>;
    bool packs = Vp % pack == 0;
    auto run = [=](void (*kernel)(X*, float*, const int*, const float*, const StepState*, int, int), size_t shared) {
        return
            [=](cudaStream_t s) { launch(kernel, N, block, shared, s, x, dlosses, dtargets, dweights, dstate, V, Vp); };
    };
    auto packed = run(packs ? packed_kernel<pack, X> : packed_kernel<1, X>, 0);
    size_t row_bytes = static_cast<size_t>(Vp) * sizeof(X);
    bool fits = row_bytes + 256 <= static_cast<size_t>(device().max_shared_bytes);  // 256: maxima and sums
    p.versions = {
        {1, "softmax, loss and gradient, one after the other",
         [=](cudaStream_t s) {
             launch(softmax_kernel<X>, ceil_div(N, block), block, 0, s, probabilities, x, N, V, Vp);
             launch(loss_kernel, ceil_div(N, block), block, 0, s, dlosses, probabilities, dtargets, N, V);
             launch(gradient_kernel<X>, ceil_div(n, block), block, 0, s, x, probabilities, dtargets, dweights, dstate,
                    N, V, Vp);
         }},
        {2, "a block per row, all in one kernel", run(block_per_row_kernel<X>, 0)},
        {3, "online softmax", run(online_kernel<X>, 0)},
        {4, "16 bytes at a time, the second visit backwards", packed},
        {5, "the row in shared memory",
         fits ? run(packs ? shared_kernel<pack, X> : shared_kernel<1, X>, row_bytes) : packed},
        {6, "llmc/cuda/classifier.cuh",
         [=](cudaStream_t s) { fused_classifier(x, dlosses, dtargets, dweights, dstate, N, V, Vp, true, s); }},
    };
    return p;
}

}  // namespace classifier_page

#ifndef ZOO_PAGES
int main(int argc, char** argv) {
    namespace layer = classifier_page;
    return zoo::run(argc, argv, "classifier", layer::sizes, layer::page<float>, layer::page<bf16>);
}
#endif
