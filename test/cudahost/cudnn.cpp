// cuDNN's attention on the CPU, as llmc/cuda/attention_cudnn.h has it: softmax and its gradient by the formulas of
// attention.cuh, in fp32, rounded to bf16 where the library writes.
//
// Environment: CUDAHOST_CUDNN=1: it is there; without it the library is missing, as it is on most machines. As the library
// documents, head sizes are multiples of 8, 128 at most; CUDAHOST_CUDNN=forward: no deterministic backward pass.
#include "llmc/cuda/attention_cudnn.h"
#include <cmath>
#include <cstdlib>
#include <vector>
#include "llmc/base/error.h"
#include "test/cudahost/heap.h"
#include "test/cudahost/streams.h"

namespace {

std::string there() {
    const char* value = getenv("CUDAHOST_CUDNN");
    return value ? value : "";
}

// What a head's row sees: its probabilities, with the offsets of q, k and v.
struct Row {
    int64_t q, out, lse;
    std::vector<int64_t> kv;
};
Row row_at(const AttentionShape& s, int b, int h, int i) {
    Row r{b * s.q_batch + i * s.q_row + h * s.HS,
          b * s.out_batch + i * s.out_row + h * s.HS,
          (int64_t(b) * s.NH + h) * s.Tq + i,
          {}};
    for (int j = 0; j <= i; j++) r.kv.push_back(b * s.kv_batch + j * s.kv_row + h * s.NKV / s.NH * s.HS);
    return r;
}
float dot(const bf16* a, const bf16* b, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += static_cast<float>(a[i]) * static_cast<float>(b[i]);
    return sum;
}
template <typename Body>
void for_each_row(const AttentionShape& s, Body body) {
    for (int b = 0; b < s.B; b++)
        for (int h = 0; h < s.NH; h++)
            for (int i = 0; i < s.Tq; i++) body(row_at(s, b, h, i), h);
}
float scale_of(const AttentionShape& s) { return 1 / (std::sqrt(static_cast<float>(s.HS)) * s.divisor); }
void write(bf16* to, float x) {
    *to = bf16(x);
    cudahost::note_written(reinterpret_cast<char*>(to), sizeof *to, true);
}

}  // namespace

std::string attention_cudnn_missing() {
    return there().empty() ? "cuDNN is missing (libcudnn.so.9); it comes from NVIDIA and with pip's nvidia-cudnn-cu13"
                           : "";
}
std::string attention_cudnn_version() { return "9.13.0"; }
bool attention_cudnn_supports(const AttentionShape& s, bool backward) {
    if (!attention_cudnn_missing().empty()) throw Error(attention_cudnn_missing());
    return s.Tq == s.Tk && s.HS % 8 == 0 && s.HS <= 128 && (!backward || there() != "forward");
}
size_t attention_cudnn_workspace_bytes(const AttentionShape& s, bool backward) {
    return backward ? sizeof(float) * s.B * s.NH * s.Tq : 0;  // of D
}

void attention_forward_cudnn(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v,
                             const AttentionShape& s, void*, cudaStream_t stream) {
    cudahost::enqueue(stream, [=] {
        for_each_row(s, [&](const Row& r, int) {
            std::vector<float> p;
            float most = -INFINITY, sum = 0;
            for (int64_t at : r.kv)
                p.push_back(scale_of(s) * dot(q + r.q, k + at, s.HS)), most = std::max(most, p.back());
            for (float& x : p) sum += x = std::exp(x - most);
            for (int c = 0; c < s.HS; c++) {
                float x = 0;
                for (size_t j = 0; j < p.size(); j++) x += p[j] / sum * static_cast<float>(v[r.kv[j] + c]);
                write(out + r.out + c, x);
            }
            lse[r.lse] = most + std::log(sum);
            cudahost::note_written(reinterpret_cast<char*>(lse + r.lse), sizeof(float), true);
        });
    });
}

void attention_backward_cudnn(bf16* dq, bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k,
                              const bf16* v, const bf16* out, const float* lse, const AttentionShape& s, void*,
                              cudaStream_t stream) {
    cudahost::enqueue(stream, [=] {
        std::vector<float> dk_sum(static_cast<size_t>(s.B * s.kv_batch)), dv_sum(dk_sum.size());
        for_each_row(s, [&](const Row& r, int) {
            std::vector<float> dq_sum(static_cast<size_t>(s.HS));
            const float d = dot(dout + r.out, out + r.out, s.HS);
            for (int64_t at : r.kv) {
                const float p = std::exp(scale_of(s) * dot(q + r.q, k + at, s.HS) - lse[r.lse]);
                const float ds = p * (dot(dout + r.out, v + at, s.HS) - d) * scale_of(s);
                for (int c = 0; c < s.HS; c++) {
                    const auto to = static_cast<size_t>(at + c);
                    dv_sum[to] += p * static_cast<float>(dout[r.out + c]);
                    dk_sum[to] += ds * static_cast<float>(q[r.q + c]);
                    dq_sum[static_cast<size_t>(c)] += ds * static_cast<float>(k[at + c]);
                }
            }
            for (int c = 0; c < s.HS; c++) write(dq + r.q + c, dq_sum[static_cast<size_t>(c)]);
        });
        for (int b = 0; b < s.B; b++)
            for (int j = 0; j < s.Tk; j++)
                for (int c = 0; c < s.NKV * s.HS; c++) {
                    const int64_t at = b * s.kv_batch + j * s.kv_row + c;
                    write(dk + at, dk_sum[static_cast<size_t>(at)]), write(dv + at, dv_sum[static_cast<size_t>(at)]);
                }
    });
}
