// Matrix products by NVIDIA's library cuBLASLt, which is opened when it is first needed.
//
//   out (M,N) = [accumulate ? out : 0] + op(a) (M,K) . op(b) (K,N) + bias (N), then the epilogue    (layer_arguments.h)
//
// cuBLASLt's matrices are column-major: what it calls an (N,M) matrix is our row-major (M,N). So it is asked for
// out^T = op(b)^T . op(a)^T, with the operands swapped; bias runs along its rows.
//
// The same shape always gets the same algorithm: the first that the library's heuristic names, without timing any.
// Sums are fp32 to the end: where K is split, the parts are added in fp32 in the workspace, in order, never in bf16.
// Fused GELU differs from the separate kernel by one rounding: the library applies it to the sum before that is
// rounded.
//
// What the library does not offer (an epilogue at this alignment, odd sizes) is computed in two steps or by
// matmul_own: by a rule that depends on the shape alone.
#pragma once
#include <cublasLt.h>
#include <array>
#include <map>
#include "llmc/cuda_common.cuh"
#include "llmc/layer_arguments.h"
#include "llmc/matmul_own.cuh"
#ifndef CUDAHOST
#include "llmc/dynamic_library.h"
#endif

// ---- the library ----

#define CUBLASLT_FUNCTIONS(F)                                                                              \
    F(cublasLtCreate)                                                                                      \
    F(cublasLtDestroy) F(cublasLtGetStatusName) F(cublasLtGetStatusString) F(cublasLtMatmul)               \
        F(cublasLtMatmulAlgoGetHeuristic) F(cublasLtMatmulDescCreate) F(cublasLtMatmulDescDestroy)         \
            F(cublasLtMatmulDescSetAttribute) F(cublasLtMatrixLayoutCreate) F(cublasLtMatrixLayoutDestroy) \
                F(cublasLtMatmulPreferenceCreate) F(cublasLtMatmulPreferenceDestroy)                       \
                    F(cublasLtMatmulPreferenceSetAttribute)

// The functions of cublasLt.h, under their own names.
struct CublasLtFunctions {
#define DECLARE_FUNCTION(name) decltype(&::name) name = nullptr;
    CUBLASLT_FUNCTIONS(DECLARE_FUNCTION)
#undef DECLARE_FUNCTION
    CublasLtFunctions() {
#ifdef CUDAHOST  // the tests on the CPU link functions of these names
#define FIND_FUNCTION(function) function = &::function;
#else
        // the major version whose header this was compiled with is the one to prefer; the other has the same interface
        const char *names[] = {"libcublasLt.so.13", "libcublasLt.so.12"}, *first = names[CUBLAS_VER_MAJOR == 12];
        void* library =
            open_library("cuBLASLt", {first, names[CUBLAS_VER_MAJOR != 12]},
                         "it comes with the CUDA Toolkit and with pip's nvidia-cublas; --matmul own needs none");
#define FIND_FUNCTION(function) find_function(library, #function, function);
#endif
        CUBLASLT_FUNCTIONS(FIND_FUNCTION)
#undef FIND_FUNCTION
    }
};

// 32 MiB is what NVIDIA recommends for Hopper and 4 MiB for what came before it (cuBLAS documentation,
// cublasSetWorkspace).
inline size_t cublaslt_workspace_bytes() {
    if (device().matmul == MatmulLibrary::own) return 0;
    return device().capability >= 90 ? 32 << 20 : 4 << 20;
}

template <typename Handle>
using CublasLtOwner = std::unique_ptr<std::remove_pointer_t<Handle>, cublasStatus_t (*)(Handle)>;

// How to compute one kind of product.
struct CublasLtPlan {
    CublasLtOwner<cublasLtMatmulDesc_t> operation;
    CublasLtOwner<cublasLtMatrixLayout_t> a, b, out;
    cublasLtMatmulAlgo_t algorithm;
    enum { whole, product_only, none } what;  // with bias and epilogue; without; not at all
};

struct CublasLt : CublasLtFunctions {
    CublasLtOwner<cublasLtHandle_t> handle{nullptr, cublasLtDestroy};
    std::unique_ptr<char, CudaFree> workspace;
    size_t workspace_bytes = 0;
    std::map<std::array<int, 9>, CublasLtPlan> plans;

