// cuBLASLt on the CPU: the functions that llmc/cuda/matmul_cublaslt.cuh calls, with the semantics that NVIDIA documents.
//
//   D = epilogue(alpha * op(A) . op(B) + beta * C)        column-major: element (i,j) of a matrix is p[i + j * ld]
//
// A, B both fp32 or both bf16; C, D fp32 or bf16; sums fp32. Epilogues: bias (a value for each row), GELU (tanh), AUX
// (what goes into the GELU is kept), DGELU (times gelu'(aux)). Everything else is refused, and so is what the kernels of
// the shipped library lack (CUDA 13.0, by the names in libcublasLt.so.13):
//   - of types of D and of the bias its epilogue kernel has bf16 and bf16, fp32 and bf16, fp32 and fp32
//     (cublasLt::epilogue::impl::globalKernel), and DGELU has aux of D's type;
//   - DGELU of bf16 is for rows and addresses on 16-byte boundaries: sm90_xmma_gemm_bf16bf16_bf16f32_f32_.._aux_bf16_dgelu
//     has no variants with aligna2 or aligna4, as the products without epilogue have.
// GELU's tanh is tanh.approx, right to 11 bits, in fp32 too.
//
// Environment: CUDAHOST_CUBLASLT="5 3 1i 2h": the heuristic has so many algorithms, which take so many seconds by the clock
// of events; i: adds the parts of K in place, h: sums in half precision, which no mask refuses. Unset: one. Each adds in
// another order, so that results say by which they were computed. CUDAHOST_CUBLASLT_VERSION: that of the library.
#include <cublasLt.h>
#include <sstream>

#include "llmc/base/bf16.h"
#include "test/cudahost/heap.h"
#include "test/cudahost/streams.h"

namespace {

// ---- algorithms ----

constexpr uint64_t kAlgorithm = 0xa190;  // and its number
struct Planted {
    double seconds = 0;
    char kind = ' ';
};
const std::vector<Planted>& planted() {
    static const std::vector<Planted> all = [] {
        std::vector<Planted> found;
        const char* text = getenv("CUDAHOST_CUBLASLT");
        std::istringstream in(text ? text : "0");
        for (std::string word; in >> word;)
            found.push_back({strtod(word.c_str(), nullptr), strchr("ih", word.back()) ? word.back() : ' '});
        return found;
    }();
    return all;
}
const Planted* planted(const cublasLtMatmulAlgo_t* algorithm) {
    const uint64_t i = algorithm->data[0] - kAlgorithm;
    return i < planted().size() ? &planted()[i] : nullptr;
}

// "As the operation has it"; a value that the enumeration can hold.
constexpr cudaDataType_t kUnset = static_cast<cudaDataType_t>(63);

struct Operation {
    cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
    cudaDataType_t scale = CUDA_R_32F, bias_type = kUnset, aux_type = kUnset;
    int32_t pointer_mode = CUBLASLT_POINTER_MODE_HOST;
    int32_t transposed_a = CUBLAS_OP_N, transposed_b = CUBLAS_OP_N;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    void *bias = nullptr, *aux = nullptr;
    int64_t aux_ld = 0;
};
struct Layout {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t ld;
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t alignments[4] = {256, 256, 256, 256};  // of A, B, C, D
};
static_assert(sizeof(Operation) <= sizeof(cublasLtMatmulDescOpaque_t));

template <typename T, typename Handle>
T& own(Handle handle) {
    return *reinterpret_cast<T*>(handle);
}

bool known_type(cudaDataType_t type) { return type == CUDA_R_32F || type == CUDA_R_16BF; }
size_t size_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }
float load(const void* p, cudaDataType_t type, size_t i) {
    return type == CUDA_R_32F ? static_cast<const float*>(p)[i] : static_cast<float>(static_cast<const bf16*>(p)[i]);
}
void store(void* p, cudaDataType_t type, size_t i, float x) {
    if (type == CUDA_R_32F) static_cast<float*>(p)[i] = x;
    else static_cast<bf16*>(p)[i] = bf16(x);
    cudahost::note_written(static_cast<char*>(p) + i * size_of(type), size_of(type), true);
}

