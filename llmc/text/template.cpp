#include "llmc/text/template.h"

#include <algorithm>
#include <sstream>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/text/utf8.h"

namespace {

constexpr const char* kChatml =
    "system <|im_start|>system\\n{content}<|im_end|>\\n\n"
    "user <|im_start|>user\\n{content}<|im_end|>\\n\n"
    "assistant <|im_start|>assistant\\n{content}<|im_end|>\\n\n";
constexpr const char* kPlain =
    "system {content}\\n\n"
    "user {content}\\n\n"
    "assistant {content}{eos}\n"
    "prompt {content}\n"
    "completion {content}{eos}\n";
constexpr const char* kRemedy = "name one with --template: chatml, plain or a file";
// ChatML as Hugging Face's programs write it, without blanks.
constexpr const char* kForeignChatml =
    "{%formessageinmessages%}{{'<|im_start|>'+message['role']+'\\n'+message['content']+'<|im_end|>'+'\\n'}}{%endfor%}"
    "{%ifadd_generation_prompt%}{{'<|im_start|>assistant\\n'}}{%endif%}";

void replace_all(std::string& text, std::string_view from, std::string_view to) {
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
        text.replace(at, from.size(), to);
}

std::string without_escapes(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        if (text[i] != '\\') {
            out += text[i];
            continue;
        }
        const size_t which = ++i < text.size() ? std::string_view("nts}\\").find(text[i]) : std::string_view::npos;
        if (which == std::string_view::npos) throw Error("a backslash stands before n, t, s, } or another one only");
        out += "\n\t }\\"[which];
    }
    return out;
}

// In a part's text the place of prompt number n is a character that no text has: U+F0000 + n, of a plane for private use.
constexpr int kMostPlaces = 0xFFFE;
constexpr size_t kPlaceBytes = 4;
std::string place(int n) {
    std::string out;
    append_utf8(out, 0xF0000u + static_cast<uint32_t>(n));
    return out;
}
bool place_at(std::string_view text, size_t at) {
    return text.size() - at >= kPlaceBytes && text[at] == '\xF3' && static_cast<uint8_t>(text[at + 1]) >= 0xB0 &&
           static_cast<uint8_t>(text[at + 1]) < 0xC0;
}
int number_of(std::string_view text, size_t at) {
    int n = 0;
    for (size_t i = 1; i < kPlaceBytes; i++) n = n << 6 | (text[at + i] & 0x3F);
    return n & 0xFFFF;
}
std::string without_places(const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size();)
        if (place_at(text, i)) i += kPlaceBytes;
        else out += text[i++];
    return out;
}
// {prompt} and {prompt:N} become places, numbered on from *count.
std::string with_places(std::string text, int* count) {
    const std::string mark = "{prompt";
    for (size_t at = 0; (at = text.find(mark, at)) != std::string::npos;) {
        const size_t end = text.find('}', at);
        const std::string number =
            end == std::string::npos ? "" : text.substr(at + mark.size(), end - at - mark.size());
        const bool counted = number.size() > 1 && number.size() < 8 && number[0] == ':' &&
                             number.find_first_not_of("0123456789", 1) == std::string::npos;
        const int n = counted ? std::stoi(number.substr(1)) : number.empty();
        if (end == std::string::npos || n < 1 || *count + n > kMostPlaces)
            throw Error(strf("places for prompts are written {prompt} or {prompt:5}, and are at most %d", kMostPlaces));
        std::string places;
        for (int i = 0; i < n; i++) places += place((*count)++);
        text.replace(at, end + 1 - at, places);
        at += places.size();
    }
    return text;
}

// As a string of Jinja.
std::string quoted(std::string text) {
    text = without_places(text);
    replace_all(text, "\\", "\\\\"), replace_all(text, "'", "\\'"), replace_all(text, "\n", "\\n");
    return "'" + text + "'";
}

std::string token_text(const Tokenizer& tokenizer, int id, const char* what) {
    if (id < 0) throw Error(strf("the vocabulary has no token for %s", what));
    return std::string(tokenizer.bytes(id));
}

}  // namespace

void MarkedText::add(std::string_view part, bool is_markup, bool counted) {
    text += part;
    for (size_t i = 0; i < part.size();) {
        const bool place = is_markup && place_at(part, i);
        const size_t n = place ? kPlaceBytes : 1;
        markup.append(n, place ? '\2' : static_cast<char>(is_markup)), counts.append(n, counted && !place);
        i += n;
    }
}