    void check(cublasStatus_t status, const char* call, const char* file, int line, const std::string& about) const {
        if (status != CUBLAS_STATUS_SUCCESS)
            throw Error(strf("%s:%d: %s: %s (%s)%s", file, line, call, cublasLtGetStatusString(status),
                             cublasLtGetStatusName(status), about.c_str()));
    }
};
#define CUBLASLT_CHECK(lt, call, about) (lt).check((lt).call, #call, __FILE__, __LINE__, about)

// Opened by the first call, which also allocates the workspace: not to be made while a graph is captured.
inline CublasLt& cublaslt() {
    static CublasLt lt = [] {
        CublasLt opened;
        cublasLtHandle_t handle = nullptr;
        CUBLASLT_CHECK(opened, cublasLtCreate(&handle), "");
        opened.handle.reset(handle);
        void* p = nullptr;
        opened.workspace_bytes = cublaslt_workspace_bytes();
        CUDA_CHECK(cudaMalloc(&p, opened.workspace_bytes));
        opened.workspace.reset(static_cast<char*>(p));
        return opened;
    }();
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

// For messages.
template <typename X, typename O>
std::string describe(const Matmul<X, O>& args) {
    auto name = [](size_t size) { return size == 2 ? "bf16" : "fp32"; };
    return strf("; out (%d,%d) %s, a%s (%d,%d), b%s (%d,%d) %s%s%s%s", args.M, args.N, name(sizeof(O)),
                args.a_transposed ? "^T" : "", args.M, args.K, args.b_transposed ? "^T" : "", args.K, args.N,
                name(sizeof(X)), args.accumulate ? ", accumulated" : "", args.bias ? ", bias" : "",
                args.epilogue == Epilogue::none   ? ""
                : args.epilogue == Epilogue::gelu ? ", GELU"
                                                  : ", GELU backward");
}

template <typename X, typename O>
cublasLtEpilogue_t cublaslt_epilogue(const Matmul<X, O>& args) {
    if (args.epilogue == Epilogue::gelu_backward) return CUBLASLT_EPILOGUE_DGELU;
    if (args.epilogue == Epilogue::none) return args.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    if (args.aux) return args.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    return args.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
}

// The addresses of bias and aux, which may be others at each call.
template <typename X, typename O>
void set_addresses(CublasLt& lt, cublasLtMatmulDesc_t operation, const Matmul<X, O>& args) {
    if (args.bias)
        CUBLASLT_CHECK(
            lt,
            cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &args.bias, sizeof args.bias),
            describe(args));
    if (args.aux)
        CUBLASLT_CHECK(lt,
                       cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &args.aux,
                                                      sizeof args.aux),
                       describe(args));
}

// Asks the heuristic; `what` becomes none where the library has no algorithm.
template <typename X, typename O>
CublasLtPlan make_plan(CublasLt& lt, const Matmul<X, O>& args, bool whole) {
    auto set = [&](cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t which, auto value) {
        CUBLASLT_CHECK(lt, cublasLtMatmulDescSetAttribute(operation, which, &value, sizeof value), describe(args));
    };
    cublasLtMatmulDesc_t operation = nullptr;
    cublasComputeType_t compute = sizeof(X) == 4 && device().tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    CUBLASLT_CHECK(lt, cublasLtMatmulDescCreate(&operation, compute, CUDA_R_32F), describe(args));
    CublasLtOwner<cublasLtMatmulDesc_t> owner(operation, lt.cublasLtMatmulDescDestroy);
    set(operation, CUBLASLT_MATMUL_DESC_TRANSA, args.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(operation, CUBLASLT_MATMUL_DESC_TRANSB, args.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (whole) {
        set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, cublaslt_epilogue(args));
        if (args.bias) set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(cuda_data_type<X>));
        if (args.aux) {
            set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, static_cast<int64_t>(args.N));
            set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, static_cast<int32_t>(cuda_data_type<X>));
        }
        set_addresses(lt, operation, args);
    }
    auto layout = [&](cudaDataType_t type, int columns, int rows) {  // row-major (rows,columns)
        cublasLtMatrixLayout_t made = nullptr;
        CUBLASLT_CHECK(lt, cublasLtMatrixLayoutCreate(&made, type, columns, rows, columns), describe(args));
        return CublasLtOwner<cublasLtMatrixLayout_t>(made, lt.cublasLtMatrixLayoutDestroy);
    };
    auto a = args.a_transposed ? layout(cuda_data_type<X>, args.M, args.K) : layout(cuda_data_type<X>, args.K, args.M);
    auto b = args.b_transposed ? layout(cuda_data_type<X>, args.K, args.N) : layout(cuda_data_type<X>, args.N, args.K);
    auto out = layout(cuda_data_type<O>, args.N, args.M);

    cublasLtMatmulPreference_t preference = nullptr;
    CUBLASLT_CHECK(lt, cublasLtMatmulPreferenceCreate(&preference), describe(args));
    CublasLtOwner<cublasLtMatmulPreference_t> preference_owner(preference, lt.cublasLtMatmulPreferenceDestroy);
    auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
        CUBLASLT_CHECK(lt, cublasLtMatmulPreferenceSetAttribute(preference, which, &value, sizeof value),
                       describe(args));
    };
    auto alignment = [](const void* p) { return static_cast<uint32_t>(alignment_of(p)); };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(lt.workspace_bytes));
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(args.b));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(args.a));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(args.out));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(args.out));

    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    cublasStatus_t status = lt.cublasLtMatmulAlgoGetHeuristic(lt.handle.get(), operation, b.get(), a.get(), out.get(),
                                                              out.get(), preference, 1, &result, &found);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED && !(whole && status == CUBLAS_STATUS_INVALID_VALUE))
        lt.check(status, "cublasLtMatmulAlgoGetHeuristic", __FILE__, __LINE__, describe(args));
    bool there = status == CUBLAS_STATUS_SUCCESS && found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    return {std::move(owner), std::move(a),
            std::move(b),     std::move(out),
            result.algo,      !there ? CublasLtPlan::none : whole ? CublasLtPlan::whole : CublasLtPlan::product_only};
}

