// chat: a conversation with a model, by its template; at the terminal, or from a pipe, whose lines are the messages.
//
// What of the conversation the cache has is not fed again (Generator). Where it grows beyond the model's context, the
// oldest messages go, whole, but for the system's.
#pragma once
#include <unistd.h>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include "llmc/files/model_files.h"
#include "llmc/run/model.h"
#include "llmc/run/run.h"
#include "llmc/run/sample_command.h"
#include "llmc/text/template.h"

class Conversation {
  public:
    Conversation(const Template& chat, const Tokenizer& tokenizer, const std::string& system)
        : chat_(chat), tokenizer_(tokenizer) {
        if (!system.empty()) turns_.push_back({"system", system});
        first_ = turns_.size();
        ids();  // for what it says of roles
    }
    void add(const std::string& role, const std::string& content) { turns_.push_back({role, content}); }
    void reset() { turns_.resize(first_); }
    // The tokens from which the model goes on, at most `room`: messages that were dropped for it are counted, the newest
    // one stays. Empty: that one alone is too long, and was taken back.
    std::vector<int> prompt(size_t room, int* dropped) {
        std::vector<int> tokens = ids();
        while (tokens.size() > room && turns_.size() > first_ + 1) {
            do turns_.erase(turns_.begin() + static_cast<std::ptrdiff_t>(first_)), ++*dropped;
            while (turns_.size() > first_ + 1 && turns_[first_].role == "assistant");
            tokens = ids();
        }
        if (tokens.size() <= room) return tokens;
        turns_.pop_back();
        return {};
    }

  private:
    std::vector<int> ids() const {
        std::vector<int> out;
        std::vector<size_t> ends;
        encode_marked(chat_.generation_prompt(turns_), tokenizer_, out, ends);
        return out;
    }
    const Template& chat_;
    const Tokenizer& tokenizer_;
    std::vector<Turn> turns_;
    size_t first_;  // turn that may be dropped
};

template <Model M>
int chat_command(Run run) {
    const Options& o = run.options;
    const int T = run.config.T;
    std::string note;
    const Template given = Template::choose(o.chat_template, *run.tokenizer, &note);
    Template chat = given;  // as the adapter in use wants it
    if (!note.empty()) fprintf(stderr, "%s\n", note.c_str());
    std::vector<std::string> stops = o.stops;
    if (const std::string end = chat.end_of_turn(); !end.empty()) stops.push_back(end);
    Conversation conversation(chat, *run.tokenizer, o.system);

    StepOptions inference = run.inference_options(1);
    inference.T = 1;  // a decoder has buffers of its own
    M model(run.config, inference);
    load_run(run, model);
    Decoder<typename M::Model> decoder(model, 1, T);
    auto generator = std::make_unique<Generator<decltype(decoder)>>(decoder);
    const auto use = [&](const std::string& name) {
        for (const auto& [choice, adapter] : run.choices) {
            if (choice != name) continue;
            model.use_adapter(adapter);
            chat = given.with_prompts(run.prompts(adapter));
            decoder.keep(0, 0);  // what the cache holds another one has computed
            generator = std::make_unique<Generator<decltype(decoder)>>(decoder);
            return true;
        }
        return false;
    };
    use(run.choices[0].first);
    const size_t room = static_cast<size_t>(std::max(1, T - std::min(o.max_tokens, T / 2)));  // with room for an answer
    const bool terminal = isatty(STDIN_FILENO);
    if (terminal) printf("Type a message; /reset begins anew, an empty line or /quit ends.\n");
    int code = 0;
    uint32_t answers = 0;
    for (std::string line;;) {
        if (terminal) printf("> "), fflush(stdout);
        if (!std::getline(std::cin, line)) break;
        line = written_text(line + "\n", "standard input");
        if (line.empty() || line == "/quit") break;
        if (line == "/reset") {
            conversation.reset();
            continue;
        }
        if (const std::string command = "/adapter "; line.starts_with(command)) {
            if (use(line.substr(command.size()))) continue;
            std::string names;
            for (const auto& [name, adapter] : run.choices) names += (names.empty() ? "" : ", ") + name;
            fprintf(stderr, "error: there is no adapter %s; there are: %s\n", line.substr(command.size()).c_str(),
                    names.c_str());
            code = 1;
            continue;
        }
        conversation.add("user", line);
        int dropped = 0;
        const std::vector<int> prompt = conversation.prompt(room, &dropped);
        if (dropped > 0)
            fprintf(stderr, "note: the context of %d tokens is full: the %d oldest message%s forgotten\n", T, dropped,
                    dropped == 1 ? " is" : "s are");
        if (prompt.empty()) {
            fprintf(stderr,
                    "error: the message is too long: with what the template adds there is room for %zu tokens\n", room);
            code = 1;
            continue;
        }
        const int most = std::min(o.max_tokens, T - static_cast<int>(prompt.size()) + 1);
        const GrowingText answer = generate_text(*generator, &*run.tokenizer, {prompt, answers++}, most,
                                                 sampler_options(o), stops, print_piece);
        print_piece("\n");
        conversation.add("assistant", answer.text());
    }
    return code;
}