void encode_marked(const MarkedText& t, const Tokenizer& tokenizer, std::vector<int>& ids, std::vector<size_t>& ends) {
    const std::string_view text = t.text, markup = t.markup;
    for (size_t from = 0; from < text.size(); from += kPlaceBytes) {
        const size_t at = std::min(markup.find('\2', from), text.size()), first = ends.size();
        if (at > from) tokenizer.encode_marked(text.substr(from, at - from), markup.substr(from, at - from), ids, ends);
        for (size_t i = first; i < ends.size(); i++) ends[i] += from;
        if (at == text.size()) return;
        ids.push_back(-1 - number_of(text, at)), ends.push_back(at + kPlaceBytes);
        from = at;
    }
}

Template Template::parse(const std::string& lines, const std::string& name, const Tokenizer& tokenizer) {
    Template t;
    t.lines_ = lines;
    replace_all(t.lines_, "#}", "#\\}");  // which would end Jinja's comment
    const auto set = [&](const std::string& role, std::string_view raw) {
        if (without_places(std::string(raw)) != raw) throw Error("characters from U+F0000 on are not for text");
        std::string text = with_places(without_escapes(raw), &t.prompts_);
        for (const auto& [mark, id] :
             {std::pair("{bos}", tokenizer.begin_of_text()), {"{eos}", tokenizer.end_of_text()}})
            if (text.find(mark) != std::string::npos) replace_all(text, mark, token_text(tokenizer, id, mark));
        const std::string content = "{content}";
        const size_t at = text.find(content);
        if (role == "begin") {
            if (at != std::string::npos) throw Error("begin has no {content}: it stands before all turns");
            t.begin_ = text;
            return;
        }
        if (at == std::string::npos) throw Error(role + " has no {content}, where its text would stand");
        if (text.find(content, at + 1) != std::string::npos) throw Error(role + " has {content} twice");
        if ((role == "assistant" || role == "completion") && text.substr(0, at).ends_with(' '))
            throw Error(role +
                        " has a space before {content}: it is a part of the answer's first token when the model "
                        "learns, and not when it writes; put \\n there, or nothing");
        if (!t.parts_.emplace(role, Part{text.substr(0, at), text.substr(at + content.size())}).second)
            throw Error(role + " stands there a second time");
    };
    std::istringstream in(lines);
    int number = 0;
    for (std::string line; std::getline(in, line);) {
        number++;
        line.resize(line.find_last_not_of(" \t\r") + 1);
        if (line.empty() || line[0] == '#') continue;
        const size_t end = std::min(line.find_first_of(" \t"), line.size());
        const size_t text = std::min(line.find_first_not_of(" \t", end), line.size());
        try {
            for (char c : line.substr(0, end))
                if (!(isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.'))
                    throw Error("a role is written with letters, digits, _, - and .");
            set(line.substr(0, end), std::string_view(line).substr(text));
        } catch (const Error& e) {
            throw Error(strf("--template %s:%d: %s", name.c_str(), number, e.what()));
        }
    }
    for (const char* role : {"user", "assistant"})
        if (!t.parts_.count(role))
            throw Error(strf("--template %s: there is no line for %s, such as: %s <%s>{content}\\n", name.c_str(), role,
                             role, role));
    t.parts_.emplace("prompt", t.parts_["user"]), t.parts_.emplace("completion", t.parts_["assistant"]);
    const bool ends = tokenizer.end_of_text() >= 0;
    if (!t.parts_.count("text")) set("text", ends ? "{bos}{content}{eos}" : "{content}");
    if (!t.parts_.count("first")) set("first", ends ? "{bos}{content}{eos}" : "{content}\\n");
    if (!t.parts_.count("second")) set("second", ends ? "{content}{eos}" : "{content}");
    return t;
}

Template Template::named(const std::string& name, const Tokenizer& tokenizer) {
    if (name == "plain") return parse(kPlain, name, tokenizer);
    if (name == "chatml") return parse(kChatml, name, tokenizer);
    std::string lines;
    try {
        lines = read_file(name, 1 << 20);
    } catch (const Error& e) {
        throw Error(strf("--template: %s; it is chatml, plain or a file", e.what()));
    }
    size_t at = 0;
    if (bytes_that_are_no_utf8(lines, &at) > 0)
        throw Error(strf("--template %s: byte %zu is no UTF-8", name.c_str(), at));
    return parse(lines, name, tokenizer);
}

Template Template::choose(const std::string& name, const Tokenizer& tokenizer, std::string* note) {
    if (!name.empty()) return named(name, tokenizer);
    if (const std::string jinja = tokenizer.chat_template(); !jinja.empty()) return recorded(jinja, tokenizer);
    *note = "note: the model has no template: --template plain (the texts alone, without marks)";
    return named("plain", tokenizer);
}

Template Template::recorded(const std::string& jinja, const Tokenizer& tokenizer) {
    if (const size_t end = jinja.find("#}"); jinja.starts_with("{#") && end != std::string::npos) {
        try {
            const Template t = parse(jinja.substr(2, end - 2), "of the model", tokenizer);
            if (t.jinja() == jinja) return t;
        } catch (const Error&) {  // another program's comment
        }
    }
    std::string bare = jinja;
    replace_all(bare, "\n", "\\n"), std::erase(bare, ' ');
    if (bare == kForeignChatml) return named("chatml", tokenizer);
    throw Error(strf("the model's chat_template (tokenizer_config.json) is another program's: %s", kRemedy));
}

// A line that is of no turn of a conversation.
static bool is_of_examples(const std::string& name) {
    for (const char* part : {"prompt", "completion", "text", "first", "second"})
        if (name == part) return true;
    return false;
}

const Template::Part& Template::part(const std::string& role) const {
    const auto found = parts_.find(role);
    if (found != parts_.end() && !is_of_examples(role)) return found->second;
    std::string known;
    for (const auto& [name, unused] : parts_)
        if (!is_of_examples(name)) known += (known.empty() ? "" : ", ") + name;
    throw Error(strf("the template has no role \"%s\"; it has: %s", role.c_str(), known.c_str()));
}

Template Template::with_prompts(int n) const {
    Template t = *this;
    if (n == prompts_) return t;
    t.prompts_ = n;
    if (prompts_ == 0) {
        std::string places;
        for (int i = 0; i < n; i++) places += place(i);
        t.begin_ = places + t.begin_;
        for (const char* part : {"text", "first"}) t.parts_.at(part).before = places + t.parts_.at(part).before;
        return t;
    }
    if (n > 0)
        throw UsageError(
            strf("the template has places for %d prompts ({prompt}), and there are %d; give as many with "
                 "--prompt-tokens, or another --template",
                 prompts_, n));
    t.begin_ = without_places(t.begin_);
    for (auto& [role, part] : t.parts_) part = {without_places(part.before), without_places(part.after)};
    return t;
}

// Of what stands behind a turn, how much ends it: white space behind that is the template's, unless it is all there is.
static size_t end_of(const std::string& after) {
    const size_t end = after.find_last_not_of(" \t\n") + 1;
    return end > 0 ? end : after.size();
}

// Of what the model writes, the end of the turn counts, too: it must learn to stop.
void Template::add(MarkedText& to, const Part& part, const std::string& content, bool counted) const {
    const size_t end = end_of(part.after);
    to.add(part.before, true, false), to.add(content, false, counted);
    to.add(std::string_view(part.after).substr(0, end), true, counted);
    to.add(std::string_view(part.after).substr(end), true, false);
}

MarkedText Template::conversation(const std::vector<Turn>& turns) const {
    MarkedText out;
    out.add(begin_, true, false);
    for (const Turn& turn : turns) add(out, part(turn.role), turn.content, turn.role == "assistant");
    return out;
}

MarkedText Template::generation_prompt(const std::vector<Turn>& turns) const {
    MarkedText out = conversation(turns);
    out.add(part("assistant").before, true, false);
    return out;
}

std::string Template::end_behind(const Part& part) {
    const std::string& after = part.after;
    return without_places(after.substr(0, end_of(after)));
}

MarkedText Template::completion(const std::string& prompt, const std::string& completion) const {
    MarkedText out;
    out.add(begin_, true, false);
    add(out, parts_.at("prompt"), prompt, false), add(out, parts_.at("completion"), completion, true);
    return out;
}

MarkedText Template::text(const std::string& text) const {
    MarkedText out;
    const Part& part = parts_.at("text");
    out.add(part.before, true, true), out.add(text, false, true), out.add(part.after, true, true);
    return out;
}

MarkedText Template::labelled(const std::string& text, const std::string* pair) const {
    MarkedText out;
    const auto stand = [&](const Part& part, const std::string& content, char number) {
        out.add(part.before, true, false), out.add(content, false, false), out.add(part.after, true, false);
        std::fill_n(out.counts.end() - std::ssize(part.after) - std::ssize(content), content.size(), number);
    };
    stand(parts_.at(pair ? "first" : "text"), text, 1);
    if (pair) stand(parts_.at("second"), *pair, 2);
    return out;
}

std::string Template::jinja() const {
    std::string out = "{#" + lines_ + "#}";
    if (!begin_.empty()) out += "{{ " + quoted(begin_) + " }}";
    out += "{% for message in messages %}";
    const char* test = "if";
    for (const auto& [role, part] : parts_) {
        if (is_of_examples(role)) continue;
        out += strf("{%% %s message['role'] == %s %%}{{ %s + message['content'] + %s }}", test, quoted(role).c_str(),
                    quoted(part.before).c_str(), quoted(part.after).c_str());
        test = "elif";
    }
    out +=
        "{% else %}{{ raise_exception('the template has no role ' + message['role']) }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ " +
        quoted(parts_.at("assistant").before) + " }}{% endif %}";
    return out;
}
