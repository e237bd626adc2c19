// Matrix products by NVIDIA's library cuBLASLt, which is opened when it is first needed.
//
//   out (M,N) = [accumulate ? out : 0] + op(a) (M,K) . op(b) (K,N) + bias (N), then the epilogue    (arguments.h)
//
// cuBLASLt's matrices are column-major: what it calls an (N,M) matrix is our row-major (M,N). So it is asked for
// out^T = op(b)^T . op(a)^T, with the operands swapped; bias runs along its rows.
//
// The same shape always gets the same algorithm: the first that the library's heuristic names, without timing any. Sums
// are fp32 to the end: where K is split, the parts are added in fp32 in the workspace, in order, never in bf16. Fused
// GELU differs from the separate kernel in two ways: the library applies it to the sum before that is rounded, and by
// tanh.approx, which is right to 11 bits (seen in its kernels, CUDA 13.0). Before a rounding to bf16 that is enough;
// for fp32 it is not, and there GELU is always a kernel of our own.
//
// What the library does not offer (an epilogue at this alignment, odd sizes) is computed in two steps or by
// matmul_own: by a rule that depends on the shape alone.
#pragma once
#include <cublasLt.h>
#include <array>
#include <map>
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/memory.cuh"
#ifndef CUDAHOST
#include "llmc/base/dynamic_library.h"
#endif

// ---- the library ----

// The functions of cublasLt.h, under their own names.
struct CublasLtFunctions {
#ifdef CUDAHOST  // the tests on the CPU link functions of these names
#define CUBLASLT_FUNCTION(name) decltype(&::name) name = &::name
#else
    // first the version whose header this was compiled with; the other has the same interface
    void* library = open_library("cuBLASLt", "libcublasLt.so", {CUBLAS_VER_MAJOR, 13, 12},
                                 "it comes with the CUDA Toolkit and pip's nvidia-cublas; --matmul own needs none");
#define CUBLASLT_FUNCTION(name) decltype(&::name) name = find_function<decltype(::name)>(library, #name)
#endif
    CUBLASLT_FUNCTION(cublasLtCreate);
    CUBLASLT_FUNCTION(cublasLtDestroy);
    CUBLASLT_FUNCTION(cublasLtGetStatusName);
    CUBLASLT_FUNCTION(cublasLtGetStatusString);
    CUBLASLT_FUNCTION(cublasLtMatmul);
    CUBLASLT_FUNCTION(cublasLtMatmulAlgoGetHeuristic);
    CUBLASLT_FUNCTION(cublasLtMatmulDescCreate);
    CUBLASLT_FUNCTION(cublasLtMatmulDescDestroy);
    CUBLASLT_FUNCTION(cublasLtMatmulDescSetAttribute);
    CUBLASLT_FUNCTION(cublasLtMatrixLayoutCreate);
    CUBLASLT_FUNCTION(cublasLtMatrixLayoutDestroy);
    CUBLASLT_FUNCTION(cublasLtMatmulPreferenceCreate);
    CUBLASLT_FUNCTION(cublasLtMatmulPreferenceDestroy);
    CUBLASLT_FUNCTION(cublasLtMatmulPreferenceSetAttribute);
};

template <typename Handle>
using CublasLtOwner = std::unique_ptr<std::remove_pointer_t<Handle>, cublasStatus_t (*)(Handle)>;

// How to compute one kind of product.
struct CublasLtPlan {
    CublasLtOwner<cublasLtMatmulDesc_t> operation;
    CublasLtOwner<cublasLtMatrixLayout_t> a, b, out;
    cublasLtMatmulAlgo_t algorithm;
    enum { whole, product_only, none } what;  // with bias and epilogue; without; not at all
};

// The kind of a product: M, N, K; flags (below); how the addresses of a, b, out, bias, aux are aligned.
using CublasLtKey = std::array<int, 9>;

