// Products by cuBLASLt against the CPU's: every combination of its arguments, at sizes that it likes and at odd ones.
#include "llmc/base/dynamic_library.h"
#include "llmc/cuda/device.cuh"
#include "llmc/cuda/matmul_cublaslt.cuh"
#include "test/cuda/device_test.h"

namespace {

struct Case {
    bool a_transposed, b_transposed, accumulate, bias;
    Epilogue epilogue;
    bool aux;
};

// With odd sizes, every other row begins at an odd address; shift moves all addresses off their boundaries too.
template <typename X, typename O>
void compare(int M, int N, int K, const Case& c, size_t shift, double tolerance) {
    SCOPED_TRACE(::testing::Message() << "M " << M << " N " << N << " K " << K << " a^T " << c.a_transposed << " b^T "
                                      << c.b_transposed << " accumulate " << c.accumulate << " bias " << c.bias
                                      << " epilogue " << int(c.epilogue) << " aux " << c.aux << " shift " << shift
                                      << " sizes " << sizeof(X) << sizeof(O));
    size_t MN = size_t(M) * size_t(N), MK = size_t(M) * size_t(K), KN = size_t(K) * size_t(N);
    auto a = random_vector<X>(MK + shift, 1), b = random_vector<X>(KN + shift, 2, 1 / std::sqrt(float(K))),
         bias = random_vector<X>(size_t(N) + shift, 3), aux = random_vector<X>(MN + shift, 4);
    auto out = random_vector<O>(MN + shift, 5);
    auto product = [&](O* o, const X* pa, const X* pb, const X* pbias, X* paux) {
        Matmul<X, O> args{.out = o + shift, .a = pa + shift, .b = pb + shift, .M = M, .N = N, .K = K};
        args.a_transposed = c.a_transposed, args.b_transposed = c.b_transposed, args.accumulate = c.accumulate;
        args.epilogue = c.epilogue;
        if (c.bias) args.bias = pbias + shift;
        if (c.aux) args.aux = paux + shift;
        return args;
    };
    DeviceVector<X> da(a), db(b), dbias(bias), daux(aux);
    DeviceVector<O> dout(out);
    auto want_out = out;
    auto want_aux = aux;
    matmul(product(want_out.data(), a.data(), b.data(), bias.data(), want_aux.data()));
    matmul_cublaslt(product(dout.get(), da.get(), db.get(), dbias.get(), daux.get()), current_stream());
    EXPECT_LT(relative_error(dout.host(), want_out), tolerance);
    if (c.aux) EXPECT_LT(relative_error(daux.host(), want_aux), tolerance);
}

template <typename X, typename O>
void compare_all(double tolerance) {
    for (int which = 0; which < 16; which++)
        for (Epilogue epilogue : {Epilogue::none, Epilogue::gelu, Epilogue::gelu_backward})
            for (bool aux : {false, true}) {
                if (aux ? epilogue == Epilogue::none : epilogue == Epilogue::gelu_backward) continue;
                Case c{(which & 1) != 0, (which & 2) != 0, (which & 4) != 0, (which & 8) != 0, epilogue, aux};
                compare<X, O>(48, 64, 32, c, 0, tolerance);
                compare<X, O>(17, 24, 40, c, 0, tolerance);
                compare<X, O>(13, 37, 29, c, 0, tolerance);
                if (which % 4 == 2) compare<X, O>(16, 64, 32, c, 1, tolerance);
                if (is_cudahost) continue;
                compare<X, O>(768, 2304, 512, c, 0, tolerance);
                // two fp32 sums of 4096 products in different orders are 1.8e-6 apart
                compare<X, O>(65, 8, 4096, c, 0, std::max(tolerance, 5e-6));
            }
}

// bf16: the result is rounded once, or twice where bias and epilogue follow in a second kernel.
TEST(Cublaslt, Fp32EqualsCpu) { compare_all<float, float>(2e-6); }
TEST(Cublaslt, Bf16EqualsCpu) { compare_all<bf16, bf16>(1.5 * rounding<bf16>); }
TEST(Cublaslt, Bf16WithFp32GradientsEqualsCpu) {
    for (int which = 0; which < 8; which++) {
        Case c{(which & 1) != 0, (which & 2) != 0, (which & 4) != 0, false, Epilogue::none, false};
        compare<bf16, float>(48, 64, 32, c, 0, 2e-6);
        compare<bf16, float>(17, 9, 33, c, 0, 2e-6);
        compare<bf16, float>(64, 64, 4096, c, 0, 1e-5);  // a sum that is split over K: in fp32, or it would show
    }
}

// The library's tanh is right to 11 bits: GELU in fp32 is never left to it.
TEST(Cublaslt, GeluInFp32IsOurOwn) {
    CudaDevice before = device();
    device().gelu_fusion = 2, device().matmul = MatmulLibrary::cublaslt;
    auto plans_of = [](bool bf16_operands, bool with_gelu) {
        return std::count_if(cublaslt().plans.begin(), cublaslt().plans.end(), [=](const auto& entry) {
            int flags = entry.first[3];
            return (flags >> 7 & 1) == bf16_operands && (flags >> 5 & 3) != 0 &&
                   (entry.second.what == CublasLtPlan::whole) == with_gelu;
        });
    };
    const int N = 24, C = 64, OC = 128;
    auto layer = [&]<typename X>(X) {
        DeviceVector<X> x(random_vector<X>(N * C, 1)), w(random_vector<X>(OC * C, 2)), y(size_t{N * OC}),
            pre(size_t{N * OC}), back(random_vector<X>(OC * C, 3)), dx(size_t{N * OC});
        matmul_forward<X>(y.get(), pre.get(), x.get(), w.get(), nullptr, N, C, OC, false, current_stream());
        matmul_backward<X>(dx.get(), nullptr, nullptr, x.get(), y.get(), back.get(), pre.get(), N, OC, C, false,
                           nullptr, current_stream());
        CUDA_CHECK(cudaDeviceSynchronize());
    };
    cublaslt().plans.clear();
    layer(0.0f);
    EXPECT_EQ(cublaslt().plans.size(), 2u);
    EXPECT_EQ(plans_of(false, true) + plans_of(false, false), 0) << "the layers have kernels for it";
    compare<float, float>(48, 64, 32, {false, true, false, true, Epilogue::gelu, true}, 0, 2e-6);
    compare<float, float>(48, 64, 32, {false, true, false, false, Epilogue::gelu_backward, true}, 0, 2e-6);
    EXPECT_EQ(plans_of(false, true), 0);
    EXPECT_EQ(plans_of(false, false), 2);
    if (device().capability >= 80) layer(bf16(0.0f));
    if (is_cudahost && device().capability >= 80) EXPECT_EQ(plans_of(true, true), 2) << "in bf16 the library has it";
    device() = before;
}

#ifdef CUDAHOST
// What the shipped library's kernels lack, its stand-in lacks (test/cudahost/cublaslt.cpp), and its GELU is as coarse.
TEST(Cublaslt, StandInLacksWhatTheLibraryLacks) {
    CublasLt& lt = cublaslt();
    // (16,8) = (16,24) . (24,8), where what is not said is as the program asks for it
    struct Asked {
        cudaDataType_t in = CUDA_R_16BF, out = CUDA_R_16BF, bias = CUDA_R_16BF, aux = CUDA_R_16BF;
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
        bool with_bias = true;
        int64_t ld = 16;
        uint32_t alignment = 16;
    };
    DeviceVector<float> bias(16), aux(16 * 8);
    auto answer = [&](const Asked& asked) {
        cublasLtMatmulDesc_t operation = nullptr;
        cublasLtMatrixLayout_t a = nullptr, b = nullptr, out = nullptr;
        cublasLtMatmulPreference_t preference = nullptr;
        CUBLASLT_CHECK(lt, cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_EPILOGUE, asked.epilogue);
        set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, asked.bias);
        set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, asked.aux);
        set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t{16});
        set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux.get());
        if (asked.with_bias) set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.get());
        CUBLASLT_CHECK(lt, cublasLtMatrixLayoutCreate(&a, asked.in, 16, 24, asked.ld));
        CUBLASLT_CHECK(lt, cublasLtMatrixLayoutCreate(&b, asked.in, 24, 8, 24));
        CUBLASLT_CHECK(lt, cublasLtMatrixLayoutCreate(&out, asked.out, 16, 8, 16));
        CUBLASLT_CHECK(lt, cublasLtMatmulPreferenceCreate(&preference));
        CUBLASLT_CHECK(lt, cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                                                &asked.alignment, sizeof asked.alignment));
        cublasLtMatmulHeuristicResult_t result{};
        int found = 0;
        cublasStatus_t status = lt.cublasLtMatmulAlgoGetHeuristic(lt.handle.get(), operation, a, b, out, out,
                                                                  preference, 1, &result, &found);
        EXPECT_EQ(found, status == CUBLAS_STATUS_SUCCESS);
        lt.cublasLtMatmulDescDestroy(operation), lt.cublasLtMatmulPreferenceDestroy(preference);
        for (auto* layout : {a, b, out}) lt.cublasLtMatrixLayoutDestroy(layout);
        return status;
    };
    constexpr cudaDataType_t fp32 = CUDA_R_32F;
    const Asked dgelu{.epilogue = CUBLASLT_EPILOGUE_DGELU, .with_bias = false};
    auto dgelu_with = [=](auto change) {
        Asked asked = dgelu;
        change(asked);
        return asked;
    };
    EXPECT_EQ(answer({}), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(answer({.ld = 17, .alignment = 2}), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(answer({.out = fp32, .aux = fp32}), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(answer({.bias = fp32}), CUBLAS_STATUS_NOT_SUPPORTED);
    EXPECT_EQ(answer({.aux = fp32}), CUBLAS_STATUS_NOT_SUPPORTED);
    EXPECT_EQ(answer(dgelu), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(answer(dgelu_with([](Asked& q) { q.with_bias = true; })), CUBLAS_STATUS_INVALID_VALUE);
    EXPECT_EQ(answer(dgelu_with([](Asked& q) { q.ld = 20; })), CUBLAS_STATUS_NOT_SUPPORTED);
    EXPECT_EQ(answer(dgelu_with([](Asked& q) { q.alignment = 8; })), CUBLAS_STATUS_NOT_SUPPORTED);
    EXPECT_EQ(answer({.epilogue = CUBLASLT_EPILOGUE_DGELU_BGRAD}), CUBLAS_STATUS_NOT_SUPPORTED);

    // fp32, which the program never leaves to it
    auto x = random_vector<float>(64 * 16, 1), w = random_vector<float>(16 * 32, 2, 0.25f);
    DeviceVector<float> dx(x), dw(w), dy(64 * 32);
    Matmul<float> args{.out = dy.get(), .a = dx.get(), .b = dw.get(), .M = 64, .N = 32, .K = 16};
    args.epilogue = Epilogue::gelu;
    CublasLtPlan plan = make_plan(lt, args, true);
    ASSERT_EQ(plan.what, CublasLtPlan::whole);
    const float one = 1, zero = 0;
    CUBLASLT_CHECK(lt, cublasLtMatmul(lt.handle.get(), plan.operation.get(), &one, args.b, plan.b.get(), args.a,
                                      plan.a.get(), &zero, args.out, plan.out.get(), args.out, plan.out.get(),
                                      &plan.algorithm, lt.workspace.get(), lt.workspace_bytes, current_stream()));
    std::vector<float> want(64 * 32);
    Matmul<float> on_cpu{.out = want.data(), .a = x.data(), .b = w.data(), .M = 64, .N = 32, .K = 16};
    on_cpu.epilogue = Epilogue::gelu;
    matmul(on_cpu);
    EXPECT_GT(relative_error(dy.host(), want), 2e-5);
    EXPECT_LT(relative_error(dy.host(), want), 5e-4);
}
#endif

#ifndef CUDAHOST  // where there are no TF32 products
TEST(Cublaslt, TF32IsASwitch) {
    auto error = [](bool tf32) {
        device().tf32 = tf32;
        const int n = 256;
        auto a = random_vector<float>(n * n, 1), b = random_vector<float>(n * n, 2);
        std::vector<float> want(n * n);
        Matmul<float> args{.out = want.data(), .a = a.data(), .b = b.data(), .M = n, .N = n, .K = n};
        matmul(args);
        DeviceVector<float> da(a), db(b), dout(size_t{n * n});
        args.a = da.get(), args.b = db.get(), args.out = dout.get();
        matmul_cublaslt(args, current_stream());
        device().tf32 = false;
        return relative_error(dout.host(), want);
    };
    if (device().capability < 80) GTEST_SKIP() << "this GPU has no TF32";
    EXPECT_LT(error(false), 2e-6);
    EXPECT_GT(error(true), 1e-5);
    EXPECT_LT(error(true), 2e-3);
}
#endif

TEST(Cublaslt, SameBitsEveryTime) {
    const int M = 96, N = 104, K = 520;
    auto a = random_vector<bf16>(M * K, 1), b = random_vector<bf16>(K * N, 2);
    DeviceVector<bf16> da(a), db(b);
    std::vector<float> first;
    for (int i = 0; i < 5; i++) {
        DeviceVector<float> dout(size_t{M * N});
        Matmul<bf16, float> args{.out = dout.get(), .a = da.get(), .b = db.get(), .M = M, .N = N, .K = K};
        matmul_cublaslt(args, current_stream());
        if (i == 0) first = dout.host();
        else EXPECT_EQ(first, dout.host());
    }
}

// ---- opening libraries, and the device ----

TEST(DynamicLibrary, MissingIsOneLine) {
    try {
        open_library("cuXYZ", "libcuxyz.so", {13, 12, 13}, "pip's nvidia-cuxyz has it");
        FAIL();
    } catch (const Error& e) {
        std::string message = e.what();
        EXPECT_EQ(message.rfind("cuXYZ is missing: no libcuxyz.so.13 or libcuxyz.so.12 where the program was built", 0),
                  0u)
            << message;
        EXPECT_NE(message.find("; pip's nvidia-cuxyz has it"), std::string::npos) << message;
        EXPECT_EQ(message.find('\n'), std::string::npos);
    }
}
TEST(DynamicLibrary, OpensAndFinds) {
    void* library = open_library("libm", "libm.so", {6}, "");
    auto* cosine = find_function<double(double)>(library, "cos");
    EXPECT_EQ(cosine(0), 1);
    EXPECT_THROW(find_function<double(double)>(library, "no_such_function"), Error);
}

TEST(CublasLtChoice, WhatRanksAgreeOn) {
    const CublasLtKey a{64, 768, 512, 900, 256, 256, 256, 0, 0}, b{32, 768, 512, 900, 256, 128, 256, 0, 2}, c{1};
    const CublasLtWords third{0xa192, 0, ~uint64_t{0}}, second{0xa191, 5};
    const CublasLtChoice rank0{"H100, cuBLASLt 130000", {{a, third}, {c, {}}}};
    const CublasLtChoice rank1{"H100, cuBLASLt 130000", {{a, second}, {b, second}, {c, second}}};
    const CublasLtChoice again = CublasLtChoice::parse(rank0.text());
    EXPECT_EQ(again.machine, rank0.machine);
    EXPECT_EQ(again.at, rank0.at);
    const CublasLtChoice both = agreed_choice({rank0.text(), rank1.text()});
    EXPECT_EQ(both.machine, rank0.machine);
    EXPECT_EQ(both.at, (decltype(both.at){{a, third}, {b, second}}));  // of c rank 0's: the heuristic's first
    EXPECT_TRUE(
        agreed_choice({rank0.text(), CublasLtChoice{"H200, cuBLASLt 130000", {{b, second}}}.text()}).at.empty());
}

TEST(Device, PeakFlops) {
    char name[sizeof device().name];
    memcpy(name, device().name, sizeof name);
    bool tf32 = device().tf32;
    device().tf32 = true;
    auto peak = [](const char* gpu, bool bf16 = true) {
        snprintf(device().name, sizeof device().name, "%s", gpu);
        return 1e-12 * device_peak_flops(bf16);
    };
    EXPECT_EQ(peak("NVIDIA H100 80GB HBM3"), 989);
    EXPECT_EQ(peak("NVIDIA H100 PCIe"), 756);
    EXPECT_EQ(peak("NVIDIA A100-SXM4-80GB"), 312);
    EXPECT_EQ(peak("NVIDIA A100-SXM4-80GB", false), 156);
    EXPECT_EQ(peak("NVIDIA A10"), 125);
    EXPECT_EQ(peak("NVIDIA L4"), 121);
    EXPECT_EQ(peak("NVIDIA L40S"), 362);
    EXPECT_EQ(peak("NVIDIA GeForce RTX 4090"), 165.2);
    EXPECT_EQ(peak("NVIDIA GeForce RTX 4090 Laptop GPU"), 0);
    EXPECT_EQ(peak("NVIDIA GeForce RTX 4080 SUPER"), 0);
    EXPECT_EQ(peak("NVIDIA Z1000"), 0);
    device().tf32 = tf32;
    memcpy(device().name, name, sizeof name);
}

TEST(Device, Bf16NeedsAmpere) {
    int capability = device().capability;
    DeviceOptions options;
    options.matmul = "own";
    CudaDevice before = device();
    device().capability = 75;
    EXPECT_THROW(configure_device(options, true), UsageError);
    EXPECT_NO_THROW(configure_device(options, false));
    EXPECT_EQ(device().gelu_fusion, 0);
    EXPECT_EQ(options.gelu_fusion, 0);  // as it is recorded
    device().capability = 90, options.gelu_fusion = -1;
    configure_device(options, false);
    EXPECT_EQ(device().gelu_fusion, 2);
    EXPECT_EQ(cublaslt_workspace_bytes(), 0u);
    options.matmul = "cublaslt";
    configure_device(options, false);
    EXPECT_EQ(cublaslt_workspace_bytes(), size_t{32} << 20);
    device() = before;
    EXPECT_EQ(device().capability, capability);
}

TEST(Device, Opens) {
    CudaDevice before = device();
    DeviceOptions options;
    open_device(options, 0);
    EXPECT_GE(options.gelu_fusion, 0);
    EXPECT_EQ(device().capability, before.capability);
    EXPECT_GT(strlen(device().name), 0u);
    int count = 0;
    CUDA_CHECK(cudaGetDeviceCount(&count));
    EXPECT_THROW(open_device(options, count), Error);  // more ranks than GPUs
    device() = before;
}

}  // namespace
