// eval --task: a model's answers to questions (llmc/text/tasks.h), and what they are worth.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>
#include "llmc/base/files.h"
#include "llmc/base/human.h"
#include "llmc/model/decoder.h"
#include "llmc/run/eval_report.h"
#include "llmc/run/eval_scores.h"
#include "llmc/run/run.h"
#include "llmc/text/permutation.h"
#include "llmc/text/generate.h"
#include "llmc/text/sampler.h"
#include "llmc/text/task_forms.h"
#include "llmc/text/template.h"

struct Answers {
    Scores scores;
    std::vector<std::string> written;  // of match
    int64_t cut = 0;                   // questions that lost their beginning
};

// What training asks as it goes on (--hellaswag).
inline Task training_questions(const Run& run) {
    if (!run.options.hellaswag) return {};
    if (!run.tokenizer) throw Error("--hellaswag needs GPT-2's vocabulary: `make gpt2`");
    TaskOptions options;
    options.name = "hellaswag-llmc", options.files = {run.options.hellaswag_data};
    ReadingNotes notes;
    return read_task(options, *run.tokenizer, &notes);
}

struct TaskRun {
    const Tokenizer& tokenizer;
    Group& group;
    int B, T;  // of the model's rows
    std::function<void(int64_t, int64_t)> progress = [](int64_t, int64_t) {};
    const Template* chat = nullptr;  // match: what stands around a prompt
    int max_tokens = 0;              // match: so many are written
    int prompts = 0;                 // trained ones, which stand in front of each text
};

inline Continuation encode_question(const Question& q, size_t choice, const TaskRun& run) {
    Continuation c = encode_continuation(run.tokenizer, q.context, q.answer(choice));
    c.ids = prompts_in_front(run.prompts, std::move(c.ids)), c.begin += static_cast<size_t>(run.prompts);
    return c;
}

// The log-likelihoods of every choice.
template <class M>
void score_choices(M& model, const Task& task, const TaskRun& run, std::vector<Continuation>& all, Answers& answers) {
    for (const Question& q : task.questions) {
        bool cut = false;
        answers.scores.tokens.emplace_back();
        for (size_t k = 0; k < q.choices.size(); k++) {
            Continuation c = encode_question(q, k, run);
            answers.scores.tokens.back().push_back(static_cast<int64_t>(c.ids.size() - c.begin));
            cut |= fit(c, run.T);
            all.push_back(std::move(c));
        }
        answers.cut += cut;
    }
    const std::vector<double> sums = log_likelihoods(model, all, run.B, run.T, run.group, run.progress);
    auto at = sums.begin();
    for (const Question& q : task.questions) {
        answers.scores.log_likelihoods.emplace_back(at, at + std::ssize(q.choices));
        at += std::ssize(q.choices);
    }
}

// What the model goes on from: the prompt in its template.
inline std::vector<int> prompt_ids(const Question& q, const TaskRun& run) {
    const MarkedText whole = run.chat->completion(q.context, q.choices[0]);
    std::vector<int> prompt;
    std::vector<size_t> ends;
    encode_marked(whole.first(whole.counts.find('\1')), run.tokenizer, prompt, ends);
    return prompt.empty() ? empty_prompt(run.tokenizer) : prompt;
}

// What the model writes after it, up to its end, or the end of a line if that is where the right answer ends.
template <class Decoder>
std::string write_answer(Decoder& decoder, const std::vector<int>& prompt, const std::string& right,
                         const TaskRun& run) {
    const bool one_line = trimmed(right).find('\n') == std::string_view::npos;
    std::string text;
    SamplerOptions greedy;
    greedy.temperature = 0;
    Generator<Decoder>(decoder).run({{prompt}}, run.max_tokens, greedy, false, [&](size_t, Drawn token) {
        const int id = token.id;
        const std::vector<int>& stops = run.tokenizer.ends();
        if (std::find(stops.begin(), stops.end(), id) != stops.end()) return false;
        text += run.tokenizer.bytes(id);
        return !one_line || trimmed(text).empty() || text.find('\n', length_of_blank(text)) == std::string::npos;
    });
    std::string_view answer = trimmed(text);
    if (one_line) answer = trimmed_end(answer.substr(0, answer.find('\n')));
    std::string out(answer);
    std::erase(out, '\0');
    return out;
}

// Texts of rank i % world, in all ranks.
inline void share_texts(Group& group, std::vector<std::string>& texts) {
    if (group.world() == 1) return;
    std::string mine;
    for (const std::string& text : texts) mine += text + '\0';
    const std::vector<std::string> theirs = group.exchange(mine);
    std::vector<size_t> at(theirs.size());
    for (size_t i = 0; i < texts.size(); i++)
        for (size_t r = 0; r < theirs.size(); r++) {
            const size_t end = theirs[r].find('\0', at[r]);
            if (i % theirs.size() == r) texts[i] = theirs[r].substr(at[r], end - at[r]);
            at[r] = end + 1;
        }
}

