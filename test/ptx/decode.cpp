// An opcode's modifiers that mean the same everywhere; the rest is each instruction's own.
#include "test/ptx/opcode.h"

namespace ptx {

namespace {

bool read_type(std::string_view word, Type& type) {
    if (word == "pred") return type = {'p', 1}, true;
    if (word == "bf16") return type = {'h', 16}, true;
    if (word == "bf16x2") return type = {'h', 32, 2}, true;
    if (word.size() < 2 || word.size() > 4 || std::string_view("busf").find(word[0]) == std::string_view::npos)
        return false;
    for (int bits : {8, 16, 32, 64, 128})
        if (word.substr(1) == std::to_string(bits)) return type = {word[0], bits}, true;
    return false;
}

bool read_modifier(Instruction& i, std::string_view word) {
    struct {
        const char* word;
        Rounding rounding;
    } roundings[] = {{"rn", Rounding::nearest}, {"rz", Rounding::zero}, {"rm", Rounding::down}, {"rp", Rounding::up}};
    for (auto& r : roundings)
        if (word.substr(0, 2) == r.word && (word.size() == 2 || word.substr(2) == "i")) {
            i.rounding = r.rounding;
            i.to_integer = word.size() == 3;
            return true;
        }
    struct {
        const char* word;
        Space space;
    } spaces[] = {
        {"global", Space::global}, {"shared", Space::shared}, {"local", Space::local}, {"param", Space::param}};
    for (auto& s : spaces)
        if (word == s.word) return i.space = s.space, true;
    if (word == "ftz") return i.flush = true;
    if (word == "sat") return i.saturate = true;
    if (word == "v2") return i.count = 2, true;
    if (word == "v4") return i.count = 4, true;
    return false;
}

}  // namespace

bool decode(Instruction& i, const std::string& text) {
    Opcode o;
    std::vector<std::string_view> words;
    for (size_t begin = 0; begin <= text.size();) {
        size_t end = std::min(text.find('.', begin), text.size());
        words.push_back(std::string_view(text).substr(begin, end - begin));
        begin = end + 1;
    }
    o.name = words[0];
    bool is_copy = o.name == "cp";  // cp.async.cg.shared.global: spaces are no modifiers
    for (size_t n = 1; n < words.size(); n++) {
        Type type;
        if (read_type(words[n], type)) o.types.push_back(type);
        else if (is_copy || !read_modifier(i, words[n])) o.words.push_back(words[n]);
    }
    if (!o.types.empty()) i.type = i.from = o.types[0];
    if (o.types.size() > 1) i.from = o.types[1];
    for (auto decoder : {decode_integer, decode_float, decode_logic, decode_convert, decode_memory, decode_copy,
                         decode_warp, decode_matrix}) {
        decoder(i, o);
        if (i.run) break;
    }
    bool pure = i.flow == Flow::next;
    for (auto name : {"ld", "st", "atom", "red", "cp"}) pure &= o.name != name;
    if (!pure) i.defined = Defined::must_be;
    return i.run && o.words.empty();
}

}  // namespace ptx
