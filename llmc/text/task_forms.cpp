#include "llmc/text/task_forms.h"

#include <algorithm>
#include <cctype>
#include "llmc/base/error.h"
#include "llmc/base/json.h"
#include "llmc/text/splitter.h"
#include "llmc/text/utf8.h"

// ---- text --------------------------------------------------------------------------------------------------------------

// Calls f(position, length, code, valid) for each character.
template <typename F>
static void each_character(std::string_view text, F f) {
    for (size_t i = 0; i < text.size();) {
        Utf8 status;
        uint32_t code;
        const size_t n = read_utf8(byte_pointer(text) + i, text.size() - i, &status, &code);
        if (!f(i, n, status == Utf8::valid ? code : 0xFFFD)) return;
        i += n;
    }
}
static bool is_blank(uint32_t code) { return char_classes()[code] == CharClass::space; }

size_t length_of_blank(std::string_view text) {
    size_t length = text.size();
    each_character(text, [&](size_t i, size_t, uint32_t code) {
        if (is_blank(code)) return true;
        length = i;
        return false;
    });
    return length;
}
std::string_view trimmed_end(std::string_view text) {
    size_t end = 0;
    each_character(text, [&](size_t i, size_t n, uint32_t code) {
        if (!is_blank(code)) end = i + n;
        return true;
    });
    return text.substr(0, end);
}
std::string_view trimmed(std::string_view text) { return trimmed_end(text.substr(length_of_blank(text))); }
int64_t characters(std::string_view text) {
    int64_t count = 0;
    each_character(text, [&](size_t, size_t, uint32_t) { return ++count, true; });
    return count;
}
std::string joined(const std::vector<std::string>& words, const char* between) {
    std::string all;
    for (const std::string& word : words) all += (all.empty() ? "" : between) + word;
    return all;
}

static void replace_all(std::string& text, std::string_view from, std::string_view to) {
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
        text.replace(at, from.size(), to);
}

// Python's str.capitalize() for the Latin letters of Unicode's first 256.
static std::string capitalised(std::string_view text) {
    std::string out;
    each_character(text, [&](size_t i, size_t n, uint32_t code) {
        const bool latin = code < 0x80 ? std::isalpha(static_cast<int>(code)) != 0
                                       : code >= 0xC0 && code < 0xFF && code != 0xD7 && code != 0xDF && code != 0xF7;
        if (latin) append_utf8(out, i == 0 ? code & ~0x20u : code | 0x20);
        else out.append(text.substr(i, n));
        return true;
    });
    return out;
}

// HellaSwag's texts from WikiHow have [header], [title], [step] and the like in them.
static std::string without_brackets(std::string_view raw) {
    std::string text(trimmed(raw));
    replace_all(text, " [title]", ". ");
    for (size_t open = 0; (open = text.find('[', open)) != std::string::npos;) {
        const size_t close = text.find_first_of("]\n", open);
        if (close == std::string::npos || text[close] == '\n') open++;
        else text.erase(open, close - open + 1);
    }
    replace_all(text, "  ", " ");  // of each two, once: a third one stays
    return text;
}

// ---- fields ------------------------------------------------------------------------------------------------------------

static std::string filled_text(const Json& object, const char* field) {
    std::string text = json_text(object, field);
    if (text.empty()) throw Error(strf("field \"%s\" is empty", field));
    return text;
}
static std::vector<std::string> texts_of(const Json& object, const char* field) {
    if (!object.contains(field)) throw Error(strf("no field \"%s\"", field));
    if (!object[field].is_array()) throw Error(strf("field \"%s\" is not an array", field));
    std::vector<std::string> texts;
    for (const Json& text : object[field]) {
        if (!text.is_string() || text.get<std::string>().empty())
            throw Error(strf("field \"%s\" holds %s, which is no text", field, json_line(text).c_str()));
        texts.push_back(text.get<std::string>());
    }
    if (texts.empty()) throw Error(strf("field \"%s\" is empty", field));
    return texts;
}

