#include "llmc/run/plot.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/text/utf8.h"

namespace fs = std::filesystem;

using Points = std::vector<std::pair<double, double>>;  // (step, value)
using Field = std::optional<double> LogEntry::*;

static Points finite_points(const std::vector<LogEntry>& entries, Field field, bool logarithmic) {
    Points points;
    for (const LogEntry& entry : entries) {
        if (!(entry.*field) || !(std::abs(*(entry.*field)) < 1e30)) continue;  // NaN, and what no axis can have
        const double y = *(entry.*field), step = static_cast<double>(entry.step);
        if (!logarithmic) points.emplace_back(step, y);
        else if (y > 0) points.emplace_back(step, std::log10(y));
    }
    return points;
}

// At most about `limit` points: of each run of neighbours the lowest and the highest, so that spikes stay visible.
static Points thin_out(const Points& points, size_t limit) {
    if (points.size() <= limit) return points;
    Points out;
    const size_t run = (2 * points.size() + limit - 1) / limit;
    for (size_t i = 0; i < points.size(); i += run) {
        const auto end = points.begin() + static_cast<long>(std::min(i + run, points.size()));
        auto [low, high] = std::minmax_element(points.begin() + static_cast<long>(i), end,
                                               [](const auto& a, const auto& b) { return a.second < b.second; });
        if (high < low) std::swap(low, high);
        out.push_back(*low);
        if (high != low) out.push_back(*high);
    }
    return out;
}

// Mean over a window of up to 2 * reach + 1 points around each; narrower at the beginning, where the loss falls
// steeply.
static Points smooth(const Points& points) {
    const size_t n = points.size(), reach = n / 50;
    std::vector<double> sum(n + 1, 0.0);
    for (size_t i = 0; i < n; i++) sum[i + 1] = sum[i] + points[i].second;
    Points out(n);
    for (size_t i = 0; i < n; i++) {
        const size_t r = std::min(reach, i), begin = i - r, end = std::min(i + r + 1, n);
        out[i] = {points[i].first, (sum[end] - sum[begin]) / static_cast<double>(end - begin)};
    }
    return out;
}

// 1, 2 or 5 times a power of ten, so that about `count` of them fill the range.
static double tick_distance(double range, int count, bool whole) {
    const double raw = range / count, power = std::pow(10.0, std::floor(std::log10(raw)));
    const double tick = power * (raw <= power ? 1 : raw <= 2 * power ? 2 : raw <= 5 * power ? 5 : 10);
    return whole ? std::max(tick, 1.0) : tick;
}

static std::string escape_xml(const std::string& text) {
    Utf8Stream stream;  // replaces what is no valid UTF-8
    const std::string begin = stream.push(text), valid = begin + stream.flush();
    std::string out;
    for (char c : valid) {
        if (c == '&') out += "&amp;";
        else if (c == '<') out += "&lt;";
        else if (c == '>') out += "&gt;";
        else if (c == '"') out += "&quot;";
        else if (static_cast<unsigned char>(c) >= 32) out += c;
    }
    return out;
}

// ---- panels ----------------------------------------------------------------------------------------------------------

static constexpr const char* kColours[kMostPlottedRuns] = {"#1f5fa8", "#d1495b", "#2a9d5c", "#e08e0b",
                                                           "#7b4ab5", "#4a4a4a", "#17a2b8", "#b5508f"};

namespace {
struct Line {
    Points points;
    std::string style, colour, legend;  // legend "": none
    bool dots = false;                  // where there are few of them
};
struct Panel {
    const char* label;
    double height;
    bool logarithmic = false;  // then points are logarithms
    bool from_zero = false;
    std::vector<Line> lines = {};
};

constexpr double kWidth = 840, kLeft = 84, kRight = 36, kTop = 48, kBottom = 58, kGap = 26;

struct Axis {
    double low, high, at_low, at_high;
    double operator()(double x) const { return at_low + (x - low) / (high - low) * (at_high - at_low); }
};
}  // namespace

