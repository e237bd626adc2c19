#include "llmc/text/tasks.h"

#include <algorithm>
#include <fstream>
#include <map>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/text/input_kind.h"
#include "llmc/text/permutation.h"
#include "llmc/text/generate.h"
#include "llmc/text/task_forms.h"
#include "llmc/text/utf8.h"

namespace {

constexpr uint64_t kShotsSeed = 1234;

std::vector<Question> read_questions(const TaskForm* form, const std::vector<std::string>& files, int64_t limit,
                                     bool skip_bad, ReadingNotes* notes) {
    ReaderOptions reading;
    reading.jsonl = true, reading.skip_bad = skip_bad, reading.command = "... --val-data -";
    Reader reader(files, reading);
    Chunk chunk;
    std::vector<Question> questions;
    const auto enough = [&] { return limit > 0 && std::ssize(questions) >= limit; };
    while (!enough() && reader.next(chunk))
        for_each_object(chunk, reading, *notes, [&](std::string_view line, const std::string&) {
            if (!enough()) questions.push_back(read_question(*form, line));
        });
    if (questions.empty()) throw Error(files[0] + " has no questions");
    return questions;
}

const TaskForm& form_of_file(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    while (std::getline(file, line)) {
        if (line.starts_with(kByteOrderMark)) line.erase(0, kByteOrderMark.size());
        if (line.find_first_not_of(" \t\r") != std::string::npos) break;
    }
    if (line.find_first_not_of(" \t\r") == std::string::npos) throw Error(path + " has no questions");
    if (const TaskForm* form = own_form(line)) return *form;
    throw Error(path + ":1: not a line of a task: it needs " + own_forms() +
                "; for an official task's file give its name with --task, and the file with --val-data (-j)");
}

bool blank_at_begin(std::string_view s) { return !s.empty() && length_of_blank(s) > 0; }

void put_space(Question& q) {
    if (!q.context.empty() && trimmed_end(q.context).size() < q.context.size()) q.between = "";
    else if (std::any_of(q.choices.begin(), q.choices.end(), blank_at_begin)) q.between = "";
}

std::string filled(const std::string& prompt, const std::string& text) {
    if (prompt.empty()) return text;
    std::string out;
    for (size_t i = 0; i < prompt.size(); i++) {
        if (prompt.compare(i, 6, "{text}") == 0) {
            out += text, i += 5;
        } else if (const size_t which = std::string_view("nt\\").find(i + 1 < prompt.size() ? prompt[i + 1] : 'x');
                   prompt[i] == '\\' && which != std::string_view::npos) {
            out += "\n\t\\"[which], i++;
        } else {
            out += prompt[i];
        }
    }
    return out;
}

// One that begins with another's tokens is never likelier than it.
void check_labels(const std::vector<std::string>& labels, const std::string& context, const Tokenizer& tokenizer) {
    Question q;
    q.context = context, q.choices = labels;
    put_space(q);
    std::vector<std::vector<int>> ids;
    for (const std::string& label : labels) {
        const Continuation c = encode_continuation(tokenizer, q.context, q.between + label);
        ids.emplace_back(c.ids.begin() + static_cast<std::ptrdiff_t>(c.begin), c.ids.end());
    }
    for (size_t a = 0; a < ids.size(); a++)
        for (size_t b = 0; b < ids.size(); b++)
            if (a != b && ids[a].size() <= ids[b].size() && std::equal(ids[a].begin(), ids[a].end(), ids[b].begin()))
                throw Error(strf(
                    "the labels '%s' and '%s' tokenise alike: %s; give the classes other words, with "
                    "--labels and in the data",
                    labels[a].c_str(), labels[b].c_str(),
                    ids[a].size() == ids[b].size() ? "nothing tells them apart"
                                                   : "the second begins with the first and would never be chosen"));
}

// The classes, and each question's right one; a question's only choice is its label still.
void classify(Task& task, std::vector<Question>& questions, const char* whose) {
    for (Question& q : questions) {
        const auto found = std::find(task.classes.begin(), task.classes.end(), q.choices[0]);
        if (found == task.classes.end())
            throw Error(strf("%s: the label '%s' is none of the classes (%s); name all with --labels", whose,
                             q.choices[0].c_str(), joined(task.classes, ", ").c_str()));
        q.right = static_cast<int>(found - task.classes.begin());
        q.choices = task.classes;
    }
}

// Of facts without candidates those in which one token is asked for, and nothing but an end mark follows.
void take_facts(Task& task, const std::vector<std::string>& candidates, const Tokenizer& tokenizer) {
    task.candidates = !candidates.empty();
    std::vector<Question> kept;
    const auto one_token = [&](const Question& q) {
        const Continuation c = encode_continuation(tokenizer, q.context, q.answer(0));
        return c.ids.size() == c.begin + 1;
    };
    for (Question& q : task.questions) {
        if (task.candidates) {
            const auto found = std::find(candidates.begin(), candidates.end(), q.choices[0]);
            if (found == candidates.end())
                throw Error(strf("'%s' is the answer to '%s [MASK]%s' and none of the candidates (--labels)",
                                 q.choices[0].c_str(), q.context.c_str(), q.after.c_str()));
            q.right = static_cast<int>(found - candidates.begin());
            q.choices = candidates;
            for (std::string& choice : q.choices) choice += q.after;
        } else if (q.after.find_first_not_of(" .!?,;:\"'") != std::string::npos || !one_token(q)) {
            task.left_out.push_back(q.context + "[MASK]" + q.after);
            continue;
        }
        kept.push_back(std::move(q));
    }
    task.questions = std::move(kept);
}

bool same_question(const Question& a, const Question& b) {
    return a.context == b.context && a.choices == b.choices && a.right == b.right;
}

// Answered questions before each: the first of `others`, or some of the task's own at random; never the question itself.
void add_shots(Task& task, const std::vector<Question>* others, int shots, const std::string& from) {
    const std::vector<Question> pool = others ? *others : task.questions;
    for (size_t i = 0; i < task.questions.size(); i++) {
        Question& q = task.questions[i];
        std::string before;
        int found = 0;
        for (int64_t k = 0; k < std::ssize(pool) && found < shots; k++) {
            const int64_t at = others ? k : permute(k, std::ssize(pool), kShotsSeed, static_cast<int64_t>(i), 0);
            const Question& shot = pool[static_cast<size_t>(at)];
            if (same_question(shot, q)) continue;
            before += shot.context + shot.answer(static_cast<size_t>(shot.right)) + "\n\n";
            found++;
        }
        if (found < shots)
            throw Error(
                strf("--shots %d: %s has only %d besides the question itself; give fewer, or more questions "
                     "with --shots-data",
                     shots, from.c_str(), found));
        q.description += before;
    }
    for (Question& q : task.questions) q.context = q.description + q.context, q.description.clear();
}

std::vector<std::string> lines_of(const std::string& path) {
    std::vector<std::string> lines;
    std::string text = written_text(read_file(path) + "\n", path);
    for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.find('\n', at), text.size());
        if (end > at) lines.push_back(text.substr(at, end - at));
        at = end + 1;
    }
    return lines;
}

}  // namespace

