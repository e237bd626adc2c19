#include "llmc/text/answer_prompts.h"

#include <algorithm>
#include "llmc/base/error.h"
#include "llmc/base/json.h"
#include "llmc/text/examples.h"
#include "llmc/text/permutation.h"

const AnswerPrompt& AnswerPrompts::prompt(int64_t row) const {
    const int64_t epoch = row / size(), i = row % size();
    return prompts_[static_cast<size_t>(shuffle_ ? permute(i, size(), seed_, epoch, 0) : i)];
}

int AnswerPrompts::longest() const {
    size_t most = 0;
    for (const AnswerPrompt& p : prompts_) most = std::max(most, p.ids.size());
    return static_cast<int>(most);
}

int64_t AnswerPrompts::tokens() const {
    int64_t n = 0;
    for (const AnswerPrompt& p : prompts_) n += std::ssize(p.ids);
    return n;
}

// The text in front of the answer.
static MarkedText text_of(const Json& object, const Template& chat, std::string* stop) {
    if (object.contains("messages")) {
        if (!object["messages"].is_array()) throw Error("field \"messages\" is not an array");
        std::vector<Turn> turns;
        for (const Json& message : object["messages"])
            turns.push_back({json_text(message, "role"), json_text(message, "content")});
        if (turns.empty()) throw Error("there is no message");
        if (turns.back().role == "assistant")
            throw Error("the last message is the assistant's: there is nothing to write");
        *stop = chat.end_of_turn();
        return chat.generation_prompt(turns);
    }
    const std::string prompt = json_text(object, "prompt");
    if (prompt.empty()) throw Error("the prompt is empty");
    *stop = chat.end_of_completion();
    const MarkedText whole = chat.completion(prompt, "x");
    return whole.first(whole.counts.find('\1'));
}

std::vector<AnswerPrompt> read_answer_prompts(const std::vector<std::string>& inputs, const ReaderOptions& options,
                                              const Template& chat, const Tokenizer& tokenizer, ReadingNotes* notes) {
    std::vector<AnswerPrompt> prompts;
    for_each_object(inputs, options, *notes, [&](std::string_view line) {
        const Json object = json_object(line);
        AnswerPrompt p;
        const MarkedText text = text_of(object, chat, &p.stop);
        if (const auto right = object.find("answer"); right != object.end())
            p.right = right->is_string() ? right->get<std::string>() : right->dump();
        std::vector<size_t> ends;
        encode_marked(text, tokenizer, p.ids, ends);
        if (p.ids.empty()) throw Error("the prompt has no token");
        p.line = json_line(object);
        prompts.push_back(std::move(p));
    });
    if (prompts.empty())
        throw Error(strf("%s: no prompt in it%s", inputs.empty() ? "" : inputs[0].c_str(),
                         notes->bad.count > 0 ? (" that is whole; the first: " + notes->bad.first).c_str() : ""));
    return prompts;
}