static std::string stroke(const char* colour, double width, bool dashed = false) {
    return strf("stroke=\"%s\" stroke-width=\"%g\"%s", colour, width, dashed ? " stroke-dasharray=\"6 4\"" : "");
}

static std::vector<Panel> panels_of(const std::vector<PlottedRun>& runs) {
    const bool one = runs.size() == 1;
    Panel loss{"loss (nats per token)", 394}, rate{"learning rate", 96, false, true},
        norm{"gradient norm", 120, true, false}, score{"score", 120}, reward{"reward", 200},
        kl{"KL (nats per answer)", 120, false, true}, entropy{"entropy (nats per token)", 120, false, true},
        length{"tokens of an answer", 120, false, true}, clipped{"clipped share", 96, false, true},
        pace{"tokens/s", 120, false, true}, text{"loss of the text beside", 120};
    for (size_t i = 0; i < runs.size(); i++) {
        const auto points = [&](Field field, bool logarithmic = false) {
            return finite_points(runs[i].entries, field, logarithmic);
        };
        const char* colour = kColours[i];
        const Points train = points(&LogEntry::loss), validation = points(&LogEntry::val_loss),
                     smoothed = smooth(train);
        if (one && !train.empty()) loss.lines.push_back({train, stroke("#a9c9e8", 1), colour, "training loss"});
        std::string ends = one ? "training loss, smoothed" : escape_xml(runs[i].name);
        if (!train.empty()) ends += strf(": %.4f", smoothed.back().second);
        if (!one && !validation.empty()) ends += strf(", validation %.4f", validation.back().second);
        if (!train.empty() || !one) loss.lines.push_back({smoothed, stroke(colour, 2.2), colour, ends});
        const char* validated = one ? kColours[1] : colour;
        if (!validation.empty())
            loss.lines.push_back({validation, stroke(validated, 1.8, !one), validated,
                                  one ? strf("validation loss: %.4f", validation.back().second) : "", true});
        rate.lines.push_back({points(&LogEntry::lr), stroke(colour, 1.8), colour, ""});
        const Points norms = points(&LogEntry::grad_norm, true);
        if (one) norm.lines.push_back({norms, stroke("#a9c9e8", 1), colour, ""});
        norm.lines.push_back({smooth(norms), stroke(colour, 1.8), colour, ""});
        score.lines.push_back(
            {points(&LogEntry::hellaswag), stroke(colour, 1.8), colour, one ? "HellaSwag" : "", true});
        score.lines.push_back({points(&LogEntry::val_acc), stroke(colour, 1.8), colour, one ? "accuracy" : "", true});
        const Points rewards = points(&LogEntry::reward);
        if (one && !rewards.empty()) reward.lines.push_back({rewards, stroke("#a9c9e8", 1), colour, ""});
        const Points gained = smooth(rewards);
        if (!rewards.empty())
            reward.lines.push_back(
                {gained, stroke(colour, 2.2), colour,
                 (one ? "of an answer, smoothed" : escape_xml(runs[i].name)) + strf(": %.4f", gained.back().second)});
        reward.lines.push_back({points(&LogEntry::val_reward), stroke(kColours[one ? 1 : i], 1.8, !one),
                                kColours[one ? 1 : i], one ? "validation" : "", true});
        kl.lines.push_back({points(&LogEntry::kl), stroke(colour, 1.8), colour, ""});
        entropy.lines.push_back({points(&LogEntry::entropy), stroke(colour, 1.8), colour, ""});
        length.lines.push_back({points(&LogEntry::answer_tokens), stroke(colour, 1.8), colour, ""});
        text.lines.push_back({points(&LogEntry::text_loss), stroke(colour, 1.8), colour, ""});
        clipped.lines.push_back({points(&LogEntry::clipped), stroke(colour, 1.8), colour, ""});
        pace.lines.push_back({points(&LogEntry::sample_tok_s), stroke(colour, 1.8), colour, one ? "sampling" : ""});
        if (one)
            pace.lines.push_back({points(&LogEntry::learn_tok_s), stroke(kColours[1], 1.8), kColours[1], "learning"});
    }
    std::vector<Panel> all = {loss};
    for (const Panel& panel : {reward, text, kl, entropy, length, clipped, pace, rate, norm, score})
        if (std::any_of(panel.lines.begin(), panel.lines.end(), [](const Line& l) { return !l.points.empty(); }))
            all.push_back(panel);
    return all;
}