Task read_task(const TaskOptions& o, const Tokenizer& tokenizer, ReadingNotes* notes) {
    const TaskForm* form = named_form(o.name);
    const std::vector<std::string> files = form ? o.files : std::vector<std::string>{o.name};
    if (!form) form = &form_of_file(o.name);
    Task task;
    task.name = o.name, task.kind = form->kind;
    if (!o.prompt.empty() && (!form->own || form->kind == TaskKind::cloze))
        throw UsageError(strf(
            "--prompt and --prompts go with tasks of the forms choices, classify and match, not with %s", form->name));
    if (!o.labels.empty() && form->kind != TaskKind::classify && form->kind != TaskKind::cloze)
        throw UsageError(strf("--labels goes with tasks of the forms classify and cloze, not with %s", form->name));
    if (o.shots > 0 && form->kind == TaskKind::match)
        throw UsageError("--shots: examples before a text to write would not fit the model's template; use --prompt");
    task.questions = read_questions(form, files, o.limit, o.skip_bad, notes);
    std::vector<Question> others;
    if (o.shots > 0 && !o.shots_data.empty()) others = read_questions(form, o.shots_data, 0, o.skip_bad, notes);
    if (task.kind == TaskKind::classify) {
        task.classes = o.labels;
        if (task.classes.empty()) {
            for (const Question& q : task.questions) task.classes.push_back(q.choices[0]);
            std::sort(task.classes.begin(), task.classes.end());
            task.classes.erase(std::unique(task.classes.begin(), task.classes.end()), task.classes.end());
        }
        if (task.classes.size() < 2)
            throw Error(strf("%s: there is one label alone, '%s'; name all with --labels", files[0].c_str(),
                             task.classes[0].c_str()));
        check_labels(task.classes, filled(o.prompt, task.questions[0].context), tokenizer);
        classify(task, task.questions, files[0].c_str());
        if (!others.empty()) classify(task, others, o.shots_data[0].c_str());
    }
    for (std::vector<Question>* all : {&task.questions, &others})
        for (Question& q : *all) {
            q.context = filled(o.prompt, q.context);
            if (form->own) put_space(q);
        }
    if (task.kind == TaskKind::cloze) take_facts(task, o.labels, tokenizer);
    if (task.questions.empty())
        throw Error(files[0] + ": in no sentence [MASK] is the last word; name candidates with --labels");
    add_shots(task, others.empty() ? nullptr : &others, o.shots, others.empty() ? files[0] : o.shots_data[0]);
    return task;
}

std::vector<std::string> read_labels(const std::string& list) {
    std::vector<std::string> labels;
    if (is_file(list)) return lines_of(list);
    for (size_t at = 0; at < list.size();) {
        const size_t end = std::min(list.find(',', at), list.size());
        std::string_view label = trimmed(std::string_view(list).substr(at, end - at));
        if (!label.empty()) labels.emplace_back(label);
        at = end + 1;
    }
    return labels;
}

std::vector<std::string> read_candidate_prompts(const std::string& path) {
    std::vector<std::string> prompts = lines_of(path);
    if (prompts.empty()) throw Error(path + " has no prompts; write one a line, with {text} where the text goes");
    for (const std::string& prompt : prompts)
        if (prompt.find("{text}") == std::string::npos)
            throw Error(strf("%s: the prompt '%s' has no {text} where the text goes", path.c_str(), prompt.c_str()));
    return prompts;
}

Continuation encode_continuation(const Tokenizer& tokenizer, std::string_view context, std::string_view answer) {
    const std::string_view begin = trimmed_end(context);
    const std::string whole = std::string(context) + std::string(answer);
    Continuation c;
    if (begin.empty()) {
        c.ids = empty_prompt(tokenizer);
        c.begin = c.ids.size();
        tokenizer.encode_document(whole, true, c.ids);
        return c;
    }
    std::vector<int> alone;
    tokenizer.encode_document(begin, true, alone);
    tokenizer.encode_document(whole, true, c.ids);
    if (c.ids.size() == 1) {  // both are one token
        alone = empty_prompt(tokenizer);
        c.ids.insert(c.ids.begin(), alone.begin(), alone.end());
    }
    c.begin = std::max<size_t>(1, std::min(alone.size(), c.ids.size() - 1));
    return c;
}