template <class M>
Answers answer(M& model, const Task& task, const TaskRun& run) {
    Answers answers;
    std::vector<Continuation> all;
    const bool writes = task.kind == TaskKind::match, ranks = task.kind == TaskKind::cloze && !task.candidates;
    if (!writes && !ranks) score_choices(model, task, run, all, answers);
    if (!writes && !ranks && task.kind != TaskKind::last_word) return answers;

    // what must be decoded, a question at a time
    Decoder<typename M::Model> decoder(model, 1, model.config().T);
    const auto one_by_one = [&](auto score) {
        const auto at = [&](int64_t i) { return static_cast<double>(score(static_cast<size_t>(i))); };
        answers.scores.single = scores_of(std::ssize(task.questions), run.group, at, run.progress);
    };
    if (ranks) {
        for (const Question& q : task.questions) {
            all.push_back(encode_question(q, 0, run));
            answers.cut += fit(all.back(), run.T);
        }
        one_by_one([&](size_t i) { return rank_of_token(decoder, all[i]); });
    } else if (writes) {
        std::vector<std::vector<int>> prompts;
        for (const Question& q : task.questions) {
            prompts.push_back(prompt_ids(q, run));
            answers.cut += std::ssize(prompts.back()) > model.config().T;
        }
        answers.written.resize(task.questions.size());
        one_by_one([&](size_t i) {
            const std::string& right = task.questions[i].choices[0];
            const std::string& text = answers.written[i] = write_answer(decoder, prompts[i], right, run);
            return text == trimmed(right) ? 1 : squad_normalised(text) == squad_normalised(right) ? 2 : 0;
        });
        share_texts(run.group, answers.written);
    } else {
        one_by_one([&](size_t i) { return is_greedy(decoder, all[i]); });
    }
    return answers;
}

// One half of the questions, drawn at random and always the same.
inline Task half_of(const Task& task, int which) {
    Task part = task;
    part.questions.clear();
    const int64_t n = std::ssize(task.questions);
    for (int64_t i = 0; i < n; i++)
        if ((permute(i, n, 1234, 0, 1) < n / 2) == (which == 0))
            part.questions.push_back(task.questions[static_cast<size_t>(i)]);
    return part;
}

inline TaskOptions task_options(const Run& run) {
    const Options& o = run.options;
    return {o.task, o.val_data, o.eval_limit, o.skip_bad, read_labels(o.labels), o.prompt, o.shots, o.shots_data};
}

template <class M>
Report evaluate_task(M& model, const Run& run, TaskRun task_run) {
    const Options& o = run.options;
    TaskOptions options = task_options(run);
    const bool again = task_run.group.world() > 1 || o.task == "hellaswag" || !o.prompts.empty();
    for (const auto* paths : {&options.files, &options.shots_data})
        if (again && std::find(paths->begin(), paths->end(), "-") != paths->end())
            throw UsageError("-: the questions are read more than once; write them into a file");
    Report report;
    std::vector<std::string> candidates;
    if (!o.prompts.empty()) candidates = read_candidate_prompts(o.prompts), options.prompt = candidates[0];
    ReadingNotes notes;
    Task task = read_task(options, *run.tokenizer, &notes);
    std::optional<Template> chat;
    std::string note;
    if (task.kind == TaskKind::match) chat = Template::choose(o.chat_template, *run.tokenizer, &note);
    if (chat)
        chat = chat->with_prompts(task_run.prompts), task_run.chat = &*chat, task_run.max_tokens = o.answer_tokens;
    const bool speaks = task_run.group.rank() == 0;
    if (speaks) notes.print();
    if (speaks && !note.empty()) fprintf(stderr, "%s\n", note.c_str());
    if (speaks && !chat && task_run.prompts > 0 && run.tokenizer->chat_template().find("{prompt") != std::string::npos)
        fprintf(stderr,
                "note: here the trained prompts stand in front of each text, not where the template has them; "
                "{\"prompt\",\"completion\"} lines are asked by the template\n");
    if (speaks && task.kind == TaskKind::cloze && !task.left_out.empty())
        fprintf(stderr,
                "note: %s facts were left out, such as '%s': a model that reads from left to right is asked only "
                "where [MASK] stands at the end for one token; --labels gives candidates for all\n",
                human_count(std::ssize(task.left_out)).c_str(), printable(task.left_out[0]).c_str());
    if (!candidates.empty()) {
        if (task.questions.size() < 2) throw Error("--prompts: one question cannot be halved; give more");
        for (const std::string& prompt : candidates) {
            options.prompt = prompt;
            ReadingNotes said;
            const Task all = read_task(options, *run.tokenizer, &said), part = half_of(all, 0);
            Report of_half;
            add_measures(of_half, part, answer(model, part, task_run).scores);
            const double score = of_half.measures[0].value;
            const bool best =
                report.prompts.empty() || std::all_of(report.prompts.begin(), report.prompts.end(),
                                                      [&](const auto& other) { return score > other.second; });
            if (best) report.best_prompt = prompt, task = half_of(all, 1);
            report.prompts.emplace_back(prompt, score);
        }
    }
    const Answers answers = answer(model, task, task_run);
    if (speaks && answers.cut > 0)
        fprintf(stderr, "note: %s of %s questions are longer than the model's %d tokens and lost their beginning\n",
                human_count(answers.cut).c_str(), human_count(std::ssize(task.questions)).c_str(), task_run.T);
    add_measures(report, task, answers.scores);
    if (o.shots > 0) report.counts.emplace_back("shots", o.shots);
    if (o.task == "hellaswag") {  // and as llm.c prepares its text
        options.name = "hellaswag-llmc";
        const Task plain = read_task(options, *run.tokenizer, &notes);
        for (Measure m : choice_measures(plain, answer(model, plain, task_run).scores)) {
            if (m.key == "acc_norm") continue;
            m.key += "_llmc", m.name += ", text as in llm.c";
            report.measures.push_back(m);
        }
    }
    if (!o.answers.empty() && speaks) write_file(o.answers, answers_json(task, answers.scores, answers.written));
    return report;
}