static std::string lines_svg(const Panel& panel, const Axis& px, const Axis& py) {
    std::string svg;
    for (const Line& line : panel.lines) {
        const Points shown = thin_out(line.points, 1000);
        if (shown.size() >= 2) {
            svg += "<polyline fill=\"none\" stroke-linejoin=\"round\" " + line.style + " points=\"";
            for (auto [x, y] : shown) svg += strf("%.1f,%.1f ", px(x), py(y));
            svg.back() = '"';
            svg += "/>\n";
        }
        const bool thin_line = line.style.find("stroke-width=\"1\"") != std::string::npos;
        if (line.dots ? shown.size() <= 80 : shown.size() == 1 && !thin_line)
            for (auto [x, y] : shown)
                svg += strf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\" fill=\"%s\"/>\n", px(x), py(y),
                            line.colour.c_str());
    }
    return svg;
}

// At the upper right, where a loss curve seldom is.
static std::string legend_svg(const Panel& panel, double top) {
    size_t rows = 0, longest = 0;
    for (const Line& line : panel.lines)
        if (!line.legend.empty()) rows++, longest = std::max(longest, line.legend.size());
    if (rows == 0) return "";
    const double x = kWidth - kRight - std::min(600.0, 50 + 7 * static_cast<double>(longest));
    std::string svg = strf("<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" fill=\"#fff\" fill-opacity=\"0.85\"/>\n",
                           x - 6, top + 4, kWidth - kRight - x + 4, 6 + 20 * static_cast<double>(rows));
    double y = top + 18;
    for (const Line& line : panel.lines) {
        if (line.legend.empty()) continue;
        svg += strf("<line x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\" %s/><text x=\"%g\" y=\"%g\">%s</text>\n", x, x + 28,
                    y, y, line.style.c_str(), x + 36, y + 4.5, line.legend.c_str());
        y += 20;
    }
    return svg;
}

static std::string panel_svg(const Panel& panel, double top, const Axis& px, bool last) {
    // The data's range, a little widened; never empty.
    double low = HUGE_VAL, high = -HUGE_VAL;
    for (const Line& line : panel.lines)
        for (auto [x, y] : line.points) low = std::min(low, y), high = std::max(high, y);
    const bool empty = low > high;
    if (empty) low = 0, high = 1;
    if (panel.from_zero) low = std::min(low, 0.0);
    const double least = panel.logarithmic ? 0.05 : panel.from_zero ? 1e-9 : 0.01 * std::max(std::abs(low), 0.1);
    const double margin = std::max(0.05 * (high - low), least);
    const double bottom = top + panel.height;
    const Axis py{low - margin, high + margin, bottom, top};

    std::string svg;
    const auto level = [&](double y, const std::string& text) {
        svg += strf(
            "<line x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#e4e4e4\"/>"
            "<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
            kLeft, kWidth - kRight, py(y), py(y), kLeft - 8, py(y) + 4.5, text.c_str());
    };
    const double dy = tick_distance(py.high - py.low, panel.height > 200 ? 7 : 4, false);
    if (panel.logarithmic && py.high - py.low < 4) {
        for (double decade = std::floor(py.low); decade < py.high; decade++)
            for (double digit : {1.0, 2.0, 5.0})
                if (const double y = decade + std::log10(digit); y >= py.low && y <= py.high)
                    if (digit == 1 || py.high - py.low < 1.7) level(y, strf("%g", digit * std::pow(10.0, decade)));
    } else {
        const int decimals = std::clamp(static_cast<int>(-std::floor(std::log10(dy) + 1e-9)), 0, 8);
        for (double k = std::ceil(py.low / dy); k * dy <= py.high; k++)
            level(k * dy, panel.logarithmic || dy < 1e-3
                              ? strf("%g", panel.logarithmic ? std::pow(10.0, k * dy) : k * dy + 0.0)
                              : strf("%.*f", decimals, k * dy + 0.0));
    }
    const double dx = tick_distance(px.high - px.low, 8, true);
    for (double k = std::ceil(px.low / dx); k * dx <= px.high; k++) {
        svg += strf("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%g\" y2=\"%g\" stroke=\"#e4e4e4\"/>", px(k * dx), px(k * dx),
                    top, bottom);
        if (last)
            svg += strf("<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%s</text>", px(k * dx), bottom + 19,
                        human_count(std::llround(k * dx)).c_str());
        svg += "\n";
    }
    svg += strf("<path d=\"M%g %gV%gH%g\" fill=\"none\" stroke=\"#555\"/>\n", kLeft, top, bottom, kWidth - kRight);
    svg += strf("<text transform=\"translate(20 %g) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
                (top + bottom) / 2, panel.label);
    svg += lines_svg(panel, px, py) + legend_svg(panel, top);
    if (empty)
        svg += strf("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">no losses yet</text>\n", kWidth / 2,
                    (top + bottom) / 2);
    return svg;
}

