#include "llmc/run/eval_head.h"

#include <cmath>
#include <numeric>
#include "llmc/base/json.h"

static std::vector<double> scores_of(const HeadAnswers& answers, size_t i) {
    const auto at = answers.scores.begin() + static_cast<std::ptrdiff_t>(i * answers.K);
    return {at, at + static_cast<std::ptrdiff_t>(answers.K)};
}

static std::vector<double> log_probabilities(std::vector<double> scores) {
    const double top = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double s : scores) sum += std::exp(s - top);
    for (double& s : scores) s -= top + std::log(sum);
    return scores;
}

std::vector<double> head_losses(const HeadAnswers& answers) {
    std::vector<double> losses;
    for (size_t i = 0; i < answers.labels.size(); i++) {
        const double label = static_cast<double>(answers.labels[i]);
        const std::vector<double> s = scores_of(answers, i);
        losses.push_back(answers.K == 1 ? (s[0] - label) * (s[0] - label)
                                        : -log_probabilities(s)[static_cast<size_t>(label)]);
    }
    return losses;
}

std::vector<double> head_predictions(const HeadAnswers& answers) {
    std::vector<double> all;
    for (size_t i = 0; i < answers.labels.size(); i++) {
        const std::vector<double> s = scores_of(answers, i);
        all.push_back(answers.K == 1 ? s[0] : static_cast<double>(likeliest(s)));
    }
    return all;
}

static double mean_of(const std::vector<double>& x) {
    return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}
// 0 where one of them does not vary.
static double pearson(const std::vector<double>& x, const std::vector<double>& y) {
    const double mx = mean_of(x), my = mean_of(y);
    double xy = 0, xx = 0, yy = 0;
    for (size_t i = 0; i < x.size(); i++)
        xy += (x[i] - mx) * (y[i] - my), xx += (x[i] - mx) * (x[i] - mx), yy += (y[i] - my) * (y[i] - my);
    return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}
// Places in the order, 0 first; equal ones share the mean of theirs.
static std::vector<double> ranks_of(const std::vector<double>& x) {
    std::vector<size_t> order(x.size());
    std::iota(order.begin(), order.end(), size_t(0));
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] < x[b]; });
    std::vector<double> ranks(x.size());
    for (size_t i = 0, end; i < order.size(); i = end) {
        for (end = i; end < order.size() && x[order[end]] <= x[order[i]];) end++;
        for (size_t k = i; k < end; k++) ranks[order[k]] = static_cast<double>(i + end - 1) / 2;
    }
    return ranks;
}

Report head_report(const HeadAnswers& answers, const HeadConfig& head) {
    Report report;
    const std::vector<double> said = head_predictions(answers), labels(answers.labels.begin(), answers.labels.end());
    const bool pairs = answers.of == LabelOf::pair;
    report.counts = {{pairs ? "pairs" : "texts", std::ssize(labels)}};
    if (answers.of == LabelOf::nothing) {
        const auto [least, most] = std::minmax_element(said.begin(), said.end());
        report.measures = {{"score", "mean score", mean_of(said)}, {"least", "least", *least}, {"most", "most", *most}};
        return report;
    }
    const double loss = mean_of(head_losses(answers));
    if (pairs) {
        double right = 0, margin = 0;
        for (size_t i = 0; i < said.size(); i++) {
            const double more = answers.scores[2 * i] - answers.scores[2 * i + 1];
            right += more > 0, margin += more;
        }
        const double n = static_cast<double>(said.size());
        report.measures = {
            {"loss", "loss", loss, NAN, 6}, {"acc", "accuracy", right / n}, {"margin", "mean margin", margin / n}};
        return report;
    }
    if (head.regression()) {
        report.measures = {{"mse", "mean squared error", loss, NAN, 6},
                           {"pearson", "Pearson's correlation", pearson(said, labels)},
                           {"spearman", "Spearman's correlation", pearson(ranks_of(said), ranks_of(labels))}};
    } else {
        std::vector<std::pair<size_t, size_t>> said_of;
        for (size_t i = 0; i < said.size(); i++)
            said_of.emplace_back(static_cast<size_t>(labels[i]), static_cast<size_t>(said[i]));
        add_class_measures(report, head.labels, said_of);
        report.measures.insert(report.measures.begin(), {"loss", "loss", loss, NAN, 6});
    }
    return report;
}

std::string head_answers_json(const HeadAnswers& answers, const HeadConfig& head,
                              const std::function<std::string(int64_t, bool second)>& text) {
    std::string out;
    const std::vector<double> said = head_predictions(answers);
    for (size_t i = 0; i < said.size(); i++) {
        OrderedJson j;
        if (answers.of == LabelOf::pair) {
            j["chosen"] = text(answers.texts[i], false), j["rejected"] = text(answers.texts[i], true);
            j["score_of_chosen"] = answers.scores[2 * i], j["score_of_rejected"] = answers.scores[2 * i + 1];
            out += j.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
            continue;
        }
        j["text"] = text(answers.texts[i], false);
        if (answers.of == LabelOf::nothing) {
            j["score"] = said[i];
        } else if (head.regression()) {
            j["label"] = answers.labels[i], j["prediction"] = said[i];
        } else {
            j["label"] = head.labels[static_cast<size_t>(answers.labels[i])];
            j["prediction"] = head.labels[static_cast<size_t>(said[i])];
            const std::vector<double> p = log_probabilities(scores_of(answers, i));
            for (size_t k = 0; k < p.size(); k++) j["probabilities"][head.labels[k]] = std::exp(p[k]);
        }
        out += j.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    }
    return out;
}
