// In attention_cudnn.cpp's place in a program that was built without cuDNN.
#include "llmc/base/check.h"
#include "llmc/cuda/attention_cudnn.h"

std::string attention_cudnn_missing() {
    return "this program was built without it: its headers, and those of pip's nvidia-cudnn-frontend, were missing, or "
           "USE_CUDNN=0 was given to make";
}
std::string attention_cudnn_version() { return ""; }
bool attention_cudnn_supports(const AttentionShape&, bool) { return false; }
size_t attention_cudnn_workspace_bytes(const AttentionShape&, bool) { return 0; }
void attention_forward_cudnn(bf16*, float*, const bf16*, const bf16*, const bf16*, const AttentionShape&, void*,
                             cudaStream_t) {
    CHECK(false, "there is no cuDNN");
}
void attention_backward_cudnn(bf16*, bf16*, bf16*, const bf16*, const bf16*, const bf16*, const bf16*, const bf16*,
                              const float*, const AttentionShape&, void*, cudaStream_t) {
    CHECK(false, "there is no cuDNN");
}
