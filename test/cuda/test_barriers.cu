// Deleting any barrier from a kernel that needs it makes a test fail: each __syncthreads() and __syncwarp() of
// layernorm backward, attention forward and the own matrix product does nothing once, and then some schedule must give
// a wrong answer.
#include "test/cuda/device_test.h"
#ifdef CUDAHOST
#include <set>

namespace {

// The first of the eight schedules that shows that something is wrong, by its results or by an exception; 0: none.
template <typename IsRight>
int first_schedule_that_fails(IsRight is_right) {
    for (int seed = 1; seed <= 8; seed++) {
        cudahost::set_seed(static_cast<uint64_t>(seed));
        try {
            if (!is_right()) return seed;
            cudahost::check();
        } catch (const cudahost::Bug&) {
            return seed;
        }
    }
    return 0;
}

// is_right() in all schedules as the kernels are, and in some schedule not, whichever barrier is left out.
template <typename IsRight>
void expect_all_barriers_needed(IsRight is_right, size_t at_least) {
    std::set<cudahost::Barrier> barriers;
    int failed = first_schedule_that_fails([&] {
        bool right = is_right();
        for (const auto& b : cudahost::barriers_seen()) barriers.insert(b);
        return right;
    });
    ASSERT_EQ(failed, 0) << "schedule " << failed << ", with all barriers";
    EXPECT_GE(barriers.size(), at_least);
    for (const auto& b : barriers) {
        cudahost::skip_barrier(b.file, b.line);
        int noticed = first_schedule_that_fails(is_right);
        cudahost::skip_barrier("", 0);
        printf("%s:%d: %s\n", b.file.c_str(), b.line, noticed ? "needed" : "not shown to be needed");
        // a __syncwarp may be there for the next caller of a function, or for a warp that is less in step than ldmatrix
        // makes it here
        if (!b.of_warp) EXPECT_GT(noticed, 0) << b.file << ":" << b.line << ": nothing shows that this is needed";
    }
}

// Each of these computes the CPU layer's answer once, and gives a function that runs the kernel and compares.
using IsRight = std::function<bool()>;

template <typename X>
IsRight layernorm_backward_is_right(int N, int C) {
    size_t n = size_t(N) * size_t(C);
    auto dy = random_vector<X>(n, 1), x = random_vector<X>(n, 2), w = random_vector<X>(size_t(C), 3),
         dx = random_vector<X>(n, 4), y = x, want = dx;
    std::vector<float> mean(N), rstd(N), dw(C), db(C), zero(C);
    layernorm_forward(y.data(), mean.data(), rstd.data(), x.data(), w.data(), w.data(), N, C, 1e-5f);
    layernorm_backward(want.data(), dw.data(), db.data(), dy.data(), x.data(), w.data(), mean.data(), rstd.data(), N,
                       C);
    return [=] {
        DeviceVector<X> d_dx(dx), d_dy(dy), d_x(x), d_w(w);
        DeviceVector<float> d_dw(zero), d_db(zero), d_mean(mean), d_rstd(rstd);
        reserve_workspace(layernorm_backward_workspace_bytes(N, C, device().multiprocessors));
        layernorm_backward(d_dx.get(), d_dw.get(), d_db.get(), d_dy.get(), d_x.get(), d_w.get(), d_mean.get(),
                           d_rstd.get(), N, C, nullptr, current_stream());
        return relative_error(d_dx.host(), want) < 2 * rounding<X> && relative_error(d_dw.host(), dw) < 1e-5 &&
               relative_error(d_db.host(), db) < 1e-5;
    };
}

TEST(Barriers, OfLayernormBackwardAreNeeded) {
    auto a = layernorm_backward_is_right<bf16>(37, 256), b = layernorm_backward_is_right<float>(50, 77);
    expect_all_barriers_needed([=] { return a() && b(); }, 2);
}

template <typename X>
IsRight attention_is_right(int B, int T, int NH, int HS, bool backward) {
    AttentionShape s = packed_qkv_shape(B, T, NH * HS, NH);
    size_t C = size_t(NH * HS), rows = size_t(B) * size_t(T);
    auto qkv = random_vector<X>(rows * 3 * C, 1), dqkv = qkv, out = random_vector<X>(rows * C, 2), dout = out;
    std::vector<float> lse(rows * size_t(NH));
    attention_forward(out.data(), lse.data(), qkv.data(), qkv.data() + C, qkv.data() + 2 * C, s, nullptr, Dropout{});
    attention_backward(dqkv.data(), dqkv.data() + C, dqkv.data() + 2 * C, dout.data(), qkv.data(), qkv.data() + C,
                       qkv.data() + 2 * C, out.data(), lse.data(), s, nullptr, Dropout{});
    return [=] {
        const double tolerance = sizeof(X) == 2 ? 1e-2 : 1e-5;
        DeviceVector<X> d_qkv(qkv);
        if (!backward) {
            DeviceVector<X> d_out(out.size());
            DeviceVector<float> d_lse(lse.size());
            reserve_workspace(attention_forward_workspace_bytes(s));
            attention_forward(d_out.get(), d_lse.get(), d_qkv.get(), d_qkv.get() + C, d_qkv.get() + 2 * C, s, nullptr,
                              Dropout{}, current_stream());
            return relative_error(d_out.host(), out) < tolerance && relative_error(d_lse.host(), lse) < 1e-5;
        }
        DeviceVector<X> d_dqkv(dqkv.size()), d_dout(dout), d_out(out);
        DeviceVector<float> d_lse(lse);
        reserve_workspace(attention_backward_workspace_bytes(s));
        DeviceVector<float> parts(size_t(attention_sum_parts(s) * 3 * C));
        ColumnSums<X> sums{parts.get()};
        attention_backward(d_dqkv.get(), d_dqkv.get() + C, d_dqkv.get() + 2 * C, d_dout.get(), d_qkv.get(),
                           d_qkv.get() + C, d_qkv.get() + 2 * C, d_out.get(), d_lse.get(), s, nullptr, Dropout{}, &sums,
                           current_stream());
        if (!(relative_error(d_dqkv.host(), dqkv) < tolerance)) return false;
        if (sizeof(X) == 4) return true;
        std::vector<float> dbias(size_t(3 * C), 1);
        bias_backward(dbias.data(), d_dqkv.host().data(), B * T, 3 * C);
        return relative_error(bias_gradient_by(sums, sums.of, B * T, 3 * C), dbias) < 1e-5;
    };
}

TEST(Barriers, OfAttentionForwardAreNeeded) {
    expect_all_barriers_needed(attention_is_right<bf16>(1, 300, 2, 64, false), 1);
    expect_all_barriers_needed(attention_is_right<float>(1, 200, 2, 64, false), 3);
}
TEST(Barriers, OfAttentionBackwardAreNeeded) {
    auto kept = attention_is_right<bf16>(1, 300, 2, 64, true),
         read_anew = attention_is_right<bf16>(1, 70, 1, 256, true);
    expect_all_barriers_needed([=] { return kept() && read_anew(); }, 4);
    expect_all_barriers_needed(attention_is_right<float>(1, 200, 2, 64, true), 2);
}

template <typename X>
IsRight matmul_is_right(int M, int N, int K, bool a_transposed, bool b_transposed) {
    auto a = random_vector<X>(size_t(M) * size_t(K), 1), b = random_vector<X>(size_t(K) * size_t(N), 2);
    std::vector<X> want(size_t(M) * size_t(N));
    auto args = [=](X* out, const X* pa, const X* pb) {
        Matmul<X> m{.out = out, .a = pa, .b = pb, .M = M, .N = N, .K = K};
        m.a_transposed = a_transposed, m.b_transposed = b_transposed;
        return m;
    };
    matmul(args(want.data(), a.data(), b.data()));
    return [=] {
        DeviceVector<X> d_a(a), d_b(b), out(want.size());
        reserve_workspace(4 << 20);
        matmul_own(args(out.get(), d_a.get(), d_b.get()), current_stream());
        return relative_error(out.host(), want) < (sizeof(X) == 2 ? 4e-3 : 1e-5);
    };
}

TEST(Barriers, OfTheOwnMatmulAreNeeded) {
    // more tiles and parts of K than blocks: a block goes from one to the next
    auto a = matmul_is_right<bf16>(264, 520, 264, false, true), b = matmul_is_right<bf16>(264, 264, 136, true, false);
    expect_all_barriers_needed([=] { return a() && b(); }, 3);
    expect_all_barriers_needed(matmul_is_right<float>(150, 260, 70, false, true), 1);
    reserve_workspace(1);
}

}  // namespace

#endif
