// Attention by NVIDIA's library cuDNN: built in where the headers are there (USE_CUDNN=0: not), opened when first needed.
// attention_no_cudnn.cpp stands in its place otherwise, test/cudahost/cudnn.cpp in the tests on the CPU.
//
// The mathematics of attention.cuh: causal; lse (B,NH,Tq) = log sum exp, so that forward by one and backward by the
// other fit together. The order of sums in the backward pass is fixed. Only bf16, Tq = Tk, no dropout, no document
// boundaries (doc_start), and the head sizes that this GPU and this version of the library offer.
#pragma once
#include <cuda_runtime_api.h>
#include <cstddef>
#include <string>
#include "llmc/base/bf16.h"
#include "llmc/model/arguments.h"

// Why there is none here, in words; "": it is open. Its version, "9.13.0".
std::string attention_cudnn_missing();
std::string attention_cudnn_version();

// Whether the library computes this shape, forward or (backward = true) both ways. A matter of shape, GPU and library
// alone. The order of its sums is fixed: what cannot be computed so is not supported. Error if there is no library.
bool attention_cudnn_supports(const AttentionShape& shape, bool backward);
size_t attention_cudnn_workspace_bytes(const AttentionShape& shape, bool backward);

// For shapes that are supported. workspace: as many bytes as above, on a 256-byte boundary.
void attention_forward_cudnn(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v,
                             const AttentionShape& shape, void* workspace, cudaStream_t stream);
void attention_backward_cudnn(bf16* dq, bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k,
                              const bf16* v, const bf16* out, const float* lse, const AttentionShape& shape,
                              void* workspace, cudaStream_t stream);
