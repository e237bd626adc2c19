#include "llmc/text/examples.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/base/philox.h"
#include "llmc/text/labels.h"

namespace fs = std::filesystem;

void Examples::add(std::span<const int> ids, std::span<const float> weight) {
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    weights.insert(weights.end(), weight.begin(), weight.end());
    weights[static_cast<size_t>(starts.back())] = 0;
    starts.push_back(std::ssize(tokens));
}

Examples Examples::without_prompts() const {
    Examples out;
    for (int64_t i = 0; i < size(); i++) {
        std::vector<int> id;
        std::vector<float> weight;
        ExampleLabel label = labels.empty() ? ExampleLabel{0} : labels[static_cast<size_t>(i)];
        const int second = label.second;
        for (size_t k = 0; k < ids(i).size(); k++)
            if (ids(i)[k] >= 0) id.push_back(ids(i)[k]), weight.push_back(weights_of(i)[k]);
            else if (static_cast<int>(k) < second) label.second--;
        if (labels.empty()) out.add(id, weight);
        else out.add(id, weight, label);
    }
    return out;
}
void Examples::add(std::span<const int> ids, std::span<const float> weight, ExampleLabel label) {
    add(ids, weight);
    labels.push_back(label);
}
void Examples::add_from(const Examples& other, int64_t i) {
    if (other.labels.empty()) add(other.ids(i), other.weights_of(i));
    else add(other.ids(i), other.weights_of(i), other.labels[static_cast<size_t>(i)]);
}

static bool counts(std::span<const float> weights) {
    return std::any_of(weights.begin() + std::min<std::ptrdiff_t>(1, std::ssize(weights)), weights.end(),
                       [](float w) { return w != 0; });
}

bool cut_example(std::vector<int>& ids, std::vector<float>& weights, size_t room) {
    if (ids.size() <= room) return false;
    const auto first = std::find_if(weights.begin(), weights.end(), [](float w) { return w != 0; });
    const auto words =
        std::count_if(ids.begin(), ids.begin() + (first - weights.begin()), [](int id) { return id >= 0; });
    size_t drop = std::min(ids.size() - room, static_cast<size_t>(std::max<std::ptrdiff_t>(words, 1) - 1)), to = 0;
    for (size_t k = 0; k < ids.size() && to < room; k++)
        if (drop > 0 && ids[k] >= 0) drop--;
        else ids[to] = ids[k], weights[to++] = weights[k];
    ids.resize(to), weights.resize(to);
    return true;
}

Examples Examples::fit(int T) const {
    if (!labels.empty()) return *this;  // Labels has seen to it
    Examples out;
    for (int64_t i = 0; i < size(); i++) {
        std::vector<int> id(ids(i).begin(), ids(i).end());
        std::vector<float> weight(weights_of(i).begin(), weights_of(i).end());
        out.cut += cut_example(id, weight, static_cast<size_t>(T) + 1);
        if (counts(weight)) out.add(id, weight);
        else out.left_out++;
    }
    return out;
}

Examples Examples::hold_back(int64_t every, Examples* validation) const {
    Examples rest;
    for (int64_t i = 0; i < size(); i++) {
        const uint32_t block = static_cast<uint32_t>(i / every), counter = static_cast<uint32_t>(Use::shuffle) << 24;
        const bool held =
            philox(0, block, 0, 0, counter).v[0] % static_cast<uint64_t>(every) == static_cast<uint64_t>(i % every);
        (held ? *validation : rest).add_from(*this, i);
    }
    return rest;
}

void marked_tokens(const MarkedText& text, const Tokenizer& tokenizer, std::vector<int>& ids,
                   std::vector<float>& weights) {
    std::vector<size_t> ends;
    encode_marked(text, tokenizer, ids, ends);
    for (size_t i = 0, from = 0; i < ids.size(); from = ends[i++])
        weights.push_back(text.counts.substr(from, ends[i] - from).find('\1') != std::string::npos);
}
void add_example(const MarkedText& text, const Tokenizer& tokenizer, Examples& examples) {
    std::vector<int> ids;
    std::vector<float> weights;
    marked_tokens(text, tokenizer, ids, weights);
    if (!counts(weights)) throw Error("nothing in it to learn: the text has no second token");
    examples.add(ids, weights);
}