struct CublasLt : CublasLtFunctions {
    CublasLtOwner<cublasLtHandle_t> handle{nullptr, cublasLtDestroy};
    std::unique_ptr<char, CudaFree> workspace;
    size_t workspace_bytes = cublaslt_recommended_bytes(device().capability);
    std::map<CublasLtKey, CublasLtPlan> plans;
    CublasLtKey now{};  // for messages

    CublasLt();
    void check(cublasStatus_t status, const char* call, const char* file, int line) const {
        if (status == CUBLAS_STATUS_SUCCESS) return;
        throw Error(strf("%s:%d: %s: %s (%s)", file, line, call, cublasLtGetStatusString(status),
                         cublasLtGetStatusName(status)) +
                    (now[0] ? strf("; out (%d,%d), K=%d, flags %x", now[0], now[1], now[2], now[3]) : ""));
    }
};
#define CUBLASLT_CHECK(lt, call) (lt).check((lt).call, #call, __FILE__, __LINE__)

inline CublasLt::CublasLt() {
    cublasLtHandle_t created = nullptr;
    CUBLASLT_CHECK(*this, cublasLtCreate(&created));
    handle.reset(created);
    void* p = nullptr;
    CUDA_CHECK(cudaMalloc(&p, workspace_bytes));
    workspace.reset(static_cast<char*>(p));
}

// Opened by the first call, which also allocates the workspace: not to be made while a graph is captured.
inline CublasLt& cublaslt() {
    static CublasLt lt;
    return lt;
}

// ---- plans ----

template <typename X>
constexpr cudaDataType_t cuda_data_type = sizeof(X) == 2 ? CUDA_R_16BF : CUDA_R_32F;

// The largest power of two, up to 256, that the address is a multiple of.
inline int alignment_of(const void* p) {
    int alignment = 256;
    while (reinterpret_cast<uintptr_t>(p) % alignment) alignment /= 2;
    return alignment;
}

template <typename X, typename O>
cublasLtEpilogue_t cublaslt_epilogue(const Matmul<X, O>& args) {
    if (args.epilogue == Epilogue::gelu_backward) return CUBLASLT_EPILOGUE_DGELU;
    if (args.epilogue == Epilogue::none) return args.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    if (args.aux) return args.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    return args.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
}

template <typename Value>
void set_attribute(CublasLt& lt, cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t which, Value value) {
    CUBLASLT_CHECK(lt, cublasLtMatmulDescSetAttribute(operation, which, &value, sizeof value));
}
// The addresses of bias and aux may be others at each call.
template <typename X, typename O>
void set_addresses(CublasLt& lt, cublasLtMatmulDesc_t operation, const Matmul<X, O>& args) {
    if (args.bias) set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
    if (args.aux) set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, args.aux);
}

