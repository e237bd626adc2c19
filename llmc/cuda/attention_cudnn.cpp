#include "llmc/cuda/attention_cudnn.h"
#include <cmath>
#include <map>
#include <memory>
#include <tuple>
#include <unordered_map>
#include "llmc/base/dynamic_library.h"

// The frontend finds cuDNN's functions through this handle instead of through the linker.
#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#include <cudnn_frontend.h>
namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;
}

namespace {

namespace fe = cudnn_frontend;

// Names of the tensors within a graph.
enum : int64_t { Q = 1, K, V, OUT, LSE, DOUT, DQ, DK, DV };

struct Plan {
    std::shared_ptr<fe::graph::Graph> graph;  // null: the library has none
    size_t workspace_bytes = 0;
};
using Key = std::tuple<int, int, int, int, int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, float, bool>;

// The library, open with its handle until the process ends.
struct Cudnn {
    cudnnHandle_t handle = nullptr;
    decltype(&::cudnnSetStream) set_stream = nullptr;
    decltype(&::cudnnGetErrorString) error_string = nullptr;
    size_t version = 0;  // 10000 * major + 100 * minor + patch
    std::map<Key, Plan> plans;

    Cudnn() {
        fe::cudnn_dlhandle = open_library("cuDNN", "libcudnn.so", {9},
                                          "it comes from NVIDIA and with pip's nvidia-cudnn-cu13 (or -cu12); "
                                          "--attention own needs none");
        auto create = find_function<decltype(::cudnnCreate)>(fe::cudnn_dlhandle, "cudnnCreate");
        set_stream = find_function<decltype(::cudnnSetStream)>(fe::cudnn_dlhandle, "cudnnSetStream");
        version = find_function<decltype(::cudnnGetVersion)>(fe::cudnn_dlhandle, "cudnnGetVersion")();
        error_string = find_function<decltype(::cudnnGetErrorString)>(fe::cudnn_dlhandle, "cudnnGetErrorString");
        check(create(&handle), "cudnnCreate", __LINE__);
    }
    void check(cudnnStatus_t status, const char* call, int line) const {
        if (status != CUDNN_STATUS_SUCCESS)
            throw Error(strf("%s:%d: %s: %s", __FILE__, line, call, error_string(status)));
    }
};
Cudnn& cudnn() {
    static Cudnn the_library;
    return the_library;
}

// Newer frontends have renamed what asks for lse.
template <typename Attributes>
void ask_for_lse(Attributes& attributes) {
    if constexpr (requires { attributes.set_generate_stats(true); }) attributes.set_generate_stats(true);
    else attributes.set_is_inference(false);
}

Plan make_plan(const AttentionShape& s, bool backward) {
    auto graph = std::make_shared<fe::graph::Graph>();
    graph->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    // (B, heads, T, HS) as it lies in memory: like q, like k and v, like out; lse (B,NH,T,1) in fp32
    auto describe = [&](fe::graph::Tensor_attributes& t, int64_t uid) -> fe::graph::Tensor_attributes& {
        bool like_kv = uid == K || uid == V || uid == DK || uid == DV, like_out = uid == OUT || uid == DOUT;
        int64_t heads = like_kv ? s.NKV : s.NH,
                row = like_kv    ? s.kv_row
                      : like_out ? s.out_row
                                 : s.q_row,
                batch = like_kv    ? s.kv_batch
                        : like_out ? s.out_batch
                                   : s.q_batch;
        t.set_uid(uid).set_dim({s.B, heads, s.Tq, s.HS}).set_stride({batch, s.HS, row, 1});
        if (uid == LSE) t.set_data_type(fe::DataType_t::FLOAT).set_dim({s.B, s.NH, s.Tq, 1});
        if (uid == LSE) t.set_stride({int64_t(s.NH) * s.Tq, s.Tq, 1, 1});
        return t;
    };
    auto input = [&](int64_t uid) {
        fe::graph::Tensor_attributes attributes;
        return graph->tensor(describe(attributes, uid));
    };
    float scale = 1 / (std::sqrt(static_cast<float>(s.HS)) * s.divisor);
    if (!backward) {
        auto attributes =
            fe::graph::SDPA_attributes().set_name("attention").set_causal_mask(true).set_attn_scale(scale);
        ask_for_lse(attributes);
        auto [out, lse] = graph->sdpa(input(Q), input(K), input(V), attributes);
        describe(*out, OUT).set_output(true);
        describe(*lse, LSE).set_output(true);
    } else {
        auto attributes = fe::graph::SDPA_backward_attributes()
                              .set_name("attention_backward")
                              .set_causal_mask(true)
                              .set_attn_scale(scale)
                              .set_deterministic_algorithm(true);
        auto [dq, dk, dv] =
            graph->sdpa_backward(input(Q), input(K), input(V), input(OUT), input(DOUT), input(LSE), attributes);
        describe(*dq, DQ).set_output(true);
        describe(*dk, DK).set_output(true);
        describe(*dv, DV).set_output(true);
    }
    // heuristic mode A: the library's first choice, without timing any
    if (graph->build(cudnn().handle, {fe::HeurMode_t::A}).is_bad()) return {};
    return {graph, static_cast<size_t>(graph->get_workspace_size())};
}

const Plan& find_plan(const AttentionShape& s, bool backward) {
    Key key{s.B,       s.Tq,      s.NH,       s.NKV,       s.HS,      s.q_row, s.kv_row,
            s.out_row, s.q_batch, s.kv_batch, s.out_batch, s.divisor, backward};
    auto& plans = cudnn().plans;
    auto at = plans.find(key);
    if (at == plans.end()) at = plans.emplace(key, make_plan(s, backward)).first;
    return at->second;
}

void execute(const AttentionShape& s, bool backward, std::unordered_map<int64_t, const void*> tensors, void* workspace,
             cudaStream_t stream) {
    const Plan& plan = find_plan(s, backward);
    CHECK(plan.graph, "B=%d T=%d NH=%d HS=%d", s.B, s.Tq, s.NH, s.HS);
    std::unordered_map<int64_t, void*> addresses;
    for (auto [uid, p] : tensors) addresses[uid] = const_cast<void*>(p);
    cudnn().check(cudnn().set_stream(cudnn().handle, stream), "cudnnSetStream", __LINE__);
    fe::error_t error = plan.graph->execute(cudnn().handle, addresses, workspace);
    if (error.is_bad())
        throw Error(strf("%s:%d: cuDNN's attention %s, B=%d T=%d NH=%d HS=%d: %s", __FILE__, __LINE__,
                         backward ? "backward" : "forward", s.B, s.Tq, s.NH, s.HS, error.get_message().c_str()));
}

}  // namespace

std::string attention_cudnn_missing() try {
    cudnn();
    return "";
} catch (const Error& e) {
    return e.what();
}
std::string attention_cudnn_version() {
    const size_t v = cudnn().version;
    return strf("%zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
}

bool attention_cudnn_supports(const AttentionShape& shape, bool backward) {
    return shape.Tq == shape.Tk && find_plan(shape, false).graph && (!backward || find_plan(shape, true).graph);
}

size_t attention_cudnn_workspace_bytes(const AttentionShape& shape, bool backward) {
    return find_plan(shape, backward).workspace_bytes;
}

void attention_forward_cudnn(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v,
                             const AttentionShape& shape, void* workspace, cudaStream_t stream) {
    execute(shape, false, {{Q, q}, {K, k}, {V, v}, {OUT, out}, {LSE, lse}}, workspace, stream);
}

void attention_backward_cudnn(bf16* dq, bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k,
                              const bf16* v, const bf16* out, const float* lse, const AttentionShape& shape,
                              void* workspace, cudaStream_t stream) {
    execute(shape, true, {{Q, q}, {K, k}, {V, v}, {OUT, out}, {LSE, lse}, {DOUT, dout}, {DQ, dq}, {DK, dk}, {DV, dv}},
            workspace, stream);
}