// ---- JSON --------------------------------------------------------------------------------------------------------------

namespace {

// As a class is named: a string, or a number as it is written.
std::string label_of(const Json& object) {
    if (!object.contains("label")) throw Error("no field \"label\"");
    const Json& label = object["label"];
    if (label.is_string() && !label.get<std::string>().empty()) return label.get<std::string>();
    if (label.is_number() || label.is_boolean()) return label.dump();
    throw Error("the label is neither a string nor a number");
}
std::string filled(const Json& object, const char* field, const char* what) {
    std::string text = json_text(object, field);
    if (text.empty()) throw Error(strf("%s is empty", what));
    return text;
}

MarkedText from_messages(const Json& object, const Template& chat) {
    if (!object["messages"].is_array()) throw Error("field \"messages\" is not an array");
    std::vector<Turn> turns;
    bool answers = false;
    for (const Json& message : object["messages"]) {
        if (!message.is_object()) throw Error("a message is not an object");
        turns.push_back({json_text(message, "role"), json_text(message, "content")});
        if (turns.back().role != "assistant") continue;
        if (turns.back().content.empty()) throw Error("a turn of the assistant is empty");
        answers = true;
    }
    MarkedText text = chat.conversation(turns);  // first, for what it says of roles
    if (!answers) throw Error("no turn of the assistant in the messages");
    return text;
}
MarkedText from_pair(const Json& object, const Template& chat) {
    return chat.completion(json_text(object, "prompt"), filled(object, "completion", "the completion"));
}
MarkedText from_text(const Json& object, const Template& chat) { return chat.text(filled(object, "text", "the text")); }

// The forms of an example, known by a field.
struct Form {
    const char *field, *fields;
    MarkedText (*read)(const Json&, const Template&);
};
constexpr Form kForms[] = {{"messages", "\"messages\"", from_messages},
                           {"completion", "\"prompt\" and \"completion\"", from_pair},
                           {"text", "\"text\"", from_text}};

}  // namespace

Examples read_examples(const std::vector<std::string>& inputs, const ReaderOptions& options, const Template& chat,
                       const Tokenizer& tokenizer, ReadingNotes* notes, Labels* labels, int64_t* unused_labels) {
    Examples examples;
    for_each_object(inputs, options, *notes, [&](std::string_view text) {
        const Json object = json_object(text);
        if (labels && !labels->begin(object.contains("chosen")  ? LabelOf::pair
                                     : object.contains("label") ? LabelOf::text
                                                                : LabelOf::nothing))
            labels = nullptr;
        if (labels && labels->of() == LabelOf::pair) {
            const std::string prompt = filled(object, "prompt", "the prompt"),
                              chosen = filled(object, "chosen", "what was chosen"),
                              rejected = filled(object, "rejected", "what was rejected");
            return labels->add_preference(prompt, chosen, rejected, chat, tokenizer, examples);
        }
        if (labels && labels->of() == LabelOf::text) {
            const std::string first = filled(object, "text", "the text"), label = label_of(object);
            const bool pair = object.contains("text_pair");
            const std::string second = pair ? filled(object, "text_pair", "the second text") : "";
            return labels->add(first, pair ? &second : nullptr, label, chat, tokenizer, examples);
        }
        if (unused_labels) *unused_labels += object.contains("label");
        const Form* form =
            std::find_if(std::begin(kForms), std::end(kForms), [&](const Form& f) { return object.contains(f.field); });
        if (form == std::end(kForms)) {
            std::string known;
            for (const Form& f : kForms) known += (known.empty() ? "" : ", or ") + std::string(f.fields);
            throw Error("no fields of an example: " + known);
        }
        if (labels) return labels->add_unknown(form->read(object, chat), tokenizer, examples);
        add_example(form->read(object, chat), tokenizer, examples);
    });
    if (examples.size() == 0 && examples.left_out == 0)
        throw Error(strf("%s: no example in it%s", inputs.empty() ? "" : inputs[0].c_str(),
                         notes->bad.count > 0 ? (" that is whole; the first: " + notes->bad.first).c_str() : ""));
    return examples;
}

