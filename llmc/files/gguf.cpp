#include "llmc/files/gguf.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <vector>
#include "llmc/base/bf16.h"
#include "llmc/base/error.h"
#include "llmc/base/f16.h"
#include "llmc/base/files.h"
#include "llmc/text/vocabulary.h"

static_assert(std::endian::native == std::endian::little, "the format is little-endian and is written as it lies");

namespace {

constexpr int64_t kAlignment = 32, kBlock = 32;
bool quantised(GgufType type) { return type == GgufType::q8_0 || type == GgufType::q4_0; }

// Keys and tensors of the header.
class Header {
  public:
    uint64_t keys = 0, tensors = 0;
    void text(const std::string& key, std::string_view value) { begin(key, 8), string(value); }
    void number(const std::string& key, uint32_t value) { begin(key, 4), put(value); }
    void real(const std::string& key, float value) { begin(key, 6), put(value); }
    void yes_or_no(const std::string& key, bool value) { begin(key, 7), put(static_cast<uint8_t>(value)); }
    void texts(const std::string& key, const std::vector<std::string>& values) {
        begin(key, 9), put(uint32_t{8}), put(static_cast<uint64_t>(values.size()));
        for (const std::string& value : values) string(value);
    }
    void numbers(const std::string& key, const std::vector<int32_t>& values) {
        begin(key, 9), put(uint32_t{5}), put(static_cast<uint64_t>(values.size()));
        for (int32_t value : values) put(value);
    }
    void tensor(const std::string& name, const std::vector<int64_t>& dimensions, GgufType type, uint64_t offset) {
        tensors++, string(name), put(static_cast<uint32_t>(dimensions.size()));
        for (int64_t d : dimensions) put(static_cast<uint64_t>(d));
        put(static_cast<uint32_t>(type)), put(offset);
    }
    std::string bytes() const {
        Header front;
        front.bytes_ = "GGUF";
        front.put(uint32_t{3}), front.put(tensors), front.put(keys);
        std::string all = front.bytes_ + bytes_;
        all.resize(static_cast<size_t>(round_up(static_cast<int64_t>(all.size()), kAlignment)), '\0');
        return all;
    }

