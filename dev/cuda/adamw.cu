// AdamW over all parameters of a model.                                         (the maths and the layer:
// llmc/cuda/optimizer.cuh)
//
//   g = grad * clip_scale;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p = p - lr * (m / beta1_correction / (sqrt(v / beta2_correction) + eps) + weight_decay * p)
//
// For each parameter five tensors are visited once: m, v and the fp32 parameter read and written, the gradient read, in
// bf16 the storage type written: 28 bytes (fp32) or 30 (bf16). In the time that these take, a GPU could execute 250
// instructions; square root and division, some ten each, are not worth a thought. Nor is there any data to reuse. The
// page is about how work reaches the GPU.
//
// A model is many tensors: here those of `layers` transformer blocks of width C, twelve each: of 4C^2 elements as well
// as of C, some with weight decay and some without. They lie in one arena, each on a boundary of 64 elements.
#include "dev/cuda/zoo.cuh"

namespace adamw_page {

// The tensors of the optimizer. master is the fp32 parameter; p is its copy in the storage type, or null in fp32.
template <typename X>
struct Arena {
    X* p;
    float *master, *m, *v;
    const float* grad;
};

// ---- 1: a launch per tensor, a thread per element ------------------------------------------------------------------
// What changes from step to step (learning rate, corrections, clip_scale) is read through a pointer to device memory
// and not passed as an argument: a CUDA graph repeats its launches with the same arguments. All threads read the same
// address, which costs one access per warp, from the L1 cache.
__device__ inline void update_element(float* p, float* m, float* v, float grad, float weight_decay,
                                      const OptimizerOptions& options, const StepState& state) {
    float g = grad * state.clip_scale;
    *m = options.beta1 * *m + (1.0f - options.beta1) * g;
    *v = options.beta2 * *v + (1.0f - options.beta2) * g * g;
    float step = *m / state.beta1_correction / (sqrtf(*v / state.beta2_correction) + options.epsilon);
    *p -= state.learning_rate * (step + weight_decay * *p);
}

template <typename X>
__device__ void update_alone(Arena<X> a, int64_t i, float weight_decay, const OptimizerOptions& options,
                             const StepState& state) {
    update_element(&a.master[i], &a.m[i], &a.v[i], a.grad[i], weight_decay, options, state);
    if (a.p) a.p[i] = X(a.master[i]);
}

template <typename X>
__global__ void naive_kernel(Arena<X> arena, OptimizerSegment segment, OptimizerOptions options,
                             const StepState* state) {
    int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (i < segment.n && !state->skip) update_alone(arena, segment.begin + i, segment.weight_decay, options, *state);
}

// ---- 2: 16 bytes at a time -----------------------------------------------------------------------------------------
// Four elements a thread: four loads and three stores of 16 bytes (8 for bf16's p) instead of sixteen and twelve of 4.
// The four loads are independent of each other, so a warp has 2 KiB under way before it waits for the first time; this
// kernel needs no more than a third of the threads that a multiprocessor can hold to keep memory busy.
template <typename X>
__device__ void update_four(Arena<X> a, int64_t i, int64_t end, float weight_decay, const OptimizerOptions& options,
                            const StepState& state) {
    if (i + 4 > end) {  // the rest of a tensor
        for (; i < end; i++) update_alone(a, i, weight_decay, options, state);
        return;
    }
    float p[4], m[4], v[4], grad[4];
    load_pack(p, a.master + i), load_pack(m, a.m + i), load_pack(v, a.v + i), load_pack(grad, a.grad + i);
#pragma unroll
    for (int j = 0; j < 4; j++) update_element(&p[j], &m[j], &v[j], grad[j], weight_decay, options, state);
    store_pack(a.master + i, p), store_pack(a.m + i, m), store_pack(a.v + i, v);
    if constexpr (sizeof(X) == 2)
        *reinterpret_cast<uint2*>(a.p + i) = uint2{ptx::pack_bf16x2(p[0], p[1]), ptx::pack_bf16x2(p[2], p[3])};
}

template <typename X>
__global__ void packed_kernel(Arena<X> arena, OptimizerSegment segment, OptimizerOptions options,
                              const StepState* state) {
    int64_t i = 4 * (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x);
    if (i < segment.n && !state->skip)
        update_four(arena, segment.begin + i, segment.begin + segment.n, segment.weight_decay, options, *state);
}

// ---- 3: one launch for all tensors ---------------------------------------------------------------------------------
// GPT-2 has 148 tensors. A kernel takes some microseconds to begin and to end, in which the GPU is not full: its first
// blocks have nothing loaded, its last ones finish at different times, and the next kernel of the stream does not start
// before. For a bias of 768 elements, three quarters of one block, that is all there is: 132 multiprocessors wait for
// one. So the whole arena is one grid, and a thread looks up which tensor its elements are in, by halving, in a table
// in device memory: eight steps for 148 tensors, in loads that the L1 cache answers, and hidden behind other warps'
// memory.
//
// Tensors begin on boundaries of 64 elements, so four elements on a boundary of four are never of two tensors. Elements
// between tensors are left alone.
template <typename X>
__global__ void arena_kernel(Arena<X> arena, const OptimizerSegment* segments, int count, int64_t end,
                             OptimizerOptions options, const StepState* state) {
    int64_t i = 4 * (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x);
    if (i >= end || state->skip) return;
    int low = 0, high = count;  // segments[low].begin <= i < segments[high].begin
    while (high - low > 1) {
        int middle = (low + high) / 2;
        (segments[middle].begin <= i ? low : high) = middle;
    }
    const OptimizerSegment& segment = segments[low];
    if (i < segment.begin + segment.n)
        update_four(arena, i, segment.begin + segment.n, segment.weight_decay, options, *state);
}

// ---- 4: llmc/cuda/optimizer.cuh ---------------------------------------------------------------------------------------------
// Version 3, but a thread asks for its elements before it looks up their tensor, so that the search takes place while
// they are on their way; and with streaming hints, since nobody reads any of this again before the next step. It also
// rounds stochastically where the options say so, and works on a piece of the arena, for optimizers that are spread
// over GPUs.

// ---- the page ------------------------------------------------------------------------------------------------------

inline const zoo::Sizes sizes = {"layers C", {12, 768}, {{1, 1}, {2, 5}, {1, 17}}};

template <typename X>
zoo::Page page(const zoo::Setup& setup) {
    int layers = setup.size[0], C = setup.size[1], block = setup.block;
    std::vector<OptimizerSegment> segments;
    int64_t n = 0, parameters = 0;  // of the arena, and without the gaps in it
    for (int l = 0; l < layers; l++)
        for (int rows : {1, 1, 3 * C, 3, C, 1, 1, 1, 4 * C, 4, 4 * C, 1}) {  // norm, qkv, projection, norm, MLP
            int64_t size = static_cast<int64_t>(rows) * C;
            segments.push_back({n, size, 0, rows >= C ? 0.1f : 0.0f});
            n = (n + size + 63) / 64 * 64, parameters += size;
        }
    OptimizerOptions options{0.9f, 0.95f, 1e-8f};
    StepState state;
    state.step = 9, state.learning_rate = 1e-2f, state.clip_scale = 0.5f;
    state.beta1_correction = 1 - std::pow(options.beta1, 10.0f);
    state.beta2_correction = 1 - std::pow(options.beta2, 10.0f);

    std::vector<float> master = zoo::random<float>(n, 1), m = zoo::random<float>(n, 2, 0.1f), v = m,
                       grad = zoo::random<float>(n, 3);
    const auto moment = [](float* x, bool sign) { return Moment{reinterpret_cast<char*>(x), nullptr, sign}; };
    for (float& x : v) x *= x;
    std::vector<X> p(n);
    for (int64_t i = 0; i < n; i++) p[i] = X(master[i]);
    constexpr bool is_bf16 = sizeof(X) == 2;
    zoo::Page page;
    page.bytes = (is_bf16 ? 30.0 : 28.0) * static_cast<double>(parameters);
    std::vector<float> new_master = master, new_m = m, new_v = v;
    std::vector<X> new_p = p;
    int count = static_cast<int>(segments.size());
    if (setup.reference)
        optimizer_update<X>({new_p.data(), is_bf16 ? new_master.data() : nullptr, moment(new_m.data(), true),
                             moment(new_v.data(), false), grad.data()},
                            segments.data(), count, 0, n, options, &state);
    X* dp = page.output("p", new_p, p);
    float *dmaster = is_bf16 ? page.output("master", new_master, master) : nullptr, *dm = page.output("m", new_m, m),
          *dv = page.output("v", new_v, v);
    const float* dgrad = page.input(grad);
    const OptimizerSegment* dsegments = page.input(segments);
    const StepState* dstate = page.input(std::vector<StepState>{state});

    Arena<X> arena{nullptr, dmaster, dm, dv, dgrad};
    if constexpr (is_bf16) arena.p = dp;
    else arena.master = dp;
    auto per_tensor = [=](void (*kernel)(Arena<X>, OptimizerSegment, OptimizerOptions, const StepState*),
                          int elements) {
        return [=](cudaStream_t stream) {
            for (const OptimizerSegment& segment : segments)
                launch(kernel, ceil_div(segment.n, block * elements), block, 0, stream, arena, segment, options,
                       dstate);
        };
    };
    page.versions = {
        {1, "a launch per tensor, a thread per element", per_tensor(naive_kernel<X>, 1)},
        {2, "16 bytes at a time", per_tensor(packed_kernel<X>, 4)},
        {3, "one launch for all tensors",
         [=](cudaStream_t s) {
             launch(arena_kernel<X>, ceil_div(n, block * 4), block, 0, s, arena, dsegments, count, n, options, dstate);
         }},
        {4, "llmc/cuda/optimizer.cuh",
         [=](cudaStream_t s) {
             optimizer_update<X>({dp, dmaster, moment(dm, true), moment(dv, false), const_cast<float*>(dgrad)},
                                 dsegments, count, 0, n, options, dstate, s);
         }},
    };
    return page;
}

}  // namespace adamw_page

#ifndef ZOO_PAGES
int main(int argc, char** argv) {
    return zoo::run(argc, argv, "adamw", adamw_page::sizes, adamw_page::page<float>, adamw_page::page<bf16>);
}
#endif
