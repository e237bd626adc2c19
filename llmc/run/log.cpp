#include "llmc/run/log.h"

#include <sys/ioctl.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include "llmc/base/error.h"
#include "llmc/base/files.h"

namespace fs = std::filesystem;

// The numbers of a LogEntry by the name they have in log.jsonl.
struct LogField {
    const char* name;
    std::optional<double> LogEntry::*value;
};
static constexpr LogField log_fields[] = {
    {"loss", &LogEntry::loss},
    {"grad_norm", &LogEntry::grad_norm},
    {"lr", &LogEntry::lr},
    {"ms", &LogEntry::ms},
    {"tok_s", &LogEntry::tok_s},
    {"mfu", &LogEntry::mfu},
    {"val_loss", &LogEntry::val_loss},
    {"hellaswag", &LogEntry::hellaswag},
};

static std::string to_json(const LogEntry& entry) {
    std::string out = strf("{\"step\":%lld", static_cast<long long>(entry.step));
    for (const LogField& field : log_fields) {
        if (!(entry.*field.value)) continue;
        const double x = *(entry.*field.value);
        char digits[32] = "null";  // JSON has no NaN
        char* end = std::isfinite(x) ? std::to_chars(digits, digits + sizeof digits, x).ptr : digits + 4;
        out += std::string(",\"") + field.name + "\":" + std::string(digits, end);
    }
    return out + (entry.skipped ? ",\"skipped\":true}" : "}");
}

// Returns false if the line is none of ours, such as one that was being written when the machine went down.
static bool from_json(const std::string& line, LogEntry* entry) {
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) return false;
    *entry = LogEntry{};
    entry->step = json["step"].get<int64_t>();
    for (const LogField& field : log_fields) {
        if (!json.contains(field.name)) continue;
        const nlohmann::json& value = json[field.name];
        if (value.is_number()) entry->*field.value = value.get<double>();
        else if (value.is_null()) entry->*field.value = std::numeric_limits<double>::quiet_NaN();
        else return false;
    }
    entry->skipped = json.contains("skipped") && json["skipped"] == true;
    return true;
}

// A line can be written again and again. (TERM=dumb says that it cannot: mpirun's ranks always write to a terminal.)
static bool is_terminal() { return isatty(STDOUT_FILENO) && strcmp(getenv("TERM") ? getenv("TERM") : "", "dumb") != 0; }

RunLog::RunLog(const std::string& output, int64_t resume_step) : output_(output), terminal_(is_terminal()) {
    if (output.empty()) return;
    std::error_code error;
    fs::create_directories(output, error);
    if (error && !fs::is_directory(output))
        throw Error(strf("%s: cannot make the output directory: %s; choose another one with --output", output.c_str(),
                         error.message().c_str()));
    const std::string path = output + "/log.jsonl";
    if (fs::exists(path, error)) {
        std::ifstream in(path, std::ios::binary);
        std::string line, kept;
        LogEntry entry;
        while (resume_step > 0 && std::getline(in, line)) {
            if (!from_json(line, &entry) || entry.step > resume_step) continue;
            entries_.push_back(entry);
            kept += line + "\n";
        }
        replace_file(path, kept);
    }
    file_ = fopen(path.c_str(), "ab");
    if (!file_)
        throw Error(
            strf("%s: cannot be written: %s; choose another directory with --output", path.c_str(), strerror(errno)));
}

RunLog::~RunLog() {
    clear_progress();
    if (file_) fclose(file_);
}

void RunLog::write(const LogEntry& entry) {
    entries_.push_back(entry);
    if (!file_) return;
    const std::string line = to_json(entry) + "\n";
    if (fwrite(line.data(), 1, line.size(), file_) != line.size() || fflush(file_) != 0)
        throw Error(strf("%s/log.jsonl: cannot be written: %s", output_.c_str(), strerror(errno)));
}