bool names_examples(const std::string& path) {
    if (path == "-" || is_examples_file(path)) return true;
    if (is_directory(path)) return is_file(path + "/train.examples");
    if (!is_file(path)) return path_exists(path);  // a pipe
    const std::string ending = fs::path(path).extension().string();
    for (const char* known : {".jsonl", ".ndjson", ".json", ".gz", ".xz", ".zst"})
        if (ending == known) return true;
    std::ifstream file(path, std::ios::binary);
    const int first = (file >> std::ws).get();
    return first == '{' || first == '[';
}

// ---- the file of ./tokenize examples -------------------------------------------------------------------------------------

static constexpr int kMagic = 20261126, kVersion = 1, kHeader = 256;

bool is_examples_file(const std::string& path) { return path.ends_with(".examples"); }

void write_examples_file(const std::string& path, const Examples& examples, int vocabulary_size) {
    int32_t header[kHeader] = {kMagic, kVersion, vocabulary_size};
    const int64_t sizes[2] = {examples.size(), std::ssize(examples.tokens)};
    std::memcpy(header + 4, sizes, sizeof sizes);
    FileWriter file(path);
    file.write(header, sizeof header);
    file.write(examples.starts.data(), examples.starts.size() * sizeof(int64_t));
    file.write(examples.tokens.data(), examples.tokens.size() * sizeof(int32_t));
    file.write(examples.weights.data(), examples.weights.size() * sizeof(float));
    file.close();
}

Examples read_examples_file(const std::string& path, int vocabulary_size) {
    const auto refuse = [&](const std::string& why) {
        throw Error(path + ": " + why + "; write it again with ./tokenize examples");
    };
    const MappedFile file(path);
    int32_t header[kHeader] = {};
    if (file.size() >= sizeof header) std::memcpy(header, file.data(), sizeof header);
    if (header[0] != kMagic) refuse("is no file of examples");
    if (header[1] != kVersion) refuse(strf("has version %d, this program reads %d", header[1], kVersion));
    int64_t sizes[2];
    std::memcpy(sizes, header + 4, sizeof sizes);
    const auto [count, tokens] = sizes;
    constexpr int64_t most = int64_t{1} << 48;
    if (count < 1 || tokens < 1 || count > most || tokens > most ||
        file.size() != sizeof header + 8 * (static_cast<size_t>(count) + 1 + static_cast<size_t>(tokens)))
        refuse(strf("has %zu bytes, not those of its %lld examples", file.size(), static_cast<long long>(count)));
    Examples e;
    const unsigned char* at = file.data() + sizeof header;
    const auto take = [&](auto& to, int64_t n) {
        to.resize(static_cast<size_t>(n));
        std::memcpy(to.data(), at, to.size() * sizeof to[0]);
        at += to.size() * sizeof to[0];
    };
    take(e.starts, count + 1), take(e.tokens, tokens), take(e.weights, tokens);
    if (e.starts[0] != 0 || e.starts.back() != tokens) refuse("has starts that are not those of its tokens");
    for (size_t i = static_cast<size_t>(count);
         i-- > 0;)  // from the end: what is subtracted from is no more than tokens
        if (e.starts[i] < 0 || e.starts[i] > e.starts[i + 1] - 2) refuse("has an example without tokens");
    for (int id : e.tokens)
        if (id < 0 || id >= vocabulary_size)
            refuse(strf("has the id %d, which the vocabulary of %d tokens has not", id, vocabulary_size));
    for (float w : e.weights)
        if (!(w >= 0 && w <= 1e6f)) refuse("has a weight that is no number from 0 on");
    return e;
}