float gelu_tanh(float x) {
    auto bits = std::bit_cast<uint32_t>(tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    return std::bit_cast<float>((bits + 0x800) & 0xfffff000u);  // 11 bits of the mantissa stay
}
float gelu(float x) { return 0.5f * x * (1 + gelu_tanh(x)); }
float gelu_gradient(float x) {
    float t = gelu_tanh(x);
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.7978845608f * (1 + 3 * 0.044715f * x * x);
}

struct Product {
    Operation op;
    Layout a, b, c, d;
    uint64_t M, N, K;
    cudaDataType_t bias_type, aux_type;
    bool has_bias, has_gelu, has_aux, has_dgelu;
};

// DGELU of bf16: rows and addresses are on 16-byte boundaries.
bool wants_whole_packs(const Product& p) { return p.has_dgelu && p.a.type == CUDA_R_16BF; }

// The problem with all defaults filled in, or why there is none.
cublasStatus_t make_product(Product* p, const Operation& op, const Layout& a, const Layout& b, const Layout& c,
                            const Layout& d) {
    *p = {op,
          a,
          b,
          c,
          d,
          d.rows,
          d.columns,
          op.transposed_a == CUBLAS_OP_N ? a.columns : a.rows,
          op.bias_type,
          op.aux_type,
          false,
          false,
          false,
          false};
    auto rows_and_columns = [](const Layout& l, int32_t transposed) {
        return transposed == CUBLAS_OP_N ? std::pair(l.rows, l.columns) : std::pair(l.columns, l.rows);
    };
    if (rows_and_columns(a, op.transposed_a) != std::pair(p->M, p->K) ||
        rows_and_columns(b, op.transposed_b) != std::pair(p->K, p->N) || c.rows != d.rows || c.columns != d.columns)
        return CUBLAS_STATUS_INVALID_VALUE;
    for (const Layout* l : {&a, &b, &c, &d}) {
        if (!known_type(l->type)) return CUBLAS_STATUS_NOT_SUPPORTED;
        if (l->ld < static_cast<int64_t>(l->rows)) return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (a.type != b.type || c.type != d.type || (a.type == CUDA_R_32F && d.type != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (op.transposed_a == CUBLAS_OP_C || op.transposed_b == CUBLAS_OP_C || op.scale != CUDA_R_32F ||
        op.pointer_mode != CUBLASLT_POINTER_MODE_HOST)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    switch (op.compute) {
        case CUBLAS_COMPUTE_32F:
        case CUBLAS_COMPUTE_32F_PEDANTIC:
        case CUBLAS_COMPUTE_32F_FAST_TF32:
            break;
        default:
            return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    switch (op.epilogue) {
        case CUBLASLT_EPILOGUE_DEFAULT:
            break;
        case CUBLASLT_EPILOGUE_BIAS:
            p->has_bias = true;
            break;
        case CUBLASLT_EPILOGUE_GELU:
            p->has_gelu = true;
            break;
        case CUBLASLT_EPILOGUE_GELU_BIAS:
            p->has_gelu = p->has_bias = true;
            break;
        case CUBLASLT_EPILOGUE_GELU_AUX:
            p->has_gelu = p->has_aux = true;
            break;
        case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
            p->has_gelu = p->has_aux = p->has_bias = true;
            break;
        case CUBLASLT_EPILOGUE_DGELU:
            p->has_dgelu = p->has_aux = true;
            break;
        default:
            return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (p->bias_type == kUnset) p->bias_type = d.type;
    if (p->aux_type == kUnset) p->aux_type = d.type;
    bool has_bias_type = p->bias_type == d.type || (d.type == CUDA_R_32F && p->bias_type == CUDA_R_16BF);
    if (!has_bias_type || p->aux_type != d.type) return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((op.bias && !p->has_bias) || (op.aux && !p->has_aux)) return CUBLAS_STATUS_INVALID_VALUE;
    if (wants_whole_packs(*p))
        for (const Layout* l : {&a, &b, &c, &d})
            if (l->ld * static_cast<int64_t>(size_of(l->type)) % 16) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (p->has_aux && (op.aux_ld < static_cast<int64_t>(p->M) || op.aux_ld % 8)) return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

// op(m) as floats: to[j * rows + i] = op(m)(i,j), or transposed.
std::vector<float> unpack(const void* data, const Layout& l, int32_t transposed, bool by_rows) {
    bool swap = (transposed != CUBLAS_OP_N) != by_rows;
    std::vector<float> to(l.rows * l.columns);
    for (uint64_t j = 0; j < l.columns; j++)
        for (uint64_t i = 0; i < l.rows; i++)
            to[swap ? i * l.columns + j : j * l.rows + i] = load(data, l.type, i + j * static_cast<uint64_t>(l.ld));
    return to;
}

// algorithm: its number; sums begin there.
void compute(const Product& p, uint64_t algorithm, float alpha, const void* a, const void* b, float beta, const void* c,
             void* d) {
    std::vector<float> av = unpack(a, p.a, p.op.transposed_a, false);  // (K,M), M contiguous
    std::vector<float> bv = unpack(b, p.b, p.op.transposed_b, false);  // (N,K), K contiguous
    std::vector<float> column(p.M);
    for (uint64_t n = 0; n < p.N; n++) {
        std::fill(column.begin(), column.end(), 0.0f);
        for (uint64_t at = 0; at < p.K; at++) {
            const uint64_t k = (at + algorithm) % p.K;
            float x = bv[n * p.K + k];
            const float* ak = av.data() + k * p.M;
            for (uint64_t m = 0; m < p.M; m++) column[m] += ak[m] * x;
        }
        for (uint64_t m = 0; m < p.M; m++) {
            float x = alpha * column[m];
            if (beta != 0) x += beta * load(c, p.c.type, m + n * static_cast<uint64_t>(p.c.ld));  // 0: C is not read
            if (p.has_bias) x += load(p.op.bias, p.bias_type, m);
            size_t at_aux = m + n * static_cast<uint64_t>(p.op.aux_ld);
            if (p.has_gelu) {
                if (p.has_aux) store(p.op.aux, p.aux_type, at_aux, x);
                x = gelu(x);
            }
            if (p.has_dgelu) x *= gelu_gradient(load(p.op.aux, p.aux_type, at_aux));
            store(d, p.d.type, m + n * static_cast<uint64_t>(p.d.ld), x);
        }
    }
}

template <typename T>
cublasStatus_t set(T* to, const void* from, size_t bytes) {
    if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(to, from, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    static int any;
    *handle = reinterpret_cast<cublasLtHandle_t>(&any);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
const char* cublasLtGetStatusName(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS:
            return "CUBLAS_STATUS_SUCCESS";
        case CUBLAS_STATUS_INVALID_VALUE:
            return "CUBLAS_STATUS_INVALID_VALUE";
        case CUBLAS_STATUS_NOT_SUPPORTED:
            return "CUBLAS_STATUS_NOT_SUPPORTED";
        default:
            return "CUBLAS_STATUS";
    }
}
const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    auto* op = new Operation;
    op->compute = compute, op->scale = scale;
    *operation = reinterpret_cast<cublasLtMatmulDesc_t>(op);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
    delete &own<Operation>(operation);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t which,
                                              const void* value, size_t bytes) {
    Operation& op = own<Operation>(operation);
    switch (which) {
        case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
            return set(&op.compute, value, bytes);
        case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
            return set(&op.scale, value, bytes);
        case CUBLASLT_MATMUL_DESC_POINTER_MODE:
            return set(&op.pointer_mode, value, bytes);
        case CUBLASLT_MATMUL_DESC_TRANSA:
            return set(&op.transposed_a, value, bytes);
        case CUBLASLT_MATMUL_DESC_TRANSB:
            return set(&op.transposed_b, value, bytes);
        case CUBLASLT_MATMUL_DESC_EPILOGUE:
            return set(&op.epilogue, value, bytes);
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
            return set(&op.bias, value, bytes);
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
            return set(&op.bias_type, value, bytes);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
            return set(&op.aux, value, bytes);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
            return set(&op.aux_ld, value, bytes);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
            return set(&op.aux_type, value, bytes);
        default:
            return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
    *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, columns, ld});
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete &own<Layout>(layout);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete &own<Preference>(preference);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t which, const void* value,
                                                    size_t bytes) {
    auto& p = own<Preference>(preference);
    switch (which) {
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
            return set(&p.workspace, value, bytes);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
            return set(&p.alignments[0], value, bytes);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
            return set(&p.alignments[1], value, bytes);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
            return set(&p.alignments[2], value, bytes);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
            return set(&p.alignments[3], value, bytes);
        default:
            return CUBLAS_STATUS_SUCCESS;  // which algorithms: those that are planted
    }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int* found) {
    *found = 0;
    if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    Product p;
    cublasStatus_t status =
        make_product(&p, own<Operation>(operation), own<Layout>(a), own<Layout>(b), own<Layout>(c), own<Layout>(d));
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (wants_whole_packs(p))
        for (uint32_t alignment : own<Preference>(preference).alignments)
            if (alignment % 16) return CUBLAS_STATUS_NOT_SUPPORTED;
    *found = std::min(wanted, static_cast<int>(planted().size()));
    for (int i = 0; i < *found; i++) {
        results[i] = {};
        results[i].state = CUBLAS_STATUS_SUCCESS;
        results[i].wavesCount = 1;
        results[i].algo.data[0] = kAlgorithm + static_cast<uint64_t>(i);
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t which, void* value,
                                                    size_t bytes, size_t* written) {
    if (which != CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME || bytes != sizeof(uint32_t) || !planted(algorithm))
        return CUBLAS_STATUS_INVALID_VALUE;
    *written = bytes;
    const uint32_t scheme =
        planted(algorithm)->kind == 'i' ? CUBLASLT_REDUCTION_SCHEME_INPLACE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    return std::memcpy(value, &scheme, bytes), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCapGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                 cublasLtMatmulAlgoCapAttributes_t which, void* value, size_t bytes,
                                                 size_t* written) {
    if (which != CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS || bytes != sizeof(uint64_t) || !planted(algorithm))
        return CUBLAS_STATUS_INVALID_VALUE;
    *written = bytes;
    const uint64_t flags = planted(algorithm)->kind == 'h' ? CUBLASLT_NUMERICAL_IMPL_FLAGS_ACCUMULATOR_16F
                                                           : CUBLASLT_NUMERICAL_IMPL_FLAGS_ACCUMULATOR_32F;
    return std::memcpy(value, &flags, bytes), CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() {
    const char* version = getenv("CUDAHOST_CUBLASLT_VERSION");
    return version ? strtoull(version, nullptr, 10) : 130000;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    if (!planted(algorithm)) return CUBLAS_STATUS_INVALID_VALUE;
    const uint64_t number = algorithm->data[0] - kAlgorithm;
    const std::chrono::duration<double> takes(planted(algorithm)->seconds);
    Product p;
    cublasStatus_t status = make_product(&p, own<Operation>(operation), own<Layout>(a_layout), own<Layout>(b_layout),
                                         own<Layout>(c_layout), own<Layout>(d_layout));
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (wants_whole_packs(p))
        for (const void* address : {a, b, c, static_cast<const void*>(d)})
            if (reinterpret_cast<uintptr_t>(address) % 16) return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((p.has_bias && !p.op.bias) || (p.has_aux && !p.op.aux)) return CUBLAS_STATUS_INVALID_VALUE;
    auto check = [](const void* data, const Layout& l, const char* what) {
        if (l.columns == 0 || l.rows == 0) return;
        cudahost::check_device_range(data, (static_cast<uint64_t>(l.ld) * (l.columns - 1) + l.rows) * size_of(l.type),
                                     what);
        if (reinterpret_cast<uintptr_t>(data) % size_of(l.type))
            throw cudahost::Bug(std::string(what) + ": odd address");
    };
    float alpha_value = *static_cast<const float*>(alpha), beta_value = *static_cast<const float*>(beta);
    check(a, p.a, "cublasLtMatmul's A");
    check(b, p.b, "cublasLtMatmul's B");
    check(d, p.d, "cublasLtMatmul's D");
    if (beta_value != 0) check(c, p.c, "cublasLtMatmul's C");
    if (p.has_bias) check(p.op.bias, {p.bias_type, p.M, 1, static_cast<int64_t>(p.M)}, "cublasLtMatmul's bias");
    if (p.has_aux) {
        check(p.op.aux, {p.aux_type, p.M, p.N, p.op.aux_ld}, "cublasLtMatmul's auxiliary matrix");
        if (reinterpret_cast<uintptr_t>(p.op.aux) % 16) return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (workspace_bytes) cudahost::check_device_range(workspace, workspace_bytes, "cublasLtMatmul's workspace");
    cudaError_t error = cudahost::enqueue(stream, [=] {
        if (workspace_bytes)
            std::memset(workspace, 0xff, std::min<size_t>(workspace_bytes, 4096));  // anything may be there
        cudahost::the().planted += std::chrono::duration_cast<std::chrono::nanoseconds>(takes);
        compute(p, number, alpha_value, a, b, beta_value, c, d);
    });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