std::string plot_svg(const std::string& title, const std::vector<PlottedRun>& runs) {
    CHECK(runs.size() <= kMostPlottedRuns, "%zu runs", runs.size());
    const std::vector<Panel> panels = panels_of(runs);
    Axis px{HUGE_VAL, -HUGE_VAL, kLeft, kWidth - kRight};
    double height = kTop + kBottom - kGap;
    for (const Panel& panel : panels) {
        height += panel.height + kGap;
        for (const Line& line : panel.lines)
            for (auto [x, y] : line.points) px.low = std::min(px.low, x), px.high = std::max(px.high, x);
    }
    if (px.low > px.high) px.low = 0, px.high = 1;
    if (px.high - px.low < 1) px.low -= 1, px.high += 1;

    std::string svg = strf(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" width=\"%g\" height=\"%g\" "
        "font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#333\">\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
        kWidth, height, kWidth, height);
    svg += strf("<text x=\"%g\" y=\"30\" font-size=\"17\" font-weight=\"bold\">%s</text>\n", kLeft,
                escape_xml(title).c_str());
    double top = kTop;
    for (const Panel& panel : panels) {
        svg += panel_svg(panel, top, px, &panel == &panels.back());
        top += panel.height + kGap;
    }
    svg += strf("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">step</text>\n", (kLeft + kWidth - kRight) / 2,
                height - 16);
    return svg + "</svg>\n";
}

// ---- several runs ----------------------------------------------------------------------------------------------------

int plot_command(const Options& o) {
    std::vector<PlottedRun> runs;
    for (const std::string& path : o.runs) {
        const std::string log = is_directory(path) ? path + "/log.jsonl" : path;
        if (!is_file(log)) throw UsageError(strf("plot: %s is no run: there is no %s", path.c_str(), log.c_str()));
        PlottedRun run{fs::weakly_canonical(log).parent_path().filename(), read_log(log)};
        if (run.entries.empty()) throw Error(strf("plot: %s has no line of a log", log.c_str()));
        const bool taken = std::any_of(runs.begin(), runs.end(), [&](const auto& r) { return r.name == run.name; });
        if (taken) run.name = path;
        runs.push_back(std::move(run));
    }
    const std::string title = runs.size() == 1 ? runs[0].name : strf("%zu runs", runs.size());
    replace_file(o.output, plot_svg(title, runs));
    printf("%s: %s\n", o.output.c_str(), title.c_str());
    return 0;
}
