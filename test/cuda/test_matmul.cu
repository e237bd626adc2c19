// Matrix products on the GPU against the CPU's: the program's own kernels, every tile, whatever the GPU; and the
// layers.
#include "llmc/cuda/matmul_own.cuh"
#include "test/cuda/device_test.h"

namespace {

struct Case {
    int M, N, K;
    int flags;  // 1: a_transposed, 2: b_transposed, 4: accumulate, 8: bias, 16: aux
    Epilogue epilogue = Epilogue::none;
    size_t shift = 0;  // moves all addresses off their boundaries

    Case with_shift() const {
        Case c = *this;
        c.shift = 1;
        return c;
    }
};

// product(args, stream) on the device must do what the CPU does, in every schedule the same bits.
template <typename X, typename O, typename Product>
void compare(const Case& c, Product product) {
    SCOPED_TRACE(::testing::Message() << "M " << c.M << " N " << c.N << " K " << c.K << " flags " << c.flags
                                      << " epilogue " << int(c.epilogue) << " shift " << c.shift << " sizes "
                                      << sizeof(X) << sizeof(O));
    size_t shift = c.shift, MN = size_t(c.M) * size_t(c.N), MK = size_t(c.M) * size_t(c.K),
           KN = size_t(c.K) * size_t(c.N);
    auto a = random_vector<X>(MK + shift, 1),
         b = random_vector<X>(KN + shift, 2, 1 / std::sqrt(std::max(1.0f, float(c.K)))),
         bias = random_vector<X>(size_t(c.N) + shift, 3), aux = random_vector<X>(MN + shift, 4);
    auto out = random_vector<O>(MN + shift, 5);
    auto args = [&](O* o, const X* pa, const X* pb, const X* pbias, X* paux) {
        Matmul<X, O> m{.out = o + shift, .a = pa + shift, .b = pb + shift, .M = c.M, .N = c.N, .K = c.K};
        m.a_transposed = c.flags & 1, m.b_transposed = c.flags & 2, m.accumulate = c.flags & 4;
        m.epilogue = c.epilogue;
        if (c.flags & 8) m.bias = pbias + shift;
        if (c.flags & 16) m.aux = paux + shift;
        return m;
    };
    auto want_out = out;
    auto want_aux = aux;
    matmul(args(want_out.data(), a.data(), b.data(), bias.data(), want_aux.data()));
    double tolerance = sizeof(O) == 4 ? 1e-5 : 1e-3;
    std::vector<O> first;
    for_each_schedule([&] {
        DeviceVector<X> da(a), db(b), dbias(bias), daux(aux);
        DeviceVector<O> dout(MN + shift);
        if (c.flags & 4 || shift) dout.set(out);
        product(args(dout.get(), da.get(), db.get(), dbias.get(), daux.get()), current_stream());
        auto got = dout.host();
        EXPECT_LT(relative_error(got, want_out), tolerance);
        if (c.flags & 16) EXPECT_LT(relative_error(daux.host(), want_aux), sizeof(X) == 4 ? 1e-5 : 1e-3);
        if (first.empty()) first = got;
        EXPECT_EQ(memcmp(got.data(), first.data(), got.size() * sizeof(O)), 0);
    });
}

// This size in all four transposes, each with another of the ways in which a product can end.
template <typename X, typename O, typename Product>
void compare_transposes(int M, int N, int K, Product product) {
    compare<X, O>({M, N, K, 0 + 8}, product);
    compare<X, O>({M, N, K, 1 + 4}, product);
    compare<X, O>({M, N, K, 2 + 8 + 16, Epilogue::gelu}, product);
    compare<X, O>({M, N, K, 3 + 16, Epilogue::gelu_backward}, product);
}
// All that may follow a product.
template <typename X, typename O, typename Product>
void compare_ends(int M, int N, int K, Product product) {
    for (int flags : {0, 4, 8, 12}) {
        compare<X, O>({M, N, K, flags + 2}, product);
        compare<X, O>({M, N, K, flags + 2, Epilogue::gelu}, product);
        compare<X, O>({M, N, K, flags + 2 + 16, Epilogue::gelu}, product);
        compare<X, O>({M, N, K, flags + 16, Epilogue::gelu_backward}, product);
    }
}

// The device with so many multiprocessors: fewer blocks than items, or more. The workspace is smaller than what the
// model would reserve, since each page costs time in the tests on the CPU.
struct Multiprocessors {
    int before = device().multiprocessors;
    Multiprocessors(int count) {
        device().multiprocessors = count;
        reserve_workspace(128 << 10);
    }
    ~Multiprocessors() { device().multiprocessors = before; }
};

template <typename Tile>
auto own_with(int splits) {
    return [splits](const auto& args, cudaStream_t stream) {
        constexpr bool plain = std::is_same_v<Tile, PlainTile>;
        if (!plain && args.a_transposed && args.b_transposed) return matmul_own(args, stream);  // has none but that
        matmul_own_with<Tile>(args, splits, stream);
    };
}

// ---- own kernels ----

TEST(MatmulOwn, Fp32) {
    Multiprocessors two(2);
    auto product = own_with<PlainTile>(1);
    for (int n : {1, 2, 5}) compare_transposes<float, float>(n, n + 1, n + 2, product);
    compare_transposes<float, float>(131, 70, 17, product);
    compare_transposes<float, float>(36, 136, 40, product);
    compare_ends<float, float>(9, 12, 20, product);
    compare_ends<float, float>(9, 13, 5, product);
    compare<float, float>({20, 24, 32, 2}, product);
    compare<float, float>(Case{20, 24, 32, 2 + 8}.with_shift(), product);
    compare_transposes<float, float>(12, 20, 100, own_with<PlainTile>(3));
    compare_transposes<float, float>(5, 7, 33, own_with<PlainTile>(3));
}

template <typename Tile>
void small_bf16() {
    auto product = own_with<Tile>(1);
    compare_transposes<bf16, bf16>(8, 16, 24, product);
    compare_transposes<bf16, bf16>(136, 72, 80, product);
    compare_transposes<bf16, float>(24, 136, 40, product);
    compare_transposes<bf16, float>(16, 8, 200, own_with<Tile>(3));
}

// Column sums of the result as it is stored, each time the same bits: several tiles, of which the last are not whole.
template <typename Tile>
void leaves_column_sums() {
    const int M = 270, N = 136, K = 40;
    const auto a = random_vector<bf16>(M * K, 1), b = random_vector<bf16>(K * N, 2),
               before = random_vector<bf16>(M * N, 3);
    std::vector<float> first;
    reserve_workspace(2 * M * N * sizeof(float));
    for_each_schedule([&] {
        DeviceVector<bf16> va(a), vb(b), aux(before), out(before.size());
        const size_t parts_there = size_t(ceil_div(M, Tile::BM)) * (Tile::BM / 64);
        DeviceVector<float> parts(parts_there * N);
        ColumnSums<bf16> sums{parts.get()};
        Matmul<bf16> args{.out = out.get(), .a = va.get(), .b = vb.get(), .M = M, .N = N, .K = K};
        args.epilogue = Epilogue::gelu_backward, args.aux = aux.get();
        matmul_own_with<Tile>(args, 1, current_stream(), &sums);
        auto again = sums;
        expect_column_sums(sums, out, M, N);
        const auto got = bias_gradient_by(again, static_cast<const bf16*>(out.get()), M, N);
        if (first.empty()) first = got;
        EXPECT_EQ(got, first);
        matmul_own_with<Tile>(args, 2, current_stream(), &sums);
        EXPECT_EQ(sums.of, nullptr) << "parts of K: they are added later";
    });
}

TEST(MatmulOwn, Bf16SmallTile) {
    Multiprocessors one(1);
    small_bf16<SmallMmaTile>();
    leaves_column_sums<SmallMmaTile>();
    compare_ends<bf16, bf16>(9, 24, 16, own_with<SmallMmaTile>(1));
    compare<bf16, float>({264, 264, 72, 1 + 4}, own_with<SmallMmaTile>(1));  // nine tiles, two blocks
    compare<bf16, bf16>({8, 16, 160, 2 + 4 + 8}, own_with<SmallMmaTile>(5));
}
TEST(MatmulOwn, Bf16WideTile) {
    SKIP_WITHOUT_SHARED_MEMORY(WideMmaTile::shared_bytes);
    Multiprocessors one(1);
    small_bf16<WideMmaTile>();
    leaves_column_sums<WideMmaTile>();
    compare<bf16, bf16>({136, 264, 136, 2}, own_with<WideMmaTile>(1));  // four tiles, one block
}
TEST(MatmulOwn, Bf16TallTile) {
    SKIP_WITHOUT_SHARED_MEMORY(TallMmaTile::shared_bytes);
    Multiprocessors one(1);
    small_bf16<TallMmaTile>();
    leaves_column_sums<TallMmaTile>();
    compare<bf16, bf16>({264, 136, 136, 2}, own_with<TallMmaTile>(1));
}
TEST(MatmulOwn, Bf16RowsThatAreNotWholePacks) {
    Multiprocessors one(1);
    auto product = [](const auto& args, cudaStream_t stream) { matmul_own(args, stream); };
    for (int n : {1, 3}) compare_transposes<bf16, bf16>(n, n + 1, n + 2, product);
    compare_transposes<bf16, bf16>(37, 131, 45, product);
    compare_transposes<bf16, float>(13, 7, 165, own_with<PlainTile>(3));
    compare_transposes<bf16, float>(16, 24, 40, own_with<PlainTile>(1));
    compare_ends<bf16, bf16>(5, 9, 8, product);
    compare<bf16, bf16>({8, 9, 16, 2 + 8}, product);  // the operands' rows are, those of the result not
    compare<bf16, bf16>(Case{16, 24, 32, 2 + 8}.with_shift(), product);
}

// K = 0 leaves what follows the sum.
TEST(MatmulOwn, EmptySum) {
    Multiprocessors one(1);
    auto product = [](const auto& args, cudaStream_t stream) { matmul_own(args, stream); };
    compare<float, float>({5, 8, 0, 2 + 4 + 8}, product);
    compare<bf16, bf16>({5, 8, 0, 2 + 4 + 8}, product);
}

// A weight gradient: few tiles, long K. The rule splits it, and the workspace that the model reserves is enough.
TEST(MatmulOwn, SplitsByRule) {
    Multiprocessors eight(8);
    EXPECT_GT(plan_product<SmallMmaTile>(16, 24, 2048).splits, 1);
    EXPECT_GT(plan_product<PlainTile>(16, 24, 2048).splits, 1);
    auto product = [](const auto& args, cudaStream_t stream) { matmul_own(args, stream); };
    compare<bf16, float>({16, 24, 2048, 1 + 4}, product);
    compare<bf16, float>({13, 7, 2045, 1 + 4}, product);
    compare<float, float>({16, 24, 1030, 1 + 4}, product);
    for (int processors : {1, 8, 132})
        for (int M : {1, 128, 768, 3072})
            for (int N : {1, 768, 50304})
                for (int K : {1, 768, 65536}) {
                    device().multiprocessors = processors;
                    size_t most = matmul_own_workspace_bytes(device().multiprocessors) / sizeof(float) / size_t(M) /
                                  size_t((N + 7) / 8 * 8);
                    for (OwnPlan plan : {plan_product<WideMmaTile>(M, N, K), plan_product<TallMmaTile>(M, N, K),
                                         plan_product<SmallMmaTile>(M, N, K), plan_product<PlainTile>(M, N, K)}) {
                        EXPECT_GE(plan.splits, 1);
                        if (plan.splits > 1) EXPECT_LE(size_t(plan.splits), most);
                    }
                }
}

// ---- the choice, few rows ----

template <typename X>
struct MatmulLayers : ::testing::Test {
    MatmulLayers() { device().matmul = MatmulLibrary::own; }
    ~MatmulLayers() override { device().matmul = MatmulLibrary::cublaslt, device().gelu_fusion = 0; }
};
TYPED_TEST_SUITE(MatmulLayers, StorageTypes);

TYPED_TEST(MatmulLayers, FewRows) {
    using X = TypeParam;
    auto product = [](const auto& args, cudaStream_t stream) { matmul(args, stream); };
    for (int M : {1, 3, 8})
        for (int K : {1, 33, 1032}) {
            compare<X, X>({M, 21, K, 2 + 8}, product);
            compare<X, X>({M, 8, K, 2 + 8 + 16, Epilogue::gelu}, product);
        }
    compare<X, X>(Case{2, 10, 64, 2 + 4}.with_shift(), product);
    compare<X, X>({9, 10, 64, 2 + 4}, product);  // one too many
    compare<X, X>({3, 10, 64, 0}, product);
}

TYPED_TEST(MatmulLayers, ForwardAndBackward) {
    using X = TypeParam;
    double tolerance = std::is_same_v<X, float> ? 1e-5 : 2e-3;
    Multiprocessors two(2);
    for (auto [N, C, OC] : {std::array{33, 24, 40}, std::array{11, 7, 5}})
        for (int fusion : {0, 1, 2})
            for (bool gelu : {false, true}) {
                SCOPED_TRACE(::testing::Message()
                             << N << " " << C << " " << OC << " fusion " << fusion << " GELU " << gelu);
                device().gelu_fusion = fusion;
                size_t NC = size_t(N * C), NOC = size_t(N * OC), W = size_t(OC * C);
                auto x = random_vector<X>(NC, 1), w = random_vector<X>(W, 2, 0.3f),
                     bias = random_vector<X>(size_t(OC), 3), dy = random_vector<X>(NOC, 4),
                     before = random_vector<X>(NC, 5);
                auto dw = random_vector<float>(W, 6), dbias = random_vector<float>(size_t(OC), 7);
                std::vector<X> y(NOC), pre(NOC), dx(NC);
                auto want_dw = dw, want_dbias = dbias;
                matmul_forward(y.data(), gelu ? pre.data() : nullptr, x.data(), w.data(), bias.data(), N, C, OC);
                matmul_backward(dx.data(), want_dw.data(), want_dbias.data(), dy.data(), x.data(), w.data(),
                                gelu ? before.data() : nullptr, N, C, OC, gelu);
                for_each_schedule([&] {
                    cudaStream_t s = current_stream();
                    DeviceVector<X> vx(x), vw(w), vbias(bias), vdy(dy), vbefore(before), vy(NOC), vpre(NOC), vdx(NC),
                        vy2(NOC);
                    DeviceVector<float> vdw(dw), vdbias(dbias);
                    matmul_forward(vy.get(), gelu ? vpre.get() : nullptr, vx.get(), vw.get(), vbias.get(), N, C, OC,
                                   false, s);
                    matmul_backward(vdx.get(), vdw.get(), vdbias.get(), vdy.get(), vx.get(), vw.get(),
                                    gelu ? vbefore.get() : nullptr, N, C, OC, gelu, nullptr, s);
                    EXPECT_LT(relative_error(vy.host(), y), tolerance);
                    if (gelu) {
                        EXPECT_LT(relative_error(vpre.host(), pre), tolerance);
                        matmul_forward<X>(vy2.get(), nullptr, vx.get(), vw.get(), vbias.get(), N, C, OC, true, s);
                        EXPECT_LT(relative_error(vy2.host(), y), 3 * tolerance);
                    }
                    EXPECT_LT(relative_error(vdx.host(), dx), tolerance);
                    EXPECT_LT(relative_error(vdw.host(), want_dw), 1e-5);
                    EXPECT_LT(relative_error(vdbias.host(), want_dbias), 1e-5);
                });
            }
}

// In the product of our own tensor core kernels; with the library where GELU's backward pass is a kernel of its own, that leaves the bias gradient of the layer before.
TYPED_TEST(MatmulLayers, GeluBackwardLeavesItsColumnSums) {
    using X = TypeParam;
    for (auto [N, C, OC] : {std::array{33, 40, 24}, std::array{70, 7, 5}, std::array{9, 264, 8}})
        for (int fusion : {1, 2, 3}) {  // 3: own
            SCOPED_TRACE(::testing::Message() << N << " " << C << " " << OC << " fusion " << fusion);
            device().gelu_fusion = fusion;
            device().matmul = fusion == 3 ? MatmulLibrary::own : MatmulLibrary::cublaslt;
            const bool left = fusion == 1 || (sizeof(X) == 4 ? fusion == 2 : fusion == 3 && C % 8 == 0);
            const auto w = random_vector<X>(size_t(OC * C), 2, 0.3f), dy = random_vector<X>(size_t(N * OC), 4),
                       before = random_vector<X>(size_t(N * C), 5);
            std::vector<X> dx(before.size());
            matmul_backward<X>(dx.data(), nullptr, nullptr, dy.data(), nullptr, w.data(), before.data(), N, C, OC);
            for_each_schedule([&, N = N, C = C, OC = OC] {
                DeviceVector<X> vw(w), vdy(dy), vbefore(before), vdx(dx.size());
                DeviceVector<float> parts(size_t(std::max(4, ceil_div(N, 32)) * C));
                ColumnSums<X> sums{parts.get()};
                matmul_backward<X>(vdx.get(), nullptr, nullptr, vdy.get(), nullptr, vw.get(), vbefore.get(), N, C, OC,
                                   true, &sums, current_stream());
                EXPECT_LT(relative_error(vdx.host(), dx), sizeof(X) == 4 ? 1e-5 : 4e-3);
                if (left) expect_column_sums(sums, vdx, N, C);
                EXPECT_EQ(sums.of, nullptr);
            });
        }
}

TYPED_TEST(MatmulLayers, BiasBackward) {
    using X = TypeParam;
    for (int N : {1, 33, 300, 9000})
        for (int OC : {1, 7, 264}) {
            if (N * OC > 300000) continue;
            SCOPED_TRACE(::testing::Message() << "N " << N << " OC " << OC);
            auto dy = random_vector<X>(size_t(N) * size_t(OC), 1);
            auto dbias = random_vector<float>(size_t(OC), 2), want = dbias;
            bias_backward(want.data(), dy.data(), N, OC);
            reserve_workspace(bias_backward_workspace_bytes(N, OC));
            std::vector<float> first;
            for_each_schedule([&] {
                DeviceVector<X> ddy(dy);
                DeviceVector<float> got(dbias);
                bias_backward(got.get(), ddy.get(), N, OC, current_stream());
                EXPECT_LT(relative_error(got.host(), want), 1e-5);
                if (first.empty()) first = got.host();
                EXPECT_EQ(first, got.host());
            });
        }
}

}  // namespace
