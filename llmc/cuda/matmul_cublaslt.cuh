// Matrix products by NVIDIA's library cuBLASLt, which is opened when it is first needed.
//
//   out (M,N) = [accumulate ? out : 0] + op(a) (M,K) . op(b) (K,N) + bias (N), then the epilogue    (arguments.h)
//
// cuBLASLt's matrices are column-major: what it calls an (N,M) matrix is our row-major (M,N). So it is asked for
// out^T = op(b)^T . op(a)^T, with the operands swapped; bias runs along its rows.
//
// The same shape always gets the same algorithm: the first that the library's heuristic names, or what a run has timed in
// its first step (cublaslt_choice.h). Sums are fp32 to the end: where K is split, the parts are added in fp32 in the workspace, in order, never in bf16. Fused
// GELU differs from the separate kernel in two ways: the library applies it to the sum before that is rounded, and by
// tanh.approx, which is right to 11 bits (seen in its kernels, CUDA 13.0). Before a rounding to bf16 that is enough;
// for fp32 it is not, and there GELU is always a kernel of our own.
//
// What the library does not offer (an epilogue at this alignment, odd sizes) is computed in two steps or by
// matmul_own: by a rule that depends on the shape alone.
#pragma once
#include <cublasLt.h>
#include <array>
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include "llmc/cuda/cublaslt_choice.h"
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
    CUBLASLT_FUNCTION(cublasLtGetVersion);
    CUBLASLT_FUNCTION(cublasLtMatmul);
    CUBLASLT_FUNCTION(cublasLtMatmulAlgoCapGetAttribute);
    CUBLASLT_FUNCTION(cublasLtMatmulAlgoConfigGetAttribute);
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
    std::vector<cublasLtMatmulAlgo_t> candidates;  // while they are timed: the algorithm first
    enum { whole, product_only, none } what;       // with bias and epilogue; without; not at all
};

struct CublasLt : CublasLtFunctions {
    CublasLtOwner<cublasLtHandle_t> handle{nullptr, cublasLtDestroy};
    std::unique_ptr<char, CudaFree> workspace;
    size_t workspace_bytes = cublaslt_recommended_bytes(device().capability);
    std::map<CublasLtKey, CublasLtPlan> plans;
    CublasLtKey now{};    // for messages
    bool timing = false;  // in a run's first step
    CublasLtChoice timed, chosen;

    CublasLt();
    std::string machine() const { return strf("%s, cuBLASLt %zu", device().name, cublasLtGetVersion()); }
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

// Whether two algorithms compute in the same precision, each in an order of its own that never changes: parts of K are not
// added where they meet (CUBLASLT_REDUCTION_SCHEME_INPLACE), and the sums are of one type.
inline bool same_kind(const CublasLt& lt, const cublasLtMatmulAlgo_t& a, const cublasLtMatmulAlgo_t& b) {
    const auto kind = [&](const cublasLtMatmulAlgo_t& algorithm) {
        uint32_t scheme = 0;
        uint64_t numbers = 0;
        size_t written = 0;
        CUBLASLT_CHECK(lt, cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                                                &scheme, sizeof scheme, &written));
        CUBLASLT_CHECK(lt, cublasLtMatmulAlgoCapGetAttribute(&algorithm, CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS,
                                                             &numbers, sizeof numbers, &written));
        const bool ordered =
            scheme == CUBLASLT_REDUCTION_SCHEME_NONE || scheme == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
        return std::pair(ordered, numbers);
    };
    return kind(a) == kind(b);
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

    std::array<cublasLtMatmulHeuristicResult_t, 8> results{};
    const cublasLtMatmulHeuristicResult_t& result = results[0];
    int found = 0;
    cublasStatus_t status =
        lt.cublasLtMatmulAlgoGetHeuristic(lt.handle.get(), operation, b.get(), a.get(), out.get(), out.get(),
                                          preference, lt.timing ? int(results.size()) : 1, results.data(), &found);
    bool there = status == CUBLAS_STATUS_SUCCESS && found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    if (status != CUBLAS_STATUS_NOT_SUPPORTED && !(whole && status == CUBLAS_STATUS_INVALID_VALUE))
        lt.check(status, "cublasLtMatmulAlgoGetHeuristic", __FILE__, __LINE__);
    std::vector<cublasLtMatmulAlgo_t> candidates;
    for (int i = 0; lt.timing && there && i < found; i++)
        if (i == 0 || (results[i].state == CUBLAS_STATUS_SUCCESS && same_kind(lt, result.algo, results[i].algo)))
            candidates.push_back(results[i].algo);
    return {std::move(owner),
            std::move(a),
            std::move(b),
            std::move(out),
            result.algo,
            std::move(candidates),
            !there  ? CublasLtPlan::none
            : whole ? CublasLtPlan::whole
                    : CublasLtPlan::product_only};
}