// The right choice's number: 2, "2" or "C"; or what `labels` call it.
static int right_of(const Json& object, const char* field, size_t choices,
                    const std::vector<std::string>& labels = {}) {
    if (!object.contains(field)) throw Error(strf("no right answer: no field \"%s\"", field));
    Json value = object[field];
    int right = -1;
    if (value.is_string()) {
        const std::string text = value.get<std::string>();
        const auto found = std::find(labels.begin(), labels.end(), text);
        if (found != labels.end()) right = static_cast<int>(found - labels.begin());
        else if (labels.empty() && text.size() == 1 && text[0] >= 'A' && text[0] <= 'Z') right = text[0] - 'A';
        else if (labels.empty()) value = try_json(text);
    }
    if (right < 0 && !json_whole(value, &right)) right = -1;
    if (right < 0 || right >= static_cast<int>(choices))
        throw Error(strf("no right answer: \"%s\" is %s, and there are %zu choices", field,
                         json_line(object[field]).c_str(), choices));
    return right;
}

// ---- forms -------------------------------------------------------------------------------------------------------------

static Question hellaswag(const Json& j) {
    Question q;
    q.context = without_brackets(json_text(j, "activity_label") + ": " + json_text(j, "ctx_a") + " " +
                                 capitalised(json_text(j, "ctx_b")));
    for (const std::string& ending : texts_of(j, "endings")) {
        q.choices.push_back(without_brackets(ending));
        if (q.choices.back().empty()) throw Error("an ending is nothing but brackets");
    }
    q.right = right_of(j, "label", q.choices.size());
    return q;
}
static Question hellaswag_llmc(const Json& j) {
    Question q;
    q.context = filled_text(j, "ctx"), q.choices = texts_of(j, "endings");
    q.right = right_of(j, "label", q.choices.size());
    return q;
}

static Question arc(const Json& j) {
    Question q;
    std::vector<std::string> labels;
    if (j.contains("question") && j["question"].is_object()) {
        const Json& question = j["question"];
        q.context = filled_text(question, "stem");
        if (!question.contains("choices") || !question["choices"].is_array()) throw Error("no array \"choices\"");
        for (const Json& choice : question["choices"]) {
            if (!choice.is_object()) throw Error("a choice is no object");
            q.choices.push_back(filled_text(choice, "text")), labels.push_back(json_text(choice, "label"));
        }
    } else {
        q.context = filled_text(j, "question");
        if (!j.contains("choices") || !j["choices"].is_object()) throw Error("field \"choices\" is not an object");
        q.choices = texts_of(j["choices"], "text"), labels = texts_of(j["choices"], "label");
        if (labels.size() != q.choices.size()) throw Error("not as many labels as choices");
    }
    if (labels.empty()) throw Error("no choices");
    q.context = "Question: " + q.context + "\nAnswer:";
    q.right = right_of(j, "answerKey", q.choices.size(), labels);
    return q;
}

static Question mmlu(const Json& j) {
    Question q;
    q.context = trimmed(filled_text(j, "question"));
    const std::vector<std::string> choices = texts_of(j, "choices");
    if (choices.size() != 4) throw Error(strf("%zu choices, not four", choices.size()));
    for (size_t i = 0; i < 4; i++) {
        q.choices.push_back(std::string(1, "ABCD"[i]));
        q.context += "\n" + q.choices[i] + ". " + choices[i];
    }
    q.context += "\nAnswer:";
    q.right = right_of(j, "answer", 4);
    if (j.contains("subject")) {
        std::string subject = json_text(j, "subject");
        std::replace(subject.begin(), subject.end(), '_', ' ');
        q.description = "The following are multiple choice questions (with answers) about " + subject + ".\n\n";
    }
    return q;
}

static Question lambada(const Json& j) {
    Question q;
    const std::string text = filled_text(j, "text");
    const size_t space = text.rfind(' ');
    if (space == std::string::npos || space + 1 == text.size()) throw Error("the text does not end with a word");
    q.context = text.substr(0, space), q.choices = {text.substr(space + 1)};
    return q;
}