  private:
    template <typename X>
    void put(X x) {
        bytes_.append(reinterpret_cast<const char*>(&x), sizeof x);
    }
    void string(std::string_view s) { put(static_cast<uint64_t>(s.size())), bytes_ += s; }
    void begin(const std::string& key, uint32_t type) { keys++, string(key), put(type); }
    std::string bytes_;
};

// "transformer.h.3.attn.c_attn.weight" -> "blk.3.attn_qkv.weight"
std::string gguf_name(const Parameter& p) {
    static const std::map<std::string, std::string> names = {{"transformer.wte", "token_embd"},
                                                             {"transformer.wpe", "position_embd"},
                                                             {"transformer.ln_f", "output_norm"},
                                                             {"lm_head", "output"},
                                                             {"ln_1", "attn_norm"},
                                                             {"attn.c_attn", "attn_qkv"},
                                                             {"attn.c_proj", "attn_output"},
                                                             {"ln_2", "ffn_norm"},
                                                             {"mlp.c_fc", "ffn_up"},
                                                             {"mlp.c_proj", "ffn_down"}};
    const std::string front = p.layer < 0 ? "" : block_prefix(p.layer);
    const size_t dot = p.name.rfind('.');
    const auto found = names.find(p.name.substr(front.size(), dot - front.size()));
    CHECK(found != names.end(), "%s has no name in GGUF", p.name.c_str());
    return (p.layer < 0 ? "" : strf("blk.%d.", p.layer)) + found->second + p.name.substr(dot);
}

GgufType type_of(const Parameter& p, GgufType type) {
    if (p.cols == 1 || p.name == "transformer.wpe.weight") return GgufType::f32;
    return type == GgufType::q4_0 && p.layer < 0 ? GgufType::q8_0 : type;
}

void add_vocabulary(Header* h, const Vocabulary& v, int rows, const std::vector<int>& ends, const std::string& chat) {
    constexpr int32_t normal = 1, control = 3, user_defined = 4, unused = 5;
    std::vector<std::string> tokens, merges;
    std::vector<int32_t> types;
    for (int id = 0; id < rows; id++) {
        const bool named = id < v.size() && !v.tokens[static_cast<size_t>(id)].empty();
        tokens.push_back(named ? spell_bytes(v.tokens[static_cast<size_t>(id)]) : strf("[PAD%d]", id));
        types.push_back(named ? normal : unused);
    }
    for (const auto& [left, right] : v.merges)
        merges.push_back(tokens[static_cast<size_t>(left)] + ' ' + tokens[static_cast<size_t>(right)]);
    for (const AddedToken& t : v.added) {
        tokens[static_cast<size_t>(t.id)] = t.text;
        types[static_cast<size_t>(t.id)] = t.special ? control : user_defined;
    }
    h->text("tokenizer.ggml.model", "gpt2");
    h->text("tokenizer.ggml.pre", "gpt-2");
    h->texts("tokenizer.ggml.tokens", tokens);
    h->numbers("tokenizer.ggml.token_type", types);
    h->texts("tokenizer.ggml.merges", merges);
    if (v.begin_of_text >= 0) h->number("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(v.begin_of_text));
    const int end = ends.empty() ? v.end_of_text : ends[0];
    if (end >= 0) h->number("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(end));
    if (ends.size() > 1) h->number("tokenizer.ggml.eot_token_id", static_cast<uint32_t>(ends[1]));
    h->yes_or_no("tokenizer.ggml.add_bos_token", !v.before_prompts.empty());
    h->yes_or_no("tokenizer.ggml.add_eos_token", false);
    if (!chat.empty()) h->text("tokenizer.chat_template", chat);
}

}  // namespace

int64_t gguf_bytes(GgufType type, int64_t n) {
    if (!quantised(type)) return n * (type == GgufType::f32 ? 4 : 2);
    CHECK(n % kBlock == 0, "%lld elements in blocks of 32", static_cast<long long>(n));
    return n / kBlock * (type == GgufType::q8_0 ? 34 : 18);
}

bool gguf_round(GgufType type, const float* x, int64_t n, unsigned char* out) {
    bool fits = true;
    const auto put_half = [&](float value) {
        const uint16_t half = float_to_half(value);
        fits &= (half & 0x7fff) < 0x7c00;
        memcpy(out, &half, 2), out += 2;
    };
    // The product by itself, rounded once: a fused multiply-add would round otherwise than ggml does.
    const auto times = [](float a, float b) {
        return static_cast<float>(static_cast<double>(a) * static_cast<double>(b));
    };
    if (type == GgufType::f32) memcpy(out, x, static_cast<size_t>(n) * 4);
    if (type == GgufType::f16)
        for (int64_t i = 0; i < n; i++) put_half(x[i]);
    if (type == GgufType::bf16)
        for (int64_t i = 0; i < n; i++) {
            const bf16 b(x[i]);
            memcpy(out + 2 * i, &b, 2);
        }
    if (!quantised(type)) return fits;
    for (int64_t b = 0; b < n; b += kBlock, x += kBlock) {
        const float largest = *std::max_element(
            x, x + kBlock, [](float l, float r) { return std::abs(l) < std::abs(r); });  // the first of equal ones
        const float d = type == GgufType::q8_0 ? std::abs(largest) / 127 : largest / -8;
        const float inverse =
            std::abs(d) < 1e-37f ? 0 : 1 / d;  // f16 has no such d: it is 0, and so is all of the block
        put_half(d);
        if (type == GgufType::q8_0) {
            for (int64_t i = 0; i < kBlock; i++)
                *out++ = static_cast<unsigned char>(static_cast<int8_t>(std::round(times(x[i], inverse))));
            continue;
        }
        const auto nibble = [&](float value) {
            return static_cast<unsigned>(std::min(15, static_cast<int>(times(value, inverse) + 8.5f)));
        };
        for (int64_t i = 0; i < kBlock / 2; i++)
            *out++ = static_cast<unsigned char>(nibble(x[i]) | nibble(x[i + kBlock / 2]) << 4);
    }
    return fits;
}

void check_gguf(const ModelConfig& m, GgufType type) {
    const char* what = m.activation != Activation::gelu_tanh ? "activation_function gelu"
                       : m.raw_scores                        ? "scale_attn_weights false"
                       : m.layer_scores                      ? "scale_attn_by_inverse_layer_idx true"
                                                             : nullptr;
    if (what)
        throw UsageError(
            strf("--format gguf: llama.cpp's GPT-2 has no %s, which this model has; --format hf can", what));
    for (int width : {m.C, m.F()})
        if (quantised(type) && width % kBlock != 0)
            throw UsageError(
                strf("--type: quantised blocks have 32 weights of a row, and this model's rows have %d; "
                     "choose f16, bf16 or f32",
                     width));
}

void write_gguf(const std::string& path, const std::string& name, const ModelConfig& m, const ModelTensors& tensors,
                const Tokenizer& tokenizer, GgufType type) {
    const auto u32 = [](int x) { return static_cast<uint32_t>(x); };
    const std::map<GgufType, uint32_t> file_types = {
        {GgufType::f32, 0}, {GgufType::f16, 1}, {GgufType::q4_0, 2}, {GgufType::q8_0, 7}, {GgufType::bf16, 32}};
    Header h;
    h.text("general.architecture", "gpt2");
    h.text("general.name", name);
    h.number("general.alignment", u32(kAlignment));
    h.number("general.file_type", file_types.at(type));
    if (quantised(type)) h.number("general.quantization_version", 2);
    h.number("gpt2.block_count", u32(m.L));
    h.number("gpt2.context_length", u32(m.T));
    h.number("gpt2.embedding_length", u32(m.C));
    h.number("gpt2.feed_forward_length", u32(m.F()));
    h.number("gpt2.attention.head_count", u32(m.NH));
    h.real("gpt2.attention.layer_norm_epsilon", m.epsilon);
    add_vocabulary(&h, tokenizer.vocabulary(), m.V, tokenizer.ends(), tokenizer.chat_template());
    int64_t end = 0;
    for (const Parameter& p : tensors.table) {
        const GgufType t = type_of(p, type);
        h.tensor(gguf_name(p), p.cols == 1 ? std::vector{p.rows} : std::vector{p.cols, p.rows}, t,
                 static_cast<uint64_t>(end));
        end = round_up(end + gguf_bytes(t, p.size()), kAlignment);
    }
    FileWriter file(path);
    const std::string header = h.bytes();
    file.write(header.data(), header.size());
    std::vector<float> rows;
    std::vector<unsigned char> out;
    for (const Parameter& p : tensors.table) {
        const GgufType t = type_of(p, type);
        const int64_t some = std::max<int64_t>(1, (int64_t{1} << 20) / p.cols);  // rows of 4 MB
        for (int64_t r = 0; r < p.rows; r += some) {
            const int64_t n = std::min(some, p.rows - r) * p.cols, bytes = gguf_bytes(t, n);
            rows.resize(static_cast<size_t>(n)), out.resize(static_cast<size_t>(bytes));
            tensors.read(Buffer::weights, p.offset + r * p.cols, n, rows.data());
            if (!gguf_round(t, rows.data(), n, out.data()))
                throw Error(strf("%s has values that f16 cannot hold; choose --type bf16 or f32", p.name.c_str()));
            file.write(out.data(), out.size());
        }
        const int64_t bytes = gguf_bytes(t, p.size());
        const std::string gap(static_cast<size_t>(round_up(bytes, kAlignment) - bytes), '\0');
        file.write(gap.data(), gap.size());
    }
    file.close();
}
