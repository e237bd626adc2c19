// Tasks: questions with answers to choose from, or one to write, as `eval --task` measures them.
//
// They are read from JSON lines. Official downloads, whose texts are prepared as lm-evaluation-harness 0.4 prepares them:
//
//   hellaswag  {"activity_label","ctx_a","ctx_b","endings":[...],"label": 1 or "1"}         (Zellers et al. 2019)
//   arc        {"question":{"stem","choices":[{"text","label"},...]},"answerKey"}           (Clark et al. 2018)
//              or, as on the Hub, {"question","choices":{"text":[...],"label":[...]},"answerKey"}
//   mmlu       {"question","subject","choices":[4 texts],"answer": 0 to 3 or a letter}      (Hendrycks et al. 2021)
//   lambada    {"text"}: the last word is asked for                                         (Paperno et al. 2016)
//   blimp      {"sentence_good","sentence_bad"}: which is likelier, each after <|endoftext|>  (Warstadt et al. 2020)
//
// and hellaswag-llmc, as llm.c prepares it: {"ctx","endings","label"}. Forms for data of one's own, which a file's first
// line tells apart where it is named in place of a task:
//
//   choices    {"context" (or "prompt" or "question"),"choices":[...],"answer": number from 0, or letter}
//   cloze      {"obj_label","masked_sentence"}, [MASK] in the sentence, as in LAMA          (Petroni et al. 2019)
//   classify   {"text","label"}
//   match      {"prompt","completion"}: the model writes, and what it wrote is compared
//
// A space stands between context and answer; in one's own forms not where either has white space there.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>
#include "llmc/text/reader.h"
#include "llmc/text/tokenizer.h"

struct Question {
    std::string context;
    std::vector<std::string> choices;  // answers; of lambada, match and a cloze without candidates the right one alone
    int right = 0;
    std::string between = " ";  // context and answer
    std::string description;    // before examples and context
    std::string after;          // cloze: what follows [MASK]

    std::string answer(size_t choice) const { return between + choices[choice]; }
};

enum class TaskKind { choices, last_word, cloze, classify, match };

struct Task {
    std::string name;
    TaskKind kind = TaskKind::choices;
    std::vector<Question> questions;
    std::vector<std::string> classes;  // classify: the labels, which are each question's choices
    std::vector<std::string>
        left_out;             // cloze: sentences in which something follows [MASK], or more than one token fills it
    bool candidates = false;  // cloze: each question has all candidates as its choices
};

struct TaskOptions {
    std::string name;                // of the above; or a file, whose form is found
    std::vector<std::string> files;  // JSON lines; not looked at where `name` is a file
    int64_t limit = 0;               // at most so many questions; 0: all
    bool skip_bad = false;           // lines that are no question are left out, and counted
    std::vector<std::string>
        labels;          // classify: the labels, in their order; cloze: candidates. None: the data's; all words
    std::string prompt;  // what stands around the context, with {text} for it; \n \t \\ are escapes. "": nothing
    int shots = 0;       // so many answered questions stand before each
    std::vector<std::string> shots_data;  // the first of these; none: of the task's own, drawn at random
};

// Error names the file and line of what is no question of the form, files without any, --shots beyond the data, and labels
// of which one begins with another's tokens: it would never be chosen.
Task read_task(const TaskOptions& options, const Tokenizer& tokenizer, ReadingNotes* notes);
const std::vector<std::string>& task_names();
// Labels or candidates: a list with commas, or a file with one a line.
std::vector<std::string> read_labels(const std::string& list);
// Prompts, one a line. Error: none, or one without {text}.
std::vector<std::string> read_candidate_prompts(const std::string& path);

// Tokens, of which those from `begin` on are an answer to what stands before.
struct Continuation {
    std::vector<int> ids;
    size_t begin = 1;
};
// As lm-evaluation-harness does it: white space at the context's end belongs to the answer, both are encoded as one text,
// and what the context alone has tokens for is cut off. An empty context is the beginning of a text.
Continuation encode_continuation(const Tokenizer& tokenizer, std::string_view context, std::string_view answer);

int64_t characters(std::string_view text);  // Unicode code points, as Python's len() counts
