// Attention to a cache of keys and values on the GPU against the CPU's attention, whose keys end with the length.
#include "llmc/plain/step.h"
#include "test/cuda/device_test.h"
#include "llmc/plain/step.h"

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

// B texts with lengths of their own, in some of the places that a cache has.
TYPED_TEST(AttentionDecode, EqualsCpu) {
    using X = TypeParam;
    struct Sizes {
        int B, Tq, length, capacity, NH, NKV, HS, gap;
    };
    // length: of the first text, the others have a few keys less each. gap: rows are further apart than they need be, by
    // odd numbers too
    const Sizes cases[] = {{1, 1, 1, 1, 1, 1, 64, 0},    {1, 1, 65, 300, 3, 3, 64, 0},
                           {2, 3, 70, 70, 4, 2, 24, 8},  {1, 1, 129, 130, 4, 1, 128, 0},
                           {2, 1, 50, 100, 2, 2, 7, 1},  {1, 70, 130, 150, 2, 1, 16, 0},
                           {3, 5, 15, 64, 1, 1, 256, 0}, {1, 9, 190, 200, 2, 2, 33, 3},
                           {5, 2, 63, 65, 6, 2, 8, 0},   {1, 128, 161, 161, 2, 2, 16, 16}};
    for (auto [B, Tq, length, capacity, NH, NKV, HS, gap] : cases) {
        SCOPED_TRACE(::testing::Message() << "B=" << B << " Tq=" << Tq << " length=" << length << " NH=" << NH
                                          << " NKV=" << NKV << " HS=" << HS << " capacity=" << capacity);
        int64_t q_row = NH * HS + 3 * gap, kv_row = NKV * HS + gap, out_row = NH * HS + gap;
        AttentionShape s{B,
                         Tq,
                         capacity,
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
        const int places = B + 1;
        auto q = random_vector<X>(size_t(B * s.q_batch), 1, 2), k = random_vector<X>(size_t(places * s.kv_batch), 2),
             v = random_vector<X>(size_t(places * s.kv_batch), 3), blank = random_vector<X>(size_t(B * s.out_batch), 4);
        std::vector<X> want = blank;
        std::vector<int> texts, positions;
        for (int b = 0; b < B; b++) {
            AttentionShape one = s;
            one.B = 1, one.Tk = std::max(Tq, length - 5 * b);
            texts.push_back(B - b);  // nobody has place 0
            for (int t = 0; t < Tq; t++) positions.push_back(one.Tk - Tq + t);
            const int64_t kv = texts.back() * s.kv_batch;
            for (int64_t e = kv + one.Tk * kv_row; e < kv + s.kv_batch; e++)
                k[size_t(e)] = v[size_t(e)] = nobody_reads<X>;
            attention_forward(want.data() + b * s.out_batch, static_cast<float*>(nullptr), q.data() + b * s.q_batch,
                              k.data() + kv, v.data() + kv, one, nullptr, Dropout{});
        }
        for_each_schedule([&] {
            reserve_workspace(attention_decode_workspace_bytes(s));
            DeviceVector<X> d_q(q), d_k(k), d_v(v), out(blank);
            DeviceVector<int> d_texts(texts), d_positions(positions);
            attention_decode(out.get(), d_q.get(), d_k.get(), d_v.get(), s, d_texts.get(), d_positions.get(),
                             current_stream());
            EXPECT_LT(relative_error(out.host(), want), tolerance<X>);
        });
    }
}

TYPED_TEST(AttentionDecode, TakesTheLastRows) {
    using X = TypeParam;
    const int B = 3, T = 4, C = 300;
    auto x = random_vector<X>(size_t(B) * T * C, 1), want = random_vector<X>(size_t(5) * C, 2), blank = want;
    const std::vector<int> outputs{4, 0, 2};
    take_last_rows(want.data(), x.data(), outputs.data(), B, T, C, Plain{});
    for_each_schedule([&] {
        DeviceVector<X> d_x(x), last(blank);
        DeviceVector<int> d_outputs(outputs);
        take_last_rows(last.get(), d_x.get(), d_outputs.get(), B, T, C, current_stream());
        EXPECT_EQ(relative_error(last.host(), want), 0);
    });
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
            DeviceVector<X> k(size_t(2 * capacity) * C), v(size_t(2 * capacity) * C);
            DeviceVector<int> text(std::vector<int>{1});
            std::vector<X> got;
            int length = 0;
            for (int T : pieces) {
                AttentionShape s{1, T, capacity, NH, NH, HS, 3 * C, C, C, 0, C * capacity, 0};
                reserve_workspace(attention_decode_workspace_bytes(s));
                auto begin = qkv.begin() + length * 3 * C;
                DeviceVector<X> piece(std::vector<X>(begin, begin + T * 3 * C)), out(size_t(T) * C);
                std::vector<int> places;
                for (int t = 0; t < T; t++) places.push_back(length++);
                DeviceVector<int> positions(places);
                append_to_cache(k.get(), v.get(), piece.get(), 1, T, C, capacity, text.get(), positions.get(),
                                current_stream());
                attention_decode(out.get(), piece.get(), k.get(), v.get(), s, text.get(), positions.get(),
                                 current_stream());
                auto part = out.host();
                got.insert(got.end(), part.begin(), part.end());
            }
            EXPECT_EQ(length, total);
            EXPECT_LT(relative_error(got, want), tolerance<X>);
        });
    }
}

// The workspace for a text's 128 queries is enough for fewer, which are split over more blocks, for those of many texts,
// and for a smaller cache.
TEST(AttentionDecodeWorkspace, ServesFewerQueries) {
    const AttentionShape most{1, 128, 1024, 12, 12, 64, 3 * 768, 768, 768, 0, 0, 0};
    const size_t bytes = attention_decode_workspace_bytes(most);
    for (int Tq = 1; Tq <= 128; Tq++)
        for (int B = 1; B <= 128 / Tq; B++)
            for (int Tk : {64, 65, 640, 1000, 1024}) {
                AttentionShape s = most;
                s.B = B, s.Tq = Tq, s.Tk = Tk;
                const auto split = attention_decode_detail::split(s);
                EXPECT_LE(sizeof(float) * B * 12 * Tq * split.count * 66, bytes) << B << " " << Tq << " " << Tk;
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
        DeviceVector<int> text(std::vector<int>{0}), position(1);
        cudaGraph_t graph;
        cudaGraphExec_t replay;
        const auto decode = [&] {
            append_to_cache(k.get(), v.get(), token.get(), 1, 1, C, capacity, text.get(), position.get(),
                            current_stream());
            attention_decode(out.get(), token.get(), k.get(), v.get(), s, text.get(), position.get(), current_stream());
        };
        token.set({qkv.begin(), qkv.begin() + 3 * C}), position.set({0});
        decode();  // a kernel is loaded by its first launch, and that must not be in a capture
        CUDA_CHECK(cudaStreamSynchronize(current_stream()));
        CUDA_CHECK(cudaStreamBeginCapture(current_stream(), cudaStreamCaptureModeThreadLocal));
        decode();
        CUDA_CHECK(cudaStreamEndCapture(current_stream(), &graph));
        CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
        for (int t : {139, 0, 63, 64, 1, 65, 127, 128}) {
            token.set({qkv.begin() + t * 3 * C, qkv.begin() + (t + 1) * 3 * C});
            position.set({t});
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