void RunLog::print_step(const LogEntry& entry, int64_t max_steps) {
    std::string line = strf("step %lld", static_cast<long long>(entry.step));
    if (max_steps > 0) line += strf("/%lld", static_cast<long long>(max_steps));
    if (entry.loss) line += strf(" | loss %.6f", *entry.loss);
    if (entry.grad_norm) line += strf(" | norm %.4f", *entry.grad_norm);
    if (entry.lr) line += strf(" | lr %.2e", *entry.lr);
    if (entry.ms) line += strf(" | %.2f ms", *entry.ms);
    if (entry.tok_s && std::isfinite(*entry.tok_s)) line += " | " + human_count(std::llround(*entry.tok_s)) + " tok/s";
    if (entry.mfu) line += strf(" | mfu %.1f%%", 100 * *entry.mfu);
    if (entry.val_loss) line += strf(" | val loss %.6f", *entry.val_loss);
    if (entry.hellaswag) line += strf(" | hellaswag %.4f", *entry.hellaswag);
    if (entry.skipped) line += " | skipped";
    print(line);
}

void RunLog::progress(const std::string& what, int64_t done, int64_t total, double seconds_left) {
    if (!terminal_ || total <= 0) return;
    const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    std::string numbers = strf("%3d%% ", static_cast<int>(100 * share)) + human_count(done) + "/" + human_count(total);
    if (std::isfinite(seconds_left) && seconds_left >= 0 && done < total)
        numbers += ", " + human_seconds(seconds_left) + " left";
    // A line that wraps could not be rewritten: on a narrow terminal first the bar shrinks, then the line is cut.
    winsize window{};
    const size_t columns =
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 ? window.ws_col - 1u : 79u;
    const size_t used = what.size() + numbers.size() + 4,
                 bar = used < columns ? std::min<size_t>(columns - used, 24) : 0;
    const size_t filled = static_cast<size_t>(share * static_cast<double>(bar));
    std::string line = what + " ";
    if (bar >= 4) line.append("[").append(filled, '#').append(bar - filled, '.').append("] ");
    line = (line + numbers).substr(0, columns);
    printf("\r\033[K%s", line.c_str());
    fflush(stdout);
    progress_shown_ = true;
}

void RunLog::clear_progress() {
    if (!progress_shown_) return;
    printf("\r\033[K");
    fflush(stdout);
    progress_shown_ = false;
}

void RunLog::print(const std::string& line) {
    clear_progress();
    printf("%s\n", line.c_str());
    fflush(stdout);
}

void RunLog::write_plot() const {
    if (output_.empty()) return;
    const std::string name = fs::weakly_canonical(output_).filename().string();
    replace_file(output_ + "/loss.svg", loss_plot_svg(entries_, name));
}

// ---- plot ----------------------------------------------------------------------------------------------------------

using Points = std::vector<std::pair<double, double>>;  // (step, loss)

static Points finite_points(const std::vector<LogEntry>& entries, std::optional<double> LogEntry::*field) {
    Points points;
    for (const LogEntry& entry : entries)
        if (entry.*field && std::isfinite(*(entry.*field)))
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
    // A round trip through the JSON library replaces what is no valid UTF-8.
    const std::string valid =
        nlohmann::json::parse(nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))
            .get<std::string>();
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

// ---- numbers -------------------------------------------------------------------------------------------------------

std::string human_seconds(double seconds) {
    if (!std::isfinite(seconds) || seconds > 1e15) return "?";
    const long long s = std::llround(std::max(seconds, 0.0)), minutes = (s + 30) / 60, hours = (s + 1800) / 3600;
    if (s < 60) return strf("%lld s", s);
    if (s < 3600) return strf("%lld min %lld s", s / 60, s % 60);
    if (minutes < 24 * 60) return strf("%lld h %lld min", minutes / 60, minutes % 60);
    return strf("%lld d %lld h", hours / 24, hours % 24);
}

std::string human_count(int64_t n) {
    std::string digits = std::to_string(n);
    const int first = n < 0 ? 1 : 0;
    for (int i = static_cast<int>(digits.size()) - 3; i > first; i -= 3) digits.insert(static_cast<size_t>(i), 1, ',');
    return digits;
}

std::string human_bytes(double bytes) {
    const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    int unit = 0;
    while (unit < 5 && std::abs(bytes) >= (unit == 0 ? 999.5 : 999.995)) bytes /= 1000, unit++;
    return unit == 0 ? strf("%.0f B", bytes) : strf("%.2f %s", bytes, units[unit]);
}