// ---- the product ----

template <typename X, typename O>
void run_plan(CublasLt& lt, const CublasLtPlan& plan, const cublasLtMatmulAlgo_t& algorithm, const Matmul<X, O>& args,
              O* out, cudaStream_t stream) {
    const float one = 1, beta = args.accumulate ? 1 : 0;
    CUBLASLT_CHECK(lt, cublasLtMatmul(lt.handle.get(), plan.operation.get(), &one, args.b, plan.b.get(), args.a,
                                      plan.a.get(), &beta, out, plan.out.get(), out, plan.out.get(), &algorithm,
                                      lt.workspace.get(), lt.workspace_bytes, stream));
}

// The fastest candidate, by the shortest of three times of four in a row; the first unless another is 3% faster. Writes out
// (or, where it is added to, memory that is taken for the while) as often as it likes: the caller computes it afterwards.
template <typename X, typename O>
size_t time_candidates(CublasLt& lt, const CublasLtPlan& plan, const Matmul<X, O>& args, cudaStream_t stream) {
    constexpr int kRepeats = 4;
    std::unique_ptr<O, CudaFree> scratch;
    O* out = args.out;
    if (args.accumulate) {
        const size_t bytes = sizeof(O) * static_cast<size_t>(args.M) * static_cast<size_t>(args.N);
        if (cudaMalloc(&out, bytes) != cudaSuccess)
            return cudaGetLastError(), 0;  // no room: as if it had not been tried
        scratch.reset(out);
        CUDA_CHECK(cudaMemsetAsync(out, 0, bytes, stream));
    }
    struct Timer {
        cudaEvent_t at = nullptr;
        Timer() { CUDA_CHECK(cudaEventCreate(&at)); }
        ~Timer() { cudaEventDestroy(at); }
    } begin, end;
    std::vector<float> best(plan.candidates.size(), INFINITY);
    for (int round = 0; round < 4; round++)  // of which the first loads kernels
        for (size_t i = 0; i < best.size(); i++) {
            CUDA_CHECK(cudaEventRecord(begin.at, stream));
            for (int r = 0; r < (round ? kRepeats : 1); r++) run_plan(lt, plan, plan.candidates[i], args, out, stream);
            CUDA_CHECK(cudaEventRecord(end.at, stream));
            CUDA_CHECK(cudaEventSynchronize(end.at));
            float ms = 0;
            CUDA_CHECK(cudaEventElapsedTime(&ms, begin.at, end.at));
            if (round) best[i] = std::min(best[i], ms);
        }
    const auto fastest = static_cast<size_t>(std::min_element(best.begin(), best.end()) - best.begin());
    return best[fastest] < 0.97f * best[0] ? fastest : 0;
}

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
        if (const auto it = lt.chosen.at.find(lt.now); it != lt.chosen.at.end() && plan.what != CublasLtPlan::none)
            memcpy(plan.algorithm.data, it->second.data(), sizeof plan.algorithm.data);
        at = lt.plans.emplace(lt.now, std::move(plan)).first;
    }
    CublasLtPlan& plan = at->second;
    if (plan.what == CublasLtPlan::none) return matmul_own(args, stream);

    if (plan.what == CublasLtPlan::whole) set_addresses(lt, plan.operation.get(), args);
    if (plan.candidates.size() > 1) {
        const size_t fastest = time_candidates(lt, plan, args, stream);
        if (CublasLtWords& words = lt.timed.at[lt.now]; fastest > 0)
            memcpy(words.data(), plan.candidates[fastest].data, sizeof words);
    }
    plan.candidates.clear();
    run_plan(lt, plan, plan.algorithm, args, args.out, stream);
    if (plan.what == CublasLtPlan::product_only && !plain) matmul_finish(args, stream);
}
