#include "llmc/cpu/step.h"
#include "llmc/plain/layers.h"
#include "llmc/gpt2.h"
#include "llmc/program.h"

struct PlainCpu : Cpu {
    using Stream = Plain;
    struct Work {
        template <typename Body>
        void run(Plain, Body body) {
            body();
        }
    };
    Plain stream() { return {}; }
};
// what is no layer is as on the CPU
inline void load_micro_batch(int* i, int* t, const int* si, const int* st, const StepState* s, int N, int T, Plain) { load_micro_batch(i, t, si, st, s, N, T, Host{}); }
inline void next_micro_batch(StepState* s, int B, Plain) { next_micro_batch(s, B, Host{}); }
inline void add_losses(Cpu::State* s, const float* l, int N, Plain) { add_losses(s, l, N, Host{}); }
inline void global_norm_squared(double* sum, const float* g, int64_t n, Plain) { global_norm_squared(sum, g, n, Host{}); }
inline void finish_gradients(Cpu::State* s, const double* n, float c, Plain) { finish_gradients(s, n, c, Host{}); }
inline void next_positions(int* p, int* l, int n, Plain) { next_positions(p, l, n, Host{}); }
inline void append_to_cache(float* k, float* v, const float* q, int T, int C, const int* l, Plain) { append_to_cache(k, v, q, T, C, l, Host{}); }
inline void attention_decode(float* out, const float* q, const float* k, const float* v, AttentionShape s, const int* length, Plain) {
    s.Tk = *length;
    attention_forward<float>(out, nullptr, q, k, v, s, nullptr, Dropout{}, Plain{});
}
inline void dropout_apply(float*, const float*, int, int64_t, Dropout, Plain) {}

template <typename X>
using GPT2 = GPT2On<float, PlainCpu>;
int main(int argc, char** argv) {
    return run_program<GPT2, float>(argc, argv, {"train_gpt2_plain", "L6:H6:C384:T256", "fp32", 16 * 256});
}
