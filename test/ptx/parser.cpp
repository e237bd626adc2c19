// From text to kernels. PTX ISA: Syntax; State Spaces, Types, and Variables; Directives.
#include <cxxabi.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "test/ptx/flow.h"
#include "test/ptx/machine.h"
#include "test/ptx/module.h"

namespace ptx {

namespace {

bool is_word(char c) { return isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.'; }

class Text {  // a position in it
  public:
    Text(const std::string& text, size_t begin, size_t end, int line)
        : text_(text), at_(begin), end_(end), line_(line) {}
    [[noreturn]] void fail(const std::string& what) const {
        size_t eol = std::min(text_.find('\n', at_), at_ + 80);
        throw Fault("PTX line " + std::to_string(line_) + ": " + what + " before \"" + text_.substr(at_, eol - at_) +
                    "\"");
    }
    int line() const { return line_; }
    size_t position() const { return at_; }
    std::string since(size_t begin) const { return text_.substr(begin, at_ - begin); }
    void skip_space() {
        while (at_ < end_) {
            if (text_[at_] == '\n') line_++, at_++;
            else if (isspace(static_cast<unsigned char>(text_[at_]))) at_++;
            else if (text_.compare(at_, 2, "//") == 0) at_ = std::min(text_.find('\n', at_), end_);
            else break;
        }
    }
    bool ended() { return skip_space(), at_ >= end_; }
    char peek() { return ended() ? '\0' : text_[at_]; }
    bool take(char c) { return peek() == c ? at_++, true : false; }
    void expect(char c) {
        if (!take(c)) fail(std::string("'") + c + "' is missing");
    }
    std::string word() {  // empty: none
        skip_space();
        size_t begin = at_;
        while (at_ < end_ && is_word(text_[at_])) at_++;
        return text_.substr(begin, at_ - begin);
    }
    std::string until(char stop) {  // which is passed
        size_t begin = at_;
        at_ = std::min(text_.find(stop, at_), end_);
        return text_.substr(begin, at_++ - begin);
    }
    std::string rest_of_line() {
        size_t begin = at_;
        at_ = std::min(text_.find('\n', at_), end_);
        return text_.substr(begin, at_ - begin);
    }

  private:
    const std::string& text_;
    size_t at_, end_;
    int line_;
};

uint64_t number(const std::string& word, const Text& text) {
    if (word.compare(0, 2, "0f") == 0 || word.compare(0, 2, "0d") == 0) return std::stoull(word.substr(2), nullptr, 16);
    if (word.empty() || !isdigit(static_cast<unsigned char>(word[0]))) text.fail("a number is missing");
    size_t digits = 0;
    uint64_t value = std::stoull(word, &digits, 0);
    if (digits < word.size() && word[digits] != 'U') text.fail("not a number: " + word);
    return value;
}

size_t bytes_of(const std::string& type, const Text& text) {  // ".u32"
    if (type.size() < 3 || !isdigit(static_cast<unsigned char>(type[2]))) text.fail("not a type: " + type);
    return static_cast<size_t>(std::stoi(type.substr(2))) / 8;
}

// Variables: ".align 4 .b8 name[16]", ".u64 name"
Variable declaration(Text& text) {
    Variable v;
    std::string word = text.word();
    bool aligned = word == ".align";
    if (aligned) v.alignment = number(text.word(), text), word = text.word();
    size_t element = bytes_of(word, text);
    if (!aligned) v.alignment = element;
    v.name = text.word();
    v.bytes = element;
    if (text.take('[')) {
        v.bytes = text.peek() == ']' ? 0 : element * number(text.word(), text);
        text.expect(']');
    }
    return v;
}
uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

class Reader {
  public:
    Reader(Text text, Kernel& kernel, const std::map<std::string, size_t>& dynamic)
        : text_(text), kernel_(kernel), dynamic_(dynamic) {}

    void read() {
        text_.word(), text_.word();  // .entry NAME
        if (text_.take('(')) params();
        for (std::string word; text_.peek() == '.';) {
            word = text_.word();
            size_t n = number(text_.word(), text_);
            while (text_.take(',')) n *= number(text_.word(), text_);
            if (word == ".maxntid" || word == ".reqntid") kernel_.max_threads = static_cast<int>(n);
        }
        text_.expect('{');
        scopes_.emplace_back();
        while (!scopes_.empty()) statement();
        for (auto& [i, label] : branches_) {
            auto to = labels_.find(label);
            if (to == labels_.end()) throw Fault("PTX: no label " + label);
            kernel_.code[i].target = to->second;
        }
        for (auto& [name, alignment] : used_dynamic_)
            kernel_.dynamic_alignment = std::max(kernel_.dynamic_alignment, alignment);
        // dynamic memory lies behind the variables, whose place was not known before
        if (!kernel_.shared.empty()) kernel_.shared_bytes += kSharedGap;
        kernel_.shared_bytes = round_up(kernel_.shared_bytes, std::max<size_t>(kernel_.dynamic_alignment, 16));
        for (auto [i, o] : dynamic_uses_) kernel_.code[i].operands[o].value += kernel_.shared_bytes;
        find_reconvergence(kernel_);
    }

  private:
    struct Register {
        char kind;  // r, p
        bool wide;
        int index;
    };

    void params() {  // laid out as C does
        while (!text_.take(')')) {
            if (text_.word() != ".param") text_.fail(".param is missing");
            Variable v = declaration(text_);
            v.offset = kernel_.param_bytes = round_up(kernel_.param_bytes, v.alignment);
            kernel_.param_bytes += v.bytes;
            param_[v.name] = v.offset;
            kernel_.params.push_back(v);
            text_.take(',');
        }
    }

    void statement() {
        if (text_.ended()) text_.fail("'}' is missing");
        char c = text_.peek();
        if (text_.take('{')) return scopes_.emplace_back(), void();
        if (text_.take('}')) return scopes_.pop_back();
        if (text_.take(';')) return;
        if (c == '.') return directive(text_.word());
        Instruction i;
        i.line = text_.line(), i.file = file_, i.source_line = source_line_;
        i.outer_file = outer_file_, i.outer_line = outer_line_;
        size_t from = text_.position();
        if (text_.take('@')) {
            i.guard_negated = text_.take('!');
            const Register* r = find(text_.word());
            if (!r || r->kind != 'p') text_.fail("a predicate is missing");
            i.guard = r->index;
        }
        std::string opcode = text_.word();
        if (opcode.empty()) text_.fail("an instruction is missing");
        if (i.guard < 0 && text_.take(':')) {
            labels_[opcode] = static_cast<int>(kernel_.code.size());
            return;
        }
        instruction(i, opcode);
        i.text = text_.since(from);
        kernel_.code.push_back(std::move(i));
    }

    void directive(const std::string& name) {
        if (name == ".reg") {
            bool predicate = false, wide = false;
            std::string type = text_.word();
            predicate = type == ".pred";
            if (!predicate) wide = bytes_of(type, text_) == 8;
            do {
                std::string reg = text_.word();
                int count = 1;
                bool numbered = text_.take('<');  // %r<5>: %r0 to %r4
                if (numbered) count = static_cast<int>(number(text_.word(), text_)), text_.expect('>');
                for (int n = 0; n < count; n++) {
                    int& next = predicate ? kernel_.predicates : kernel_.rows;
                    scopes_.back()[numbered ? reg + std::to_string(n) : reg] = {predicate ? 'p' : 'r', wide, next};
                    next += wide ? 2 : 1;
                }
            } while (text_.take(','));
            text_.expect(';');
        } else if (name == ".shared") {
            Variable v = declaration(text_);
            v.offset = round_up(kernel_.shared_bytes + (kernel_.shared.empty() ? 0 : kSharedGap), v.alignment);
            kernel_.shared_bytes = v.offset + v.bytes;
            shared_[v.name] = v.offset;
            kernel_.shared.push_back(v);
            text_.expect(';');
        } else if (name == ".local") {
            Variable v = declaration(text_);
            v.offset = round_up(kernel_.local_bytes, v.alignment);
            kernel_.local_bytes = v.offset + v.bytes;
            local_[v.name] = v.offset;
            text_.expect(';');
        } else if (name == ".loc") {  // ends with its line
            file_ = std::stoi(text_.word()), source_line_ = std::stoi(text_.word());
            // FILE LINE COLUMN, function_name LABEL, inlined_at FILE LINE COLUMN, a place that may have such a line itself
            std::string rest = text_.rest_of_line();
            const size_t at = rest.find("inlined_at ");
            Place here{file_, source_line_, atoi(rest.c_str())}, outer = here;
            if (at != std::string::npos) {
                sscanf(rest.c_str() + at + 11, "%d %d %d", &outer[0], &outer[1], &outer[2]);
                if (auto further = outer_.find(outer); further != outer_.end()) outer = further->second;
                outer_[here] = outer;
            }
            outer_file_ = outer[0], outer_line_ = outer[1];
        } else if (name == ".pragma") {
            std::string what = text_.until(';');
            size_t mask = what.find("used_bytes_mask ");  // of the next load
            if (mask != std::string::npos) used_bytes_ = std::stoull(what.substr(mask + 16), nullptr, 0);
        } else {
            text_.fail("the directive " + name + " is not known");
        }
    }

    void instruction(Instruction& i, const std::string& opcode) {
        std::string name = opcode.substr(0, opcode.find('.'));
        if (name == "bra") {
            i.flow = Flow::branch;
            i.uniform = opcode == "bra.uni";
            branches_.emplace_back(kernel_.code.size(), text_.word());
        } else {
            while (text_.peek() != ';') {
                i.operands.push_back(operand());
                if (i.operands.back().kind == Operand::Kind::address && is_dynamic_)
                    dynamic_uses_.emplace_back(kernel_.code.size(), i.operands.size() - 1);
                is_dynamic_ = false;
                if (!text_.take(',')) break;
            }
        }
        text_.expect(';');
        if (i.flow != Flow::branch && !decode(i, opcode)) text_.fail("the instruction " + opcode + " is not known");
        if (name == "ld") i.used_bytes = std::exchange(used_bytes_, ~0ull);
        note_uses(i, name);
        bool trans = name == "ldmatrix" && opcode.find(".trans") != std::string::npos;
        bool accesses = name == "ld" || name == "st" || name == "atom" || name == "red";
        size_t unit = 16;
        if (name == "cp" && i.operands.size() > 2) unit = i.operands[2].value;
        else if (name == "ldmatrix") unit = trans ? 2 : 4;
        else if (accesses && i.space == Space::shared) unit = static_cast<size_t>(i.type.bytes());
        else if (accesses && i.space == Space::generic) unit = 1;
        kernel_.shared_unit = std::min(kernel_.shared_unit, unit);
    }

    // Using Addresses, Arrays, and Vectors
    Operand operand() {
        Operand o;
        if (text_.take('{')) {
            o.kind = Operand::Kind::list;
            do o.list.push_back(operand());
            while (text_.take(','));
            text_.expect('}');
            return o;
        }
        if (text_.take('[')) {
            o = operand();
            if (o.kind == Operand::Kind::reg) o.kind = Operand::Kind::address, o.value = 0;
            else if (o.kind == Operand::Kind::immediate) o.kind = Operand::Kind::address;
            if (o.kind != Operand::Kind::address) text_.fail("an address is missing");
            if (text_.take('+')) {
                bool minus = text_.take('-');
                uint64_t n = number(text_.word(), text_);
                o.value += minus ? 0 - n : n;
            }
            text_.expect(']');
            return o;
        }
        if (text_.take('!')) {
            o = operand();
            o.negated = true;
            return o;
        }
        bool minus = text_.take('-');
        std::string word = text_.word();
        if (!word.empty() && isdigit(static_cast<unsigned char>(word[0]))) {
            o.kind = Operand::Kind::immediate;
            o.value = number(word, text_);
            if (minus) o.value = 0 - o.value;
            return o;
        }
        if (word == "_") return o;
        if (const Register* r = find(word)) {
            o.kind = r->kind == 'p' ? Operand::Kind::predicate : Operand::Kind::reg;
            o.index = r->index, o.wide = r->wide;
            if (text_.take('|')) {  // shfl's d|p, setp's p|q
                Operand pair;
                pair.kind = Operand::Kind::list;
                pair.list = {o, operand()};
                return pair;
            }
            return o;
        }
        if (word == "WARP_SZ") {
            o.kind = Operand::Kind::immediate, o.value = 32;
            return o;
        }
        if (int special = special_register(word); special >= 0) {
            o.kind = Operand::Kind::special, o.index = special;
            return o;
        }
        o.kind = Operand::Kind::address;
        if (auto v = param_.find(word); v != param_.end()) return o.value = v->second, o;
        if (auto v = shared_.find(word); v != shared_.end()) return o.value = v->second, o;
        if (auto v = local_.find(word); v != local_.end()) return o.value = v->second, o;
        if (auto v = dynamic_.find(word); v != dynamic_.end()) {
            used_dynamic_.insert(*v);
            is_dynamic_ = true;
            return o;
        }
        text_.fail("\"" + word + "\" is not known");
    }

    const Register* find(const std::string& name) const {
        for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
            if (auto r = scope->find(name); r != scope->end()) return &r->second;
        return nullptr;
    }

    // The first operand is the result, but of these.
    static void note_uses(Instruction& i, std::string_view name) {
        bool has_result = name != "st" && name != "red" && name != "bar" && name != "barrier" && name != "cp";
        if (name == "bar" && i.option) has_result = true;  // bar.red
        for (size_t n = 0; n < i.operands.size(); n++) {
            const Operand& o = i.operands[n];
            note(i, o, n == 0 && has_result);
            for (const Operand& element : o.list) note(i, element, n == 0 && has_result);
        }
    }
    static void note(Instruction& i, const Operand& o, bool result) {
        if (o.index < 0 || o.kind == Operand::Kind::special) return;
        if (o.kind == Operand::Kind::predicate) (result ? i.predicate_defines : i.predicate_uses).push_back(o.index);
        else (result && o.kind != Operand::Kind::address ? i.defines : i.uses).push_back(o.index);
    }

    Text text_;
    Kernel& kernel_;
    const std::map<std::string, size_t>& dynamic_;
    std::map<std::string, size_t> used_dynamic_;
    std::vector<std::unordered_map<std::string, Register>> scopes_;
    std::map<std::string, uint64_t> param_, shared_, local_;
    std::map<std::string, int> labels_;
    std::vector<std::pair<size_t, std::string>> branches_;
    std::vector<std::pair<size_t, size_t>> dynamic_uses_;
    bool is_dynamic_ = false;
    uint64_t used_bytes_ = ~0ull;
    using Place = std::array<int, 3>;  // file, line, column
    std::map<Place, Place> outer_;     // where what stands there was inlined, in the end
    int file_ = 0, source_line_ = 0, outer_file_ = 0, outer_line_ = 0;
};

}  // namespace

std::string demangle(const std::string& name) {
    int status = 0;
    char* plain = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
    if (!plain) return name;
    std::string result = plain;
    free(plain);
    int depth = 0;  // without the list of parameters, in which there may be parentheses too
    for (size_t c = result.size(); c-- > 0 && result.back() == ')';) {
        depth += (result[c] == ')') - (result[c] == '(');
        if (depth == 0) result.resize(c);
    }
    return result.compare(0, 5, "void ") == 0 ? result.substr(5) : result;
}

Module parse(std::string text) {
    Module m;
    m.text_ = std::make_unique<std::string>(std::move(text));
    m.files_ = std::make_shared<std::vector<std::string>>();
    const std::string& t = *m.text_;
    int line = 1;
    for (size_t begin = 0, end; begin < t.size(); begin = end + 1, line++) {
        end = std::min(t.find('\n', begin), t.size());
        size_t c = t.find_first_not_of(" \t", begin);
        if (c >= end || t[c] != '.') continue;
        Text here(t, c, t.size(), line);
        std::string word = here.word();
        while (word == ".visible" || word == ".weak") word = here.word();
        if (word == ".extern") {
            if (here.word() != ".shared") continue;
            Variable v = declaration(here);
            m.dynamic_[v.name] = v.alignment;
        } else if (word == ".file") {
            size_t n = number(here.word(), here);
            if (m.files_->size() <= n) m.files_->resize(n + 1);
            here.until('"');
            (*m.files_)[n] = here.until('"');
        } else if (word == ".entry") {
            auto body = std::make_shared<Module::Body>();
            body->begin = t.find(".entry", c);
            body->line = line;
            body->name = here.word();
            size_t close = t.find('{', begin);
            for (int depth = 1; close < t.size() && depth > 0;) {
                close = t.find_first_of("{}", close + 1);
                if (close == std::string::npos) here.fail("a kernel without an end");
                depth += t[close] == '{' ? 1 : -1;
            }
            body->end = close + 1;
            m.bodies_.emplace(body->name, body);
            m.bodies_.emplace(demangle(body->name), body);
            line += static_cast<int>(
                std::count(t.begin() + static_cast<long>(end), t.begin() + static_cast<long>(close), '\n'));
            end = std::min(t.find('\n', close), t.size());
        }
    }
    return m;
}

const Kernel* Module::kernel(const std::string& name) {
    auto found = bodies_.find(name);
    if (found == bodies_.end()) return nullptr;
    Body& body = *found->second;
    if (!body.kernel) {
        auto kernel = std::make_unique<Kernel>();
        kernel->name = body.name, kernel->demangled = demangle(body.name);
        kernel->files = files_.get();
        Reader(Text(*text_, body.begin, body.end, body.line), *kernel, dynamic_).read();
        body.kernel = std::move(kernel);
    }
    return body.kernel.get();
}
std::vector<std::string> Module::names() const {
    std::vector<std::string> all;
    for (const auto& [name, body] : bodies_)
        if (name == body->name) all.push_back(demangle(name));
    return all;
}

}  // namespace ptx
