// Everything that changes from step to step, in one struct that the kernels read through a pointer (in device memory on
// a GPU, so that a captured graph can be replayed with new values).
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>
#include "llmc/base/host_device.h"
#include "llmc/model/adapter_config.h"
#include "llmc/model/moments.h"

constexpr int kStepSums = 5, kTextSum = 4;

struct StepState {
    uint64_t seed = 0;               // key of all random numbers
    uint32_t step = 0;               // 0-based index of this step
    uint32_t rank_first_sample = 0;  // index within the step, over all ranks, of this rank's first sample
    uint32_t first_sample = 0;       // index within the step, over all ranks, of row b = 0 of the micro-batch at hand
    int64_t first_token = 0;         // of that row, among this rank's tokens of the step
    float learning_rate = 0;
    float beta1_correction = 1;  // 1 - beta1^t, t = number of updates so far + 1
    float beta2_correction = 1;  // 1 - beta2^t
    float loss_normaliser = 1;   // 1 / (sum of the token weights of the whole step, all ranks)
    float skip_loss_above =
        1e30f;  // outlier thresholds, from the history of earlier steps: the update is skipped above
    float skip_norm_above = 1e30f;
    float last_norm = -1;  // clips instead of this step's norm (FuseUpdate::last_norm); below 0: it is not known
    // Written by the step itself:
    double sums[kStepSums] =
        {};                // of all tokens so far, of this rank and then of all: of losses; then what else an objective
                           // counts (llmc/objectives/); at kTextSum, of losses of the text beside it
    float loss = 0;        // mean loss of the whole step
    float grad_norm = 0;   // before clipping
    float clip_scale = 1;  // gradients are multiplied by this in the update: min(1, grad_clip / norm)
    int skip = 0;          // 1: no update was made (loss or norm above its threshold, or not finite)
};

// Once the losses of all ranks are added and the gradient's squared norm is known: the mean loss, the norm, the scale that
// clips the gradient, and whether the update is skipped. grad_clip 0: nothing is clipped. The norm may be that of a part of the
// gradient: what makes that part skip makes the whole skip.
HOST_DEVICE inline void finish_gradients(StepState& s, double norm_squared, float grad_clip) {
    s.loss = static_cast<float>(s.sums[0] * s.loss_normaliser);
    s.grad_norm = static_cast<float>(sqrt(norm_squared));
    const float norm = s.last_norm >= 0 ? s.last_norm : s.grad_norm;
    s.clip_scale = grad_clip > 0 && norm > grad_clip ? grad_clip / norm : 1.0f;
    // Written so that a NaN skips, too.
    s.skip = !(s.loss <= s.skip_loss_above && s.grad_norm <= s.skip_norm_above);
}

enum class Optimizer { adamw, muon, sgd, adagrad, adadelta };  // optimizer.h

// What of a model in training lies in page-locked host memory and comes to the device in turn (base/turns.h): the same bits.
struct Offload {
    bool optimizer = false, masters = false, gradients = false, activations = false, weights = false;
    bool any() const { return optimizer || masters || gradients || activations || weights; }
};

// When a tensor is updated: at the end of a step; or as soon as its gradient is complete, and its block's gradients need no place
// any longer. The clip scale is then that of the norm of the step before, or the whole backward pass runs twice, first for the norm.
enum class FuseUpdate { off, last_norm, two_passes };

// What a model is built for. The trainer fills it from the command line; it does not change during a run.
struct StepOptions {
    int B = 1, T = 1;        // largest micro-batch: B sequences of T tokens
    bool training = true;    // false: no gradients, no optimizer, one set of activations for all layers
    bool examples = false;   // batches have weights and doc_start (batch.h)
    bool labels = false;     // and labels and partners: the head is trained
    bool signals = false;    // and signals
    bool objective = false;  // training: what is minimised is followed (GPT2::follow)
    bool preferred = false;  // they are of pairs of which one text was preferred (score_loss)
    bool language = true;    // training: the language model's loss counts
    int recompute = 0;       // 0 none, 1 GELU, 2 GELU and layernorms, 3 the whole block
    float dropout = 0, grad_clip = 1;
    Optimizer optimizer = Optimizer::adamw;
    StateType state_type = StateType::fp32;
    float beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, momentum = 0.9f, weight_decay = 0.1f, l1 = 0;
    bool master_weights = true, stochastic_rounding = false;  // for bf16 only
    int rank = 0, world = 1, zero_stage = 0;                  // zero.h; 0 with one rank
    Offload offload;
    FuseUpdate fuse_update = FuseUpdate::off;  // otherwise a step has one micro-batch
    std::vector<AdapterConfig> adapters;  // room for these; training: the first one is trained, and the model is frozen
};

// One place in the network where dropout happens. An element is kept with probability 1 - p and scaled by 1 / (1 - p).
// The mask of element e of sample s = state->first_sample + b is philox(seed; e / 4, s, step, (Use::dropout << 24) |
// site)[e % 4] >= p: it depends neither on the micro-batch nor on the rank. e counts within the sample: t * C + c for
// (T,C) tensors, (h * T + query) * T + key for attention. Null state or p == 0: no dropout.
struct Dropout {
    float p = 0;
    uint32_t site = 0;  // one of the following
    const StepState* state = nullptr;
    HOST_DEVICE bool active() const { return state != nullptr && p > 0; }
};
// In block l of L, or outside of them.
inline int site_attention(int l) { return 4 * l; }  // of its probabilities
inline int site_attproj(int l) { return 4 * l + 1; }
inline int site_mlp(int l) { return 4 * l + 2; }
inline int site_embedding(int L) { return 4 * L; }
inline int site_adapter(int L, int l, Linear which) { return 4 * (L + 1 + l) + static_cast<int>(which); }
