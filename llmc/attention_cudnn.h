// Attention by NVIDIA's library cuDNN: built in with USE_CUDNN=1, opened when first needed.
//
// The mathematics of attention.cuh: causal; lse (B,NH,Tq) = log sum exp, so that forward by one and backward by the
// other fit together. The order of sums in the backward pass is fixed. Only bf16, Tq = Tk, no dropout, no document
// boundaries, and the head sizes that this GPU and this version of the library offer: the functions return false where
// they have done nothing, and the caller takes its own kernel. What they return depends on shape, GPU and library
// alone.
#pragma once
#include <cuda_runtime_api.h>
#include <cstddef>
#include "llmc/layer_arguments.h"
#include "llmc/step_state.h"
#include "llmc/bf16.h"

bool attention_forward_cudnn(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v,
                             const AttentionShape& shape, const int* doc_start, Dropout dropout, cudaStream_t stream);
bool attention_backward_cudnn(bf16* dq, bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k,
                              const bf16* v, const bf16* out, const float* lse, const AttentionShape& shape,
                              const int* doc_start, Dropout dropout, cudaStream_t stream);

// What the two take of the workspace (cuda_common.cuh); asks the library.
size_t attention_cudnn_workspace_bytes(const AttentionShape& shape, bool backward);
