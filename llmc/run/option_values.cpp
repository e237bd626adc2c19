// An option's value as text, and the record of options that a resume obeys.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstring>
#include "llmc/base/json.h"
#include "llmc/run/option_table.h"

// ---- text ------------------------------------------------------------------------------------------------------------

static std::string number_text(double x) {  // the shortest that reads as the same number
    char buffer[32];
    return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, x).ptr);
}

std::string value_text(const OptionRow& row) {
    if (auto p = std::get_if<bool*>(&row.field)) return **p ? "on" : "off";
    if (auto p = std::get_if<int*>(&row.field)) return std::to_string(**p);
    if (auto p = std::get_if<int64_t*>(&row.field)) return std::to_string(**p);
    if (auto p = std::get_if<uint64_t*>(&row.field)) return std::to_string(**p);
    if (auto p = std::get_if<double*>(&row.field)) return number_text(**p);
    if (auto p = std::get_if<std::string*>(&row.field)) return **p;
    return "";
}

double parse_memory_limit(const std::string& text) {
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    std::string unit(end, text.data() + text.size());
    std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return std::tolower(c); });
    const std::string prefixes = "kmgt";
    const size_t power = unit.empty() ? std::string::npos : prefixes.find(unit[0]);
    const std::string rest = power == std::string::npos ? unit : unit.substr(1);
    const bool binary = rest == "ib" && power != std::string::npos, good = rest == "" || rest == "b" || binary;
    const double bytes = power == std::string::npos
                             ? number
                             : number * std::pow(binary ? 1024.0 : 1000.0, static_cast<double>(power + 1));
    if (error != std::errc() || !good || !(bytes >= 1) || bytes > 1e18)
        throw UsageError(strf("--memory-limit takes a size such as 16GB, 512MB or 7.5GiB, not '%s'", text.c_str()));
    return bytes;
}

template <typename T>
static void assign_number(const OptionRow& row, T* field, const std::string& text) {
    constexpr bool whole = std::is_integral_v<T>;
    T value{};
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc::result_out_of_range)
        throw UsageError(strf("--%s: %s is too large or too small", row.name, text.c_str()));
    bool number = error == std::errc() && end == text.data() + text.size() && !text.empty();
    if (!number || !std::isfinite(static_cast<double>(value)))
        throw UsageError(strf("--%s takes a %snumber%s%s, not '%s'", row.name, whole ? "whole " : "",
                              *row.limits.text ? ", " : "", row.limits.text, text.c_str()));
    if (static_cast<double>(value) < row.limits.low || static_cast<double>(value) > row.limits.high)
        throw UsageError(strf("--%s must be %s, not %s", row.name, row.limits.text, text.c_str()));
    *field = value;
}

static std::string list(const std::vector<std::string>& words) {
    std::string out;
    for (size_t i = 0; i < words.size(); i++) out += (i == 0 ? "" : i + 1 < words.size() ? ", " : " or ") + words[i];
    return out;
}

void assign_option(const OptionRow& row, const std::string& text) {
    if (auto b = std::get_if<bool*>(&row.field)) {
        if (text != "true" && text != "false")
            throw UsageError(strf("--%s is a switch: write --%s or --no-%s", row.name, row.name, row.name));
        **b = text == "true";
    } else if (auto i = std::get_if<int*>(&row.field)) assign_number(row, *i, text);
    else if (auto l = std::get_if<int64_t*>(&row.field)) assign_number(row, *l, text);
    else if (auto u = std::get_if<uint64_t*>(&row.field)) assign_number(row, *u, text);
    else if (auto d = std::get_if<double*>(&row.field)) assign_number(row, *d, text);
    else {
        if (!row.choices.empty() && std::find(row.choices.begin(), row.choices.end(), text) == row.choices.end())
            throw UsageError(strf("--%s must be %s, not '%s'", row.name, list(row.choices).c_str(), text.c_str()));
        const bool standard_input = row.takes_list() && text == "-";
        if (!standard_input && !is_free_text(row) && (text.empty() || text[0] == '-'))
            throw UsageError(strf("--%s needs a value (%s), not '%s'", row.name, row.value, text.c_str()));
        if (auto s = std::get_if<std::string*>(&row.field)) **s = text;
        else std::get<std::vector<std::string>*>(row.field)->push_back(text);
    }
}

// ---- what a resume obeys ---------------------------------------------------------------------------------------------

std::string arithmetic_options_json(const Options& options) {
    Options copy = options;
    OrderedJson json = OrderedJson::object();
    for (const OptionRow& row : option_table(copy, ProgramInfo{})) {
        if (!row.recorded) continue;
        std::visit(
            [&](auto* field) {
                // (json writes doubles with as many digits as bring the same bits back)
                if constexpr (std::is_same_v<decltype(field), std::vector<std::string>*>) {
                    if (!field->empty()) json[row.name] = *field;
                } else json[row.name] = *field;
            },
            row.field);
    }
    return json.dump();
}

std::string recorded_optimizer(const std::string& json) {
    const Json recorded = try_json(json);
    if (!recorded.is_object() || !recorded.contains("optimizer") || !recorded["optimizer"].is_string()) return "adamw";
    return recorded["optimizer"].get<std::string>();
}

void obey_recorded_options(const std::string& json, Options* options, std::vector<std::string>* notes) {
    const Json recorded = try_json(json);
    if (!recorded.is_object())
        throw Error("trainer_state.json: its options are no JSON object; resume from an older checkpoint");
    Options copy = *options;
    const std::vector<OptionRow> given_table = option_table(copy, ProgramInfo{});
    const std::vector<OptionRow> table = option_table(*options, ProgramInfo{});
    for (size_t i = 0; i < table.size(); i++) {
        const OptionRow& row = table[i];
        if (!row.recorded || !recorded.contains(row.name)) continue;
        const Json& value = recorded[row.name];
        if (row.takes_list()) {
            if (options->was_given(row.name)) continue;
            for (const Json& part : value)
                if (part.is_string())
                    std::get<std::vector<std::string>*>(row.field)->push_back(part.get<std::string>());
            continue;
        }
        const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
        if (text.empty()) continue;  // never set, in the run that recorded it
        const bool given = options->was_given(row.name);
        try {
            const bool integer_zero_means_default = text == "0" && row.limits.low == 1;  // not recorded either
            if (!integer_zero_means_default) assign_option(given ? given_table[i] : row, text);
        } catch (const UsageError& e) {
            throw Error(strf("trainer_state.json: %s; resume from an older checkpoint", e.what()));
        }
        if (given && value_text(given_table[i]) != value_text(row))
            notes->push_back(strf("--%s %s, as given, replaces %s, with which the run was started", row.name,
                                  value_text(row).c_str(), value_text(given_table[i]).c_str()));
    }
    check_combinations(*options);
}