static Question blimp(const Json& j) {
    Question q;
    q.choices = {filled_text(j, "sentence_good"), filled_text(j, "sentence_bad")};
    return q;
}

static Question choices(const Json& j) {
    Question q;
    const char* field = j.contains("context") ? "context" : j.contains("prompt") ? "prompt" : "question";
    q.context = json_text(j, field), q.choices = texts_of(j, "choices");
    q.right = right_of(j, "answer", q.choices.size());
    return q;
}

static Question cloze(const Json& j) {
    Question q;
    const std::string sentence = filled_text(j, "masked_sentence");
    const size_t mask = sentence.find("[MASK]");
    if (mask == std::string::npos) throw Error("no [MASK] in the masked sentence");
    q.context = sentence.substr(0, mask), q.after = sentence.substr(mask + 6);
    q.choices = {filled_text(j, "obj_label")};
    q.between = "";
    return q;
}

static Question classify(const Json& j) {
    Question q;
    q.context = filled_text(j, "text");
    if (!j.contains("label")) throw Error("no field \"label\"");
    const Json& label = j["label"];
    if (!label.is_string() && !label.is_number_integer() && !label.is_boolean())
        throw Error("field \"label\" is neither a string nor a whole number");
    q.choices = {label.is_string() ? std::string(trimmed(label.get<std::string>())) : json_line(label)};
    if (q.choices[0].empty()) throw Error("field \"label\" is empty");
    return q;
}

static Question match(const Json& j) {
    Question q;
    q.context = json_text(j, "prompt"), q.choices = {filled_text(j, "completion")};
    return q;
}

namespace {

struct Form : TaskForm {
    Question (*read)(const Json&);
};
const Form kForms[] = {
    {{"hellaswag", TaskKind::choices, false, "", ""}, hellaswag},
    {{"hellaswag-llmc", TaskKind::choices, false, "", ""}, hellaswag_llmc},
    {{"arc", TaskKind::choices, false, "", ""}, arc},
    {{"mmlu", TaskKind::choices, false, "", ""}, mmlu},
    {{"lambada", TaskKind::last_word, false, "", ""}, lambada},
    {{"blimp", TaskKind::choices, false, "", ""}, blimp},
    {{"cloze", TaskKind::cloze, true, "\"masked_sentence\" and \"obj_label\"", "masked_sentence"}, cloze},
    {{"choices", TaskKind::choices, true, "\"context\", \"choices\" and \"answer\"", "choices"}, choices},
    {{"classify", TaskKind::classify, true, "\"text\" and \"label\"", "label"}, classify},
    {{"match", TaskKind::match, true, "\"prompt\" and \"completion\"", "completion"}, match},
};

Json object_of(std::string_view line) {
    Json j;
    try {
        j = parse_json(line, "column ");
    } catch (const Error& e) {
        throw Error(strf("not valid JSON: %s", e.what()));
    }
    if (!j.is_object()) throw Error("not a JSON object");
    return j;
}

}  // namespace

const TaskForm* named_form(std::string_view name) {
    for (const Form& form : kForms)
        if (name == form.name) return &form;
    return nullptr;
}
const TaskForm* own_form(std::string_view line) {
    const Json j = try_json(line);
    for (const Form& form : kForms)
        if (form.own && j.is_object() && j.contains(form.tell_tale)) return &form;
    return nullptr;
}
std::string own_forms() {
    std::vector<std::string> all;
    for (const Form& form : kForms)
        if (form.own) all.push_back(form.fields);
    return joined(all, ", or ");
}
const std::vector<std::string>& task_names() {
    static const std::vector<std::string> names = [] {
        std::vector<std::string> all;
        for (const Form& form : kForms) all.push_back(form.name);
        return all;
    }();
    return names;
}
Question read_question(const TaskForm& form, std::string_view line) {
    return static_cast<const Form&>(form).read(object_of(line));
}
