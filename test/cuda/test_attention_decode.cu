// Attention to a cache of keys and values on the GPU against the CPU's attention, whose keys end with the length.
#include "test/cuda/device_test.h"

#include <limits>

namespace {

template <typename X>
struct AttentionDecode : ::testing::Test {};
TYPED_TEST_SUITE(AttentionDecode, StorageTypes);

// What the cache holds beyond its length must not matter.
template <typename X>
const X nobody_reads = X(std::numeric_limits<float>::quiet_NaN());

template <typename X>
constexpr double tolerance = std::is_same_v<X, bf16> ? 4e-3 : 2e-6;

TYPED_TEST(AttentionDecode, EqualsCpu) {
    using X = TypeParam;
    struct Sizes {
        int B, Tq, length, capacity, NH, NKV, HS, gap;
    };
    // gap: rows are further apart than they need be, by odd numbers too
    const Sizes cases[] = {{1, 1, 1, 1, 1, 1, 64, 0},   {1, 1, 65, 300, 3, 3, 64, 0},
                           {2, 3, 70, 70, 4, 2, 24, 8}, {1, 1, 129, 130, 4, 1, 128, 0},
                           {2, 1, 50, 100, 2, 2, 7, 1}, {1, 70, 130, 150, 2, 1, 16, 0},
                           {3, 5, 5, 64, 1, 1, 256, 0}, {1, 9, 190, 200, 2, 2, 33, 3},
                           {5, 2, 63, 65, 6, 2, 8, 0},  {1, 128, 161, 161, 2, 2, 16, 16}};
    for (auto [B, Tq, length, capacity, NH, NKV, HS, gap] : cases) {
        SCOPED_TRACE(::testing::Message() << "B=" << B << " Tq=" << Tq << " length=" << length << " NH=" << NH
                                          << " NKV=" << NKV << " HS=" << HS << " capacity=" << capacity);
        int64_t q_row = NH * HS + 3 * gap, kv_row = NKV * HS + gap, out_row = NH * HS + gap;
        AttentionShape s{B,
                         Tq,
                         length,
                         NH,
                         NKV,
                         HS,
                         q_row,
                         kv_row,
                         out_row,
                         Tq * q_row + gap,
                         capacity * kv_row + gap,
                         Tq * out_row + gap,
                         HS == 64 ? 1.0f : 1.7f};
        auto q = random_vector<X>(size_t(B * s.q_batch), 1, 2), k = random_vector<X>(size_t(B * s.kv_batch), 2),
             v = random_vector<X>(size_t(B * s.kv_batch), 3), blank = random_vector<X>(size_t(B * s.out_batch), 4);
        for (int b = 0; b < B; b++)
            for (int64_t e = length * kv_row; e < s.kv_batch; e++)
                k[size_t(b * s.kv_batch + e)] = v[size_t(b * s.kv_batch + e)] = nobody_reads<X>;
        std::vector<X> want = blank;
        attention_forward(want.data(), static_cast<float*>(nullptr), q.data(), k.data(), v.data(), s, nullptr,
                          Dropout{});
        s.Tk = capacity;
        for_each_schedule([&] {
            reserve_workspace(attention_decode_workspace_bytes(s));
            DeviceVector<X> d_q(q), d_k(k), d_v(v), out(blank);
            DeviceVector<int> d_length(std::vector<int>{length});
            attention_decode(out.get(), d_q.get(), d_k.get(), d_v.get(), s, d_length.get(), current_stream());
            EXPECT_LT(relative_error(out.host(), want), tolerance<X>);
        });
    }
}

// A text in pieces, as a model is given a prompt and then samples: append, attend. C = 40: packs; C = 15: odd rows.
TYPED_TEST(AttentionDecode, PieceByPiece) {
    using X = TypeParam;
    for (auto [C, NH] : {std::pair{40, 5}, std::pair{15, 3}}) {
        const int capacity = 100, pieces[] = {37, 1, 1, 20, 2, 1}, HS = C / NH, total = 62;
        auto qkv = random_vector<X>(size_t(total) * 3 * C, 5);
        std::vector<X> want(size_t(total) * C);  // all at once
        attention_forward(want.data(), static_cast<float*>(nullptr), qkv.data(), qkv.data() + C, qkv.data() + 2 * C,
                          packed_qkv_shape(1, total, C, NH), nullptr, Dropout{});
        for_each_schedule([&] {
            DeviceVector<X> k(size_t(capacity) * C), v(size_t(capacity) * C);
            DeviceVector<int> d_length(1);
            std::vector<X> got;
            int length = 0;
            for (int T : pieces) {
                AttentionShape s{1, T, capacity, NH, NH, HS, 3 * C, C, C, 0, 0, 0};
                reserve_workspace(attention_decode_workspace_bytes(s));
                auto begin = qkv.begin() + length * 3 * C;
                DeviceVector<X> piece(std::vector<X>(begin, begin + T * 3 * C)), out(size_t(T) * C);
                d_length.set({length += T});
                append_to_cache(k.get(), v.get(), piece.get(), T, C, d_length.get(), current_stream());
                attention_decode(out.get(), piece.get(), k.get(), v.get(), s, d_length.get(), current_stream());
                auto part = out.host();
                got.insert(got.end(), part.begin(), part.end());
            }
            EXPECT_EQ(length, total);
            EXPECT_LT(relative_error(got, want), tolerance<X>);
        });
    }
}

// The workspace for Tq queries is enough for fewer, which are split over more blocks.
TEST(AttentionDecodeWorkspace, ServesFewerQueries) {
    for (int Tq = 1; Tq <= 128; Tq++) {
        AttentionShape s{1, Tq, 1024, 12, 12, 64, 3 * 768, 768, 768, 0, 0, 0}, most = s;
        most.Tq = 128;
        EXPECT_LE(attention_decode_workspace_bytes(s), attention_decode_workspace_bytes(most)) << Tq;
    }
}

// One captured graph serves every length.
TYPED_TEST(AttentionDecode, OneGraphForAllLengths) {
    using X = TypeParam;
    const int C = 32, NH = 2, capacity = 140;
    AttentionShape s{1, 1, capacity, NH, NH, C / NH, 3 * C, C, C, 0, 0, 0};
    auto qkv = random_vector<X>(size_t(capacity) * 3 * C, 5);
    std::vector<X> want(size_t(capacity) * C);
    attention_forward(want.data(), static_cast<float*>(nullptr), qkv.data(), qkv.data() + C, qkv.data() + 2 * C,
                      packed_qkv_shape(1, capacity, C, NH), nullptr, Dropout{});
    std::vector<X> keys, values;
    for (int t = 0; t < capacity; t++) {
        auto row = qkv.begin() + t * 3 * C;
        keys.insert(keys.end(), row + C, row + 2 * C), values.insert(values.end(), row + 2 * C, row + 3 * C);
    }
    for_each_schedule([&] {
        reserve_workspace(attention_decode_workspace_bytes(s));
        DeviceVector<X> k(keys), v(values), token(3 * C), out(C);
        DeviceVector<int> length(1);
        cudaGraph_t graph;
        cudaGraphExec_t replay;
        CUDA_CHECK(cudaStreamBeginCapture(current_stream(), cudaStreamCaptureModeThreadLocal));
        append_to_cache(k.get(), v.get(), token.get(), 1, C, length.get(), current_stream());
        attention_decode(out.get(), token.get(), k.get(), v.get(), s, length.get(), current_stream());
        CUDA_CHECK(cudaStreamEndCapture(current_stream(), &graph));
        CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
        for (int t : {139, 0, 63, 64, 1, 65, 127, 128}) {
            token.set({qkv.begin() + t * 3 * C, qkv.begin() + (t + 1) * 3 * C});
            length.set({t + 1});
            CUDA_CHECK(cudaGraphLaunch(replay, current_stream()));
            EXPECT_LT(relative_error(out.host(), std::vector<X>(&want[size_t(t) * C], &want[size_t(t) * C] + C)),
                      tolerance<X>)
                << t;
        }
        CUDA_CHECK(cudaGraphExecDestroy(replay));
        CUDA_CHECK(cudaGraphDestroy(graph));
    });
}

}  // namespace
