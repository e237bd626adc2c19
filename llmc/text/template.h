// A template: what stands around the texts of an example, so that a model can tell them apart.
//
// --template plain, chatml, or a file with a line for each part, its name and its text:
//
//     # <|im_start|> and the like are tokens where the vocabulary has them, else text
//     system     <|im_start|>system\n{content}<|im_end|>\n
//     user       <|im_start|>user\n{content}<|im_end|>\n
//     assistant  <|im_start|>assistant\n{content}<|im_end|>\n
//
// {content} is the text itself, {bos} and {eos} are the vocabulary's tokens; \n \t \s (a space) \} \\ are escapes. {prompt}
// is a place for a trained prompt (model/prompts.h), {prompt:5} are places for five of them: each of its own, in the order of
// the lines, so that a line that is used twice has the same ones. A template without such places has them in front. user
// and assistant must be there. More: any other role; `begin`, which stands once before a conversation; and the parts of
// other examples: `prompt` and `completion` (as user and assistant where they are left out), `text` ({bos}{content}{eos}),
// and of a pair of labelled texts `first` (as `text`) and `second` ({content}{eos}): the last token is the one that a head
// reads. No space stands before what the model writes: that space would be a part of its first token, which begins after it.
//
// A model directory records it as `chat_template` in tokenizer_config.json: Jinja, as transformers wants it, with the
// lines above in a comment, by which we know it again.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>
#include "llmc/text/tokenizer.h"

// A text and what each byte of it is.
struct MarkedText {
    std::string text;
    std::string markup;  // 1: the template's, where special tokens are found; 0: people's; 2: a place for a prompt
    std::string counts;  // 1: the model learns to write it
    void add(std::string_view part, bool is_markup, bool counted);
    MarkedText first(size_t n) const { return {text.substr(0, n), markup.substr(0, n), counts.substr(0, n)}; }
};
// A document's ids, -1 for the first prompt; ends: where in the text each ends.
void encode_marked(const MarkedText& text, const Tokenizer& tokenizer, std::vector<int>& ids,
                   std::vector<size_t>& ends);

struct Turn {
    std::string role, content;
};

class Template {
  public:
    // plain, chatml or a file's name. Error names what is wrong, and the line of a file.
    static Template named(const std::string& name, const Tokenizer& tokenizer);
    // By name, or with no name what the vocabulary's directory records, or plain: then `note` says so.
    static Template choose(const std::string& name, const Tokenizer& tokenizer, std::string* note);
    // What the model directory records. Error: another program's template, which we do not know.
    static Template recorded(const std::string& jinja, const Tokenizer& tokenizer);

    // A conversation: the assistant's turns count, up to where they end. Error: a role that there is no line for.
    MarkedText conversation(const std::vector<Turn>& turns) const;
    // What a model goes on from to write the assistant's next turn.
    MarkedText generation_prompt(const std::vector<Turn>& turns) const;
    // What it ends the turn with, or a completion; "": nothing but a token at which models stop.
    std::string end_of_turn() const { return end_behind(part("assistant")); }
    std::string end_of_completion() const { return end_behind(parts_.at("completion")); }
    MarkedText completion(const std::string& prompt, const std::string& completion) const;
    MarkedText text(const std::string& text) const;
    // What a head reads; pair: the second of two texts, or null. `counts` says which text a byte is of: 1, 2, 0: neither.
    MarkedText labelled(const std::string& text, const std::string* pair) const;

    std::string jinja() const;  // without the places for prompts, of which transformers knows nothing

    int prompts() const { return prompts_; }  // places for them
    // As it is for a model of so many prompts: 0: without places. UsageError: it has places for another number.
    Template with_prompts(int n) const;

  private:
    struct Part {
        std::string before, after;
    };
    static Template parse(const std::string& lines, const std::string& name, const Tokenizer& tokenizer);
    const Part& part(const std::string& role) const;
    static std::string end_behind(const Part& part);
    void add(MarkedText& to, const Part& part, const std::string& content, bool counted) const;

    std::string lines_;  // as they were given
    std::string begin_;
    int prompts_ = 0;
    std::map<std::string, Part> parts_;
};
