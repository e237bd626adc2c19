#include "llmc/run/eval_report.h"

#include <algorithm>
#include <cctype>
#include "llmc/base/error.h"
#include "llmc/base/human.h"
#include "llmc/base/json.h"
#include "llmc/text/task_forms.h"

size_t likeliest(const std::vector<double>& scores) {
    return static_cast<size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

// Mean of 0s and 1s, with its standard error: the sample's deviation over the root of n.
static Measure share(const char* key, const char* name, int64_t right, int64_t all) {
    const double n = static_cast<double>(all), p = static_cast<double>(right) / n;
    return {key, name, p, all > 1 ? std::sqrt(p * (1 - p) / (n - 1)) : NAN};
}

std::vector<Measure> choice_measures(const Task& task, const Scores& scores) {
    int64_t right = 0, by_characters = 0, by_tokens = 0;
    for (size_t i = 0; i < task.questions.size(); i++) {
        const Question& q = task.questions[i];
        const std::vector<double>& sums = scores.log_likelihoods[i];
        std::vector<double> characters_mean(sums), tokens_mean(sums);
        for (size_t k = 0; k < sums.size(); k++) {
            characters_mean[k] /= static_cast<double>(characters(q.choices[k]));
            tokens_mean[k] /= static_cast<double>(scores.tokens[i][k]);
        }
        const size_t r = static_cast<size_t>(q.right);
        right += likeliest(sums) == r, by_characters += likeliest(characters_mean) == r;
        by_tokens += likeliest(tokens_mean) == r;
    }
    const int64_t n = std::ssize(task.questions);
    return {share("acc", "accuracy", right, n), share("acc_norm", "accuracy by characters", by_characters, n),
            share("acc_tokens", "accuracy by tokens", by_tokens, n)};
}

static void last_word(Report& report, const Scores& scores) {
    int64_t right = 0;
    double sum = 0;
    for (const double x : scores.single) right += x > 0;
    for (const auto& x : scores.log_likelihoods) sum += x[0];
    const int64_t n = std::ssize(scores.single);
    report.measures = {share("acc", "accuracy", right, n),
                       {"perplexity", "perplexity", std::exp(-sum / static_cast<double>(n))}};
}

static void cloze(Report& report, const Task& task, const Scores& scores) {
    int64_t first = 0, ten = 0;
    double reciprocal = 0;
    const size_t n = task.questions.size();
    for (size_t i = 0; i < n; i++) {
        double rank = 1;
        if (task.candidates) {
            const std::vector<double>& x = scores.log_likelihoods[i];
            const size_t right = static_cast<size_t>(task.questions[i].right);
            for (size_t k = 0; k < x.size(); k++) rank += x[k] > x[right] || (k < right && !(x[k] < x[right]));
        } else {
            rank = scores.single[i];
        }
        first += rank <= 1, ten += rank <= 10, reciprocal += 1 / rank;
    }
    report.counts.emplace_back("left_out", std::ssize(task.left_out));
    report.measures = {share("precision_at_1", "precision at 1", first, static_cast<int64_t>(n)),
                       share("precision_at_10", "precision at 10", ten, static_cast<int64_t>(n)),
                       {"mean_reciprocal_rank", "mean reciprocal rank", reciprocal / static_cast<double>(n)}};
}

static void classify(Report& report, const Task& task, const Scores& scores) {
    std::vector<std::pair<size_t, size_t>> pairs;
    for (size_t i = 0; i < task.questions.size(); i++)
        pairs.emplace_back(static_cast<size_t>(task.questions[i].right), likeliest(scores.log_likelihoods[i]));
    add_class_measures(report, task.classes, pairs);
}

void add_class_measures(Report& report, const std::vector<std::string>& classes,
                        const std::vector<std::pair<size_t, size_t>>& pairs) {
    const size_t C = classes.size();
    report.confusion.assign(C, std::vector<int64_t>(C));
    int64_t right = 0;
    for (const auto& [is, says] : pairs) report.confusion[is][says]++, right += is == says;
    const auto ratio = [](double a, double b) { return b > 0 ? a / b : 0.0; };
    double precision = 0, recall = 0, f1 = 0;
    for (size_t c = 0; c < C; c++) {
        int64_t said = 0, texts = 0;
        for (size_t k = 0; k < C; k++) said += report.confusion[k][c], texts += report.confusion[c][k];
        const double hit = static_cast<double>(report.confusion[c][c]);
        ClassMeasures m{classes[c], ratio(hit, static_cast<double>(said)), ratio(hit, static_cast<double>(texts)),
                        ratio(2 * hit, static_cast<double>(said + texts)), texts};
        precision += m.precision, recall += m.recall, f1 += m.f1;
        report.classes.push_back(m);
    }
    const double n = static_cast<double>(C);
    report.measures = {share("acc", "accuracy", right, std::ssize(pairs)),
                       {"precision_macro", "precision, mean of classes", precision / n},
                       {"recall_macro", "recall, mean of classes", recall / n},
                       {"f1_macro", "F1, mean of classes", f1 / n}};
}

static void match(Report& report, const Scores& scores) {
    int64_t exact = 0, normalised = 0;
    for (const double x : scores.single) exact += x == 1, normalised += x > 0;
    const int64_t n = std::ssize(scores.single);
    report.measures = {share("exact_match", "exact match", exact, n),
                       share("exact_match_squad", "exact match, SQuAD's normalisation", normalised, n)};
}

void add_measures(Report& report, const Task& task, const Scores& scores) {
    report.task = task.name;
    report.counts.insert(report.counts.begin(), {"questions", std::ssize(task.questions)});
    switch (task.kind) {
        case TaskKind::choices:
            report.measures = choice_measures(task, scores);
            break;
        case TaskKind::last_word:
            last_word(report, scores);
            break;
        case TaskKind::cloze:
            cloze(report, task, scores);
            break;
        case TaskKind::classify:
            classify(report, task, scores);
            break;
        case TaskKind::match:
            match(report, scores);
            break;
    }
}

std::string squad_normalised(std::string_view text) {
    std::string plain, out;
    for (const char c : text)
        if (!std::ispunct(static_cast<unsigned char>(c)))
            plain += static_cast<char>(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
    for (std::string_view rest = trimmed(plain); !rest.empty(); rest = trimmed(rest)) {
        size_t end = 1;
        while (end < rest.size() && length_of_blank(rest.substr(end)) == 0) end++;
        const std::string_view word = rest.substr(0, end);
        if (word != "a" && word != "an" && word != "the") out += (out.empty() ? "" : " ") + std::string(word);
        rest.remove_prefix(end);
    }
    return out;
}

double Report::value(const std::string& key) const {
    for (const Measure& m : measures)
        if (m.key == key) return m.value;
    return NAN;
}

// ---- out ---------------------------------------------------------------------------------------------------------------

static std::string padded(const std::string& text, size_t width, bool right = false) {
    const std::string blanks(width - std::min(width, static_cast<size_t>(characters(text))), ' ');
    return right ? blanks + text : text + blanks;
}

std::string Report::table() const {
    std::string out;
    std::string head = task.empty() ? "" : printable(task) + ":";
    for (const auto& [what, n] : counts) {
        std::string words = what;
        std::replace(words.begin(), words.end(), '_', ' ');
        if (n == 1 && words.ends_with('s')) words.pop_back();
        head += (head.empty() ? "" : head.ends_with(':') ? " " : ", ") + human_count(n) + " " + words;
    }
    if (!adapter.empty()) out += "adapter " + printable(adapter) + ": ";
    out += head + note + "\n";
    if (!prompts.empty()) {
        out += "\n  first half  prompt\n";
        for (const auto& [prompt, score] : prompts) out += strf("  %10.4f  ", score) + printable(prompt) + "\n";
        out += "\nthe best, on the other half: " + printable(best_prompt) + "\n";
    }
    size_t width = 0;
    for (const Measure& m : measures) width = std::max(width, m.name.size());
    out += "\n";
    for (const Measure& m : measures) {
        out += "  " + padded(m.name, width, true) + strf(" %.*f", m.digits, m.value);
        if (std::isfinite(m.error)) out += strf(" ± %.*f", m.digits, m.error);
        out += "\n";
    }
    if (classes.empty()) return out;
    width = 5;
    for (const ClassMeasures& c : classes) width = std::max(width, static_cast<size_t>(characters(printable(c.label))));
    out += "\n  " + padded("class", width) + "  precision  recall      F1   texts   answered as:";
    for (const ClassMeasures& c : classes) out += "  " + padded(printable(c.label), 5, true);
    for (size_t i = 0; i < classes.size(); i++) {
        const ClassMeasures& c = classes[i];
        out += "\n  " + padded(printable(c.label), width) +
               strf("  %9.4f  %6.4f  %6.4f  %6lld               ", c.precision, c.recall, c.f1,
                    static_cast<long long>(c.texts));
        for (size_t k = 0; k < classes.size(); k++)
            out +=
                "  " + padded(std::to_string(confusion[i][k]),
                              std::max<size_t>(5, static_cast<size_t>(characters(printable(classes[k].label)))), true);
    }
    return out + "\n";
}

static std::string one_line(const OrderedJson& j) { return j.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string Report::json() const {
    OrderedJson j;
    if (!adapter.empty()) j["adapter"] = adapter;
    if (!task.empty()) j["task"] = task;
    for (const auto& [what, n] : counts) j[what] = n;
    for (const Measure& m : measures) {
        j[m.key] = m.value;
        if (std::isfinite(m.error)) j[m.key + "_stderr"] = m.error;
    }
    for (const ClassMeasures& c : classes)
        j["classes"].push_back(
            {{"label", c.label}, {"precision", c.precision}, {"recall", c.recall}, {"f1", c.f1}, {"texts", c.texts}});
    if (!confusion.empty()) j["confusion"] = confusion;
    for (const auto& [prompt, score] : prompts) j["prompts"].push_back({{"prompt", prompt}, {"first_half", score}});
    if (!prompts.empty()) j["best_prompt"] = best_prompt;
    return one_line(j);
}

std::string answers_json(const Task& task, const Scores& scores, const std::vector<std::string>& written) {
    std::string out;
    for (size_t i = 0; i < task.questions.size(); i++) {
        const Question& q = task.questions[i];
        OrderedJson j = {{"context", q.context}, {"choices", q.choices}, {"right", q.right}};
        if (!scores.log_likelihoods.empty()) j["log_likelihoods"] = scores.log_likelihoods[i];
        if (task.kind == TaskKind::last_word) j["greedy"] = scores.single[i] > 0;
        if (task.kind == TaskKind::cloze && !task.candidates) j["rank"] = scores.single[i];
        if (!written.empty()) j["written"] = written[i], j["matches"] = scores.single[i] > 0;
        out += one_line(j) + "\n";
    }
    return out;
}
