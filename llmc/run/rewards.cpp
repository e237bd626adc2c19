#include "llmc/run/rewards.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <regex>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/base/human.h"
#include "llmc/base/json.h"

std::string RewardSource::name() const {
    if (kind == model) {
        std::filesystem::path path = std::filesystem::path(what).lexically_normal();
        if (!path.has_filename()) path = path.parent_path();
        return path.filename().string();
    }
    return kind == length ? "length" : kind == match ? "match" : kind == answer ? "answer" : "command";
}

static std::regex expression(const std::string& text) {
    try {
        return std::regex(text);
    } catch (const std::regex_error& e) {
        throw UsageError(strf("--reward match:%s is no regular expression: %s", text.c_str(), e.what()));
    }
}

// SOURCE[:WEIGHT]. A path that is there is believed whole; else what stands behind the last colon is a weight, if it is a number.
static RewardSource parse_source(const std::string& given) {
    RewardSource source;
    std::string text = given;
    const bool rule = text.starts_with("length:") || text.starts_with("match:");
    const size_t colon = text.rfind(':');
    if (colon != std::string::npos && (!rule || text.find(':') != colon) && !path_exists(text)) {
        char* end = nullptr;
        const double weight = std::strtod(text.c_str() + colon + 1, &end);
        if (end != text.c_str() + colon + 1 && *end == 0) {
            if (!std::isfinite(weight))
                throw UsageError(strf("--reward %s: the weight is no finite number", given.c_str()));
            source.weight = weight, text.resize(colon);
        }
    }
    const auto behind = [&](const char* name) { return text.substr(strlen(name)); };
    if (text.starts_with("length:")) {
        source.kind = RewardSource::length;
        char* end = nullptr;
        const long n = std::strtol(behind("length:").c_str(), &end, 10);
        const std::string number = behind("length:");
        if (number.empty() || number.find_first_not_of("0123456789") != std::string::npos || n < 1 || n > 1'000'000)
            throw UsageError(strf("--reward %s: give a number of words, as in length:20", given.c_str()));
        source.words = static_cast<int>(n);
    } else if (text.starts_with("match:")) {
        source.kind = RewardSource::match, source.what = behind("match:");
        expression(source.what);
    } else if (text == "answer") {
        source.kind = RewardSource::answer;
    } else if (is_directory(text)) {
        source.what = text;
    } else {
        throw UsageError(
            strf("--reward %s is neither a model's directory nor length:N, match:REGEX or answer", given.c_str()));
    }
    return source;
}

std::vector<RewardSource> reward_sources(const Options& o) {
    std::vector<RewardSource> all;
    for (const std::string& given : o.rewards) all.push_back(parse_source(given));
    for (const std::string& command : o.reward_commands) {
        if (command.empty()) throw UsageError("--reward-command is empty; name a program");
        all.push_back({RewardSource::command, command});
    }
    return all;
}

Rewards::Rewards(const Options& o) : sources_(reward_sources(o)) {
    for (const RewardSource& s : sources_)
        commands_.push_back(s.kind == RewardSource::command ? std::make_unique<RewardCommand>(s.what, o.reward_timeout)
                                                            : nullptr);
}

static std::string trimmed(const std::string& text) {
    const size_t from = text.find_first_not_of(" \t\r\n");
    return from == std::string::npos ? "" : text.substr(from, text.find_last_not_of(" \t\r\n") + 1 - from);
}
static int words_in(const std::string& text) {
    int words = 0;
    bool inside = false;
    for (char c : text) {
        const bool space = strchr(" \t\r\n", c) != nullptr;
        words += !space && !inside, inside = !space;
    }
    return words;
}

std::vector<double> Rewards::of(size_t i, const std::vector<AnswerText>& answers) {
    const RewardSource& s = sources_[i];
    if (s.kind == RewardSource::command) {
        std::vector<std::string> lines;
        for (const AnswerText& a : answers) {
            Json object = parse_json(a.line);
            object["completion"] = a.text;
            lines.push_back(json_line(object));
        }
        return commands_[i]->ask(lines);
    }
    const std::regex pattern = s.kind == RewardSource::match ? expression(s.what) : std::regex();
    std::vector<double> rewards;
    for (const AnswerText& a : answers) {
        if (s.kind == RewardSource::length) {
            rewards.push_back(std::min(1.0, s.words / std::max(1.0, static_cast<double>(words_in(a.text)))));
        } else if (s.kind == RewardSource::answer) {
            rewards.push_back(trimmed(a.text) == trimmed(a.right));
        } else {
            // the library goes down by recursion, a step for each character: a text must not decide how deep
            constexpr size_t most = 10'000;
            rewards.push_back(std::regex_search(a.text.substr(0, most), pattern));
        }
    }
    return rewards;
}

double Rewards::total(const double* each) const {
    double sum = 0;
    for (size_t i = 0; i < sources_.size(); i++) sum += sources_[i].weight * each[i];
    return sum;
}
