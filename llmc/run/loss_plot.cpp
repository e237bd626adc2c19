// The plot of a run's losses, as SVG.
#include <algorithm>
#include <cmath>
#include <limits>
#include "llmc/base/error.h"
#include "llmc/run/log.h"
#include "llmc/text/utf8.h"

using Points = std::vector<std::pair<double, double>>;  // (step, loss)

static Points finite_points(const std::vector<LogEntry>& entries, std::optional<double> LogEntry::*field) {
    Points points;
    for (const LogEntry& entry : entries)
        if (entry.*field && std::abs(*(entry.*field)) < 1e30)  // no NaN, and what an axis can have
            points.emplace_back(static_cast<double>(entry.step), *(entry.*field));
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

std::string loss_plot_svg(const std::vector<LogEntry>& entries, const std::string& title) {
    const Points train = finite_points(entries, &LogEntry::loss),
                 validation = finite_points(entries, &LogEntry::val_loss);
    constexpr double width = 840, height = 500, left = 84, right = 36, top = 48, bottom = 58;

    // The data's range, a little widened; never empty.
    double x0 = HUGE_VAL, x1 = -HUGE_VAL, y0 = HUGE_VAL, y1 = -HUGE_VAL;
    for (const Points* points : {&train, &validation})
        for (auto [x, y] : *points)
            x0 = std::min(x0, x), x1 = std::max(x1, x), y0 = std::min(y0, y), y1 = std::max(y1, y);
    const bool empty = x0 > x1;
    if (empty) x0 = 0, x1 = 1, y0 = 0, y1 = 1;
    if (x1 - x0 < 1) x0 -= 1, x1 += 1;
    const double margin = std::max(0.05 * (y1 - y0), 0.01 * std::max(std::abs(y0), 0.1));
    y0 -= margin, y1 += margin;
    auto px = [&](double x) { return left + (x - x0) / (x1 - x0) * (width - left - right); };
    auto py = [&](double y) { return height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom); };

    std::string svg = strf(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" width=\"%g\" height=\"%g\" "
        "font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#333\">\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
        width, height, width, height);
    svg += strf("<text x=\"%g\" y=\"30\" font-size=\"17\" font-weight=\"bold\">%s</text>\n", left,
                escape_xml(title).c_str());

    // Grid, ticks, labels.
    const double dx = tick_distance(x1 - x0, 8, true), dy = tick_distance(y1 - y0, 7, false);
    const int decimals = std::clamp(static_cast<int>(-std::floor(std::log10(dy) + 1e-9)), 0, 8);
    for (double k = std::ceil(y0 / dy); k * dy <= y1; k++)
        svg += strf(
            "<line x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#e4e4e4\"/>"
            "<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%.*f</text>\n",
            left, width - right, py(k * dy), py(k * dy), left - 8, py(k * dy) + 4.5, decimals, k * dy + 0.0);
    for (double k = std::ceil(x0 / dx); k * dx <= x1; k++)
        svg += strf(
            "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%g\" y2=\"%g\" stroke=\"#e4e4e4\"/>"
            "<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%s</text>\n",
            px(k * dx), px(k * dx), top, height - bottom, px(k * dx), height - bottom + 19,
            human_count(std::llround(k * dx)).c_str());
    svg +=
        strf("<path d=\"M%g %gV%gH%g\" fill=\"none\" stroke=\"#555\"/>\n", left, top, height - bottom, width - right);
    svg +=
        strf("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">step</text>\n", (left + width - right) / 2, height - 16);
    svg +=
        strf("<text transform=\"translate(20 %g) rotate(-90)\" text-anchor=\"middle\">loss (nats per token)</text>\n",
             (top + height - bottom) / 2);

    auto line = [&](const Points& points, const char* style) {
        if (points.size() < 2) return;
        svg += std::string("<polyline fill=\"none\" stroke-linejoin=\"round\" ") + style + " points=\"";
        for (auto [x, y] : points) svg += strf("%.1f,%.1f ", px(x), py(y));
        svg.back() = '"';
        svg += "/>\n";
    };
    auto dots = [&](const Points& points, double radius, const char* colour) {
        for (auto [x, y] : points)
            svg += strf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%g\" fill=\"%s\"/>\n", px(x), py(y), radius, colour);
    };
    const char *raw = "stroke=\"#a9c9e8\" stroke-width=\"1\"", *smoothed = "stroke=\"#1f5fa8\" stroke-width=\"2.2\"",
               *validated = "stroke=\"#d1495b\" stroke-width=\"1.8\"";
    line(thin_out(train, 1000), raw);
    line(thin_out(smooth(train), 1000), smoothed);
    if (train.size() == 1) dots(train, 3, "#1f5fa8");
    const Points validation_shown = thin_out(validation, 1000);
    line(validation_shown, validated);
    if (validation_shown.size() <= 80) dots(validation_shown, 3.2, "#d1495b");

    // Legend, at the upper right, where a loss curve seldom is.
    double legend_y = top + 18;
    auto legend = [&](const char* style, const std::string& text) {
        const double x = width - right - 262;
        svg += strf("<line x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\" %s/><text x=\"%g\" y=\"%g\">%s</text>\n", x, x + 28,
                    legend_y, legend_y, style, x + 36, legend_y + 4.5, text.c_str());
        legend_y += 20;
    };
    if (!train.empty() || !validation.empty())
        svg += strf("<rect x=\"%g\" y=\"%g\" width=\"266\" height=\"%g\" fill=\"#fff\" fill-opacity=\"0.85\"/>\n",
                    width - right - 268, top + 4,
                    train.empty()        ? 26.0
                    : validation.empty() ? 46.0
                                         : 66.0);
    if (!train.empty()) {
        legend(raw, "training loss");
        legend(smoothed, strf("training loss, smoothed: %.4f", smooth(train).back().second));
    }
    if (!validation.empty()) legend(validated, strf("validation loss: %.4f", validation.back().second));
    if (empty)
        svg += strf("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">no losses yet</text>\n", width / 2, height / 2);
    return svg + "</svg>\n";
}
