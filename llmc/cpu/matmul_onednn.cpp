// Matrix products by oneDNN (API 2.6 and 3), which picks AMX, AVX-512 or AVX2 kernels for the CPU at hand.
//
// Creating a primitive takes longer than running a small one, so each shape's primitive is made once and kept.
#include <dnnl.hpp>

#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "llmc/cpu/gemm.h"
#include "llmc/cpu/layers.h"
#include "llmc/cpu/matmul.h"
#include "llmc/cpu/workspaces.h"
#include "llmc/base/error.h"

// The bits of an instruction set are in those of each that has it.
bool multiplies_bf16() {
#ifdef __x86_64__
    const int isa = static_cast<int>(dnnl::get_effective_cpu_isa()),
              needed = static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
    return (isa & needed) == needed;
#else
    return true;  // not known
#endif
}

namespace {

using dnnl::memory;
using tag = memory::format_tag;

template <typename X>
constexpr memory::data_type data_type = std::is_same_v<X, float> ? memory::data_type::f32 : memory::data_type::bf16;

dnnl::engine& engine() {
    static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    return engine;
}

// Said once: without instructions for them, products of bf16 are converted to fp32 ones, by oneDNN or by us.
void say_if_bf16_is_slow() {
    static std::once_flag said;
    if (!multiplies_bf16())
        std::call_once(said, [] {
            fprintf(
                stderr,
                "note: this processor has no products of bf16 (AVX512_BF16, AMX): --precision bf16 takes half of the "
                "memory, and no less time than fp32\n");
        });
}

struct Product {
    bool supported = false;
    dnnl::matmul primitive;
    memory a, b, bias, out;
    memory::desc scratchpad;
    dnnl::reorder pack;  // of b into packed_b, where the primitive wants it so
    memory::desc packed_b;
};

// All that a primitive depends on, besides the types.
using Key = std::tuple<int, int, int, bool, bool, bool, bool, bool>;

template <typename X, typename O>
dnnl::matmul::primitive_desc describe(const Matmul<X, O>& p, bool pack, bool fused_gelu) {
    memory::desc a({p.M, p.K}, data_type<X>, p.a_transposed ? tag::ba : tag::ab);
    memory::desc b({p.K, p.N}, data_type<X>, pack ? tag::any : p.b_transposed ? tag::ba : tag::ab);
    memory::desc out({p.M, p.N}, data_type<O>, tag::ab), bias;
    if (p.bias) bias = memory::desc({1, p.N}, data_type<X>, tag::ab);
    dnnl::post_ops post_ops;
    if (p.accumulate) post_ops.append_sum(1.0f);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
    if (fused_gelu) post_ops.append_eltwise(dnnl::algorithm::eltwise_gelu_tanh, 0.0f, 0.0f);
    attributes.set_post_ops(post_ops);
    return p.bias ? dnnl::matmul::primitive_desc(engine(), a, b, bias, out, attributes)
                  : dnnl::matmul::primitive_desc(engine(), a, b, out, attributes);
#else
    if (fused_gelu) post_ops.append_eltwise(1.0f, dnnl::algorithm::eltwise_gelu_tanh, 0.0f, 0.0f);
    attributes.set_post_ops(post_ops);
    auto operation = p.bias ? dnnl::matmul::desc(a, b, bias, out) : dnnl::matmul::desc(a, b, out);
    return dnnl::matmul::primitive_desc(operation, attributes, engine());
#endif
}

template <typename X, typename O>
Product make_product(const Matmul<X, O>& p, bool fused_gelu) {
    Product product;
    if (std::is_same_v<X, bf16>) say_if_bf16_is_slow();
    try {
        auto description = describe(p, worth_packing(p.M, p.N, p.K, p.b_transposed, sizeof(X)), fused_gelu);
        // The reference implementation is a plain loop, far slower than ours.
        if (std::is_same_v<X, bf16> && std::string(description.impl_info_str()).find("ref") != std::string::npos)
            return product;
        auto wrap = [](const memory::desc& d) { return memory(d, engine(), DNNL_MEMORY_NONE); };
        memory::desc plain_b({p.K, p.N}, data_type<X>, p.b_transposed ? tag::ba : tag::ab);
        product.primitive = dnnl::matmul(description);
        product.a = wrap(description.src_desc()), product.b = wrap(plain_b), product.out = wrap(description.dst_desc());
        if (p.bias) product.bias = wrap(description.bias_desc());
        product.scratchpad = description.scratchpad_desc();
        if (description.weights_desc() != plain_b) {
            product.packed_b = description.weights_desc();
            product.pack = dnnl::reorder(dnnl::reorder::primitive_desc(engine(), plain_b, engine(), product.packed_b));
        }
    } catch (const dnnl::error& e) {
        if (std::is_same_v<X, bf16> && e.status == dnnl_unimplemented) return product;
        throw;
    }
    product.supported = true;
    return product;
}

template <typename X, typename O>
bool run(const Matmul<X, O>& p) {
    // One caller at a time: a product uses all cores, and its primitive's scratchpad.
    static std::mutex mutex;
    static std::map<Key, Product> products;  // of these types
    std::lock_guard lock(mutex);
    bool fused_gelu = p.epilogue == Epilogue::gelu && !p.aux;
    bool separate_gelu = p.epilogue == Epilogue::gelu && p.aux;
    try {
        Key key{p.M, p.N, p.K, p.a_transposed, p.b_transposed, p.accumulate, p.bias != nullptr, fused_gelu};
        auto found = products.find(key);
        if (found == products.end()) found = products.emplace(key, make_product(p, fused_gelu)).first;
        Product& product = found->second;
        if (!product.supported) return false;
        static dnnl::stream stream(engine());
        static std::vector<char> scratch_storage, packed_storage;  // used by all products in turn
        memory scratchpad(product.scratchpad, engine(), cache_aligned(scratch_storage, product.scratchpad.get_size()));
        product.a.set_data_handle(const_cast<X*>(p.a));
        product.b.set_data_handle(const_cast<X*>(p.b));
        memory b = product.b;
        if (product.pack) {
            b = memory(product.packed_b, engine(), cache_aligned(packed_storage, product.packed_b.get_size()));
            product.pack.execute(stream, product.b, b);
        }
        if (p.bias) product.bias.set_data_handle(const_cast<X*>(p.bias));
        if constexpr (std::is_same_v<X, O>) product.out.set_data_handle(separate_gelu ? p.aux : p.out);
        else product.out.set_data_handle(p.out);
        std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, product.a},
                                                     {DNNL_ARG_WEIGHTS, b},
                                                     {DNNL_ARG_DST, product.out},
                                                     {DNNL_ARG_SCRATCHPAD, scratchpad}};
        if (p.bias) arguments.insert({DNNL_ARG_BIAS, product.bias});
        product.primitive.execute(stream, arguments);
        stream.wait();
    } catch (const dnnl::error& e) {
        throw Error(strf("oneDNN failed in a matrix product of (%d,%d) by (%d,%d): %s", p.M, p.K, p.K, p.N, e.what()));
    }
    if constexpr (std::is_same_v<X, O>) {
        if (separate_gelu) gelu_forward(p.out, p.aux, int64_t(p.M) * p.N);
        if (p.epilogue == Epilogue::gelu_backward) gelu_backward(p.out, p.aux, p.out, int64_t(p.M) * p.N);
    }
    return true;
}

}  // namespace

bool matmul_onednn(const Matmul<float, float>& args) { return run(args); }
bool matmul_onednn(const Matmul<bf16, bf16>& args) { return run(args); }
bool matmul_onednn(const Matmul<bf16, float>& args) { return run(args); }