// What the heuristic says to the product, whole or without bias and epilogue.
template <typename X, typename O>
CublasLtPlan make_plan(CublasLt& lt, const Matmul<X, O>& args, bool whole) {
    cublasLtMatmulDesc_t operation = nullptr;
    bool tf32 = sizeof(X) == 4 && device().tf32;
    CUBLASLT_CHECK(
        lt, cublasLtMatmulDescCreate(&operation, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
    CublasLtOwner<cublasLtMatmulDesc_t> owner(operation, lt.cublasLtMatmulDescDestroy);
    set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_TRANSA, args.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_TRANSB, args.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (whole) {
        set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_EPILOGUE, cublaslt_epilogue(args));
        if (args.aux) set_attribute(lt, operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, static_cast<int64_t>(args.N));
        set_addresses(lt, operation, args);  // their alignment counts
    }
    auto layout = [&](cudaDataType_t type, int rows, int columns) {
        cublasLtMatrixLayout_t created = nullptr;
        CUBLASLT_CHECK(lt, cublasLtMatrixLayoutCreate(&created, type, columns, rows, columns));
        return CublasLtOwner<cublasLtMatrixLayout_t>(created, lt.cublasLtMatrixLayoutDestroy);
    };
    constexpr cudaDataType_t x = cuda_data_type<X>;
    auto a = args.a_transposed ? layout(x, args.K, args.M) : layout(x, args.M, args.K);
    auto b = args.b_transposed ? layout(x, args.N, args.K) : layout(x, args.K, args.N);
    auto out = layout(cuda_data_type<O>, args.M, args.N);

    cublasLtMatmulPreference_t preference = nullptr;
    CUBLASLT_CHECK(lt, cublasLtMatmulPreferenceCreate(&preference));
    CublasLtOwner<cublasLtMatmulPreference_t> preference_owner(preference, lt.cublasLtMatmulPreferenceDestroy);
    auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
        CUBLASLT_CHECK(lt, cublasLtMatmulPreferenceSetAttribute(preference, which, &value, sizeof value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(lt.workspace_bytes));
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(alignment_of(args.b)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(alignment_of(args.a)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(alignment_of(args.out)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(alignment_of(args.out)));

    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    cublasStatus_t status = lt.cublasLtMatmulAlgoGetHeuristic(lt.handle.get(), operation, b.get(), a.get(), out.get(),
                                                              out.get(), preference, 1, &result, &found);
    bool there = status == CUBLAS_STATUS_SUCCESS && found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    if (status != CUBLAS_STATUS_NOT_SUPPORTED && !(whole && status == CUBLAS_STATUS_INVALID_VALUE))
        lt.check(status, "cublasLtMatmulAlgoGetHeuristic", __FILE__, __LINE__);
    return {std::move(owner), std::move(a),
            std::move(b),     std::move(out),
            result.algo,      !there ? CublasLtPlan::none : whole ? CublasLtPlan::whole : CublasLtPlan::product_only};
}

// ---- the product ----

template <typename X, typename O>
void matmul_cublaslt(const Matmul<X, O>& args, cudaStream_t stream) {
    CublasLt& lt = cublaslt();
    bool plain = !args.bias && args.epilogue == Epilogue::none;
    int flags = args.a_transposed | args.b_transposed << 1 | args.accumulate << 2 | (args.bias != nullptr) << 3 |
                (args.aux != nullptr) << 4 | static_cast<int>(args.epilogue) << 5 | (sizeof(X) == 2) << 7 |
                (sizeof(O) == 2) << 8 | device().tf32 << 9;
    lt.now = {args.M,
              args.N,
              args.K,
              flags,
              alignment_of(args.a),
              alignment_of(args.b),
              alignment_of(args.out),
              alignment_of(args.bias),
              alignment_of(args.aux)};
    auto at = lt.plans.find(lt.now);
    if (at == lt.plans.end()) {
        // the library's conditions: bias and aux of the type of out, rows of aux on 16-byte boundaries, no bias to
        // DGELU; and ours: no GELU in fp32
        bool whole = plain || (std::is_same_v<X, O> && !(args.bias && args.epilogue == Epilogue::gelu_backward) &&
                               (!args.aux || (args.N % 8 == 0 && alignment_of(args.aux) >= 16)) &&
                               (args.epilogue == Epilogue::none || sizeof(X) == 2));
        CublasLtPlan plan = make_plan(lt, args, whole);
        if (plan.what == CublasLtPlan::none && whole && !plain) plan = make_plan(lt, args, false);
        at = lt.plans.emplace(lt.now, std::move(plan)).first;
    }
    CublasLtPlan& plan = at->second;
    if (plan.what == CublasLtPlan::none) return matmul_own(args, stream);

    if (plan.what == CublasLtPlan::whole) set_addresses(lt, plan.operation.get(), args);
    const float one = 1, beta = args.accumulate ? 1 : 0;
    CUBLASLT_CHECK(lt, cublasLtMatmul(lt.handle.get(), plan.operation.get(), &one, args.b, plan.b.get(), args.a,
                                      plan.a.get(), &beta, args.out, plan.out.get(), args.out, plan.out.get(),
                                      &plan.algorithm, lt.workspace.get(), lt.workspace_bytes, stream));
    if (plan.what == CublasLtPlan::product_only && !plain) matmul_finish(args, stream);
}