// ---- the product ----

// Bias and epilogue, on out as the product left it.
template <typename X, typename O>
__global__ void matmul_finish_kernel(Matmul<X, O> args) {
    int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= int64_t(args.M) * args.N) return;
    float sum[1] = {static_cast<float>(args.out[i])};
    finish_outputs(args, static_cast<int>(i / args.N), static_cast<int>(i % args.N), sum);
}

template <typename X, typename O>
void matmul_cublaslt(const Matmul<X, O>& args, cudaStream_t stream) {
    CublasLt& lt = cublaslt();
    int flags = args.a_transposed | args.b_transposed << 1 | args.accumulate << 2 | (args.bias != nullptr) << 3 |
                (args.aux != nullptr) << 4 | static_cast<int>(args.epilogue) << 5 | (sizeof(X) == 2) << 7 |
                (sizeof(O) == 2) << 8 | device().tf32 << 9;
    std::array<int, 9> key{args.M,
                           args.N,
                           args.K,
                           flags,
                           alignment_of(args.a),
                           alignment_of(args.b),
                           alignment_of(args.out),
                           alignment_of(args.bias),
                           alignment_of(args.aux)};
    bool plain = !args.bias && args.epilogue == Epilogue::none;
    auto at = lt.plans.find(key);
    if (at == lt.plans.end()) {
        // aux rows must be of a multiple of 8 elements on 16-byte boundaries, and bias and aux of the type of out
        bool fits = plain || (std::is_same_v<X, O> && !(args.bias && args.epilogue == Epilogue::gelu_backward) &&
                              (!args.aux || (args.N % 8 == 0 && alignment_of(args.aux) >= 16)));
        CublasLtPlan plan = make_plan(lt, args, fits);
        if (plan.what == CublasLtPlan::none && fits && !plain) plan = make_plan(lt, args, false);
        at = lt.plans.emplace(key, std::move(plan)).first;
    }
    CublasLtPlan& plan = at->second;
    if (plan.what == CublasLtPlan::none) return matmul_own(args, stream);

    if (plan.what == CublasLtPlan::whole) set_addresses(lt, plan.operation.get(), args);
    const float one = 1, beta = args.accumulate ? 1 : 0;
    CUBLASLT_CHECK(lt,
                   cublasLtMatmul(lt.handle.get(), plan.operation.get(), &one, args.b, plan.b.get(), args.a,
                                  plan.a.get(), &beta, args.out, plan.out.get(), args.out, plan.out.get(),
                                  &plan.algorithm, lt.workspace.get(), lt.workspace_bytes, stream),
                   describe(args));
    if (plan.what == CublasLtPlan::product_only && !plain) {
        Matmul<X, O> rest = args;
        rest.accumulate = false;
        launch(matmul_finish_kernel<X, O>, ceil_div(int64_t(args.M) * args.N, 256), 256, 0, stream, rest);
    }
}
