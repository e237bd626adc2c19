#include "llmc/run/compare_starts.h"

#include <filesystem>
#include "llmc/base/json.h"
#include "llmc/text/shards.h"

std::string start_description(const Run& run, const std::string& device) {
    Json j = parse_json(arithmetic_options_json(run.options));
    if (!run.state.data_json.empty()) {
        j["training data"] = parse_json(run.state.data_json);
        for (const char* local : {"train_paths", "validation_paths"}) j["training data"].erase(local);
    }
    std::string validation;
    for (const std::string& path : run.val_shards)
        validation += strf("%s (%lld tokens) ", std::filesystem::path(path).filename().c_str(),
                           static_cast<long long>(Shard(path, 0).size()));
    if (run.val_examples) validation = strf("%lld tokens", static_cast<long long>(run.val_examples->tokens()));
    j["validation data"] = validation, j["model"] = run.options.model, j["device"] = device;
    j["output"] = run.output, j["checkpoint to resume from"] = run.resume_from, j["step"] = run.state.step;
    return json_line(j);
}

std::string start_description(const Error& error) {
    return json_line({{"error", error.what()}, {"exit code", error.exit_code}});
}

void compare_starts(const std::vector<std::string>& descriptions) {
    std::vector<Json> all;
    for (const std::string& text : descriptions) {
        all.push_back(try_json(text));
        if (!all.back().is_object())
            throw Error(strf("rank %zu does not say what it was started with; start the same program in all ranks",
                             all.size() - 1));
    }
    for (size_t r = 0; r < all.size(); r++)
        if (all[r].contains("error")) {
            const Json error = all[r]["error"], code = all[r].value("exit code", Json());
            const std::string text = error.is_string() ? error.get<std::string>() : error.dump();
            throw Error(r == 0 ? text : strf("rank %zu: %s", r, text.c_str()), code == 2 ? 2 : 1);
        }
    for (size_t r = 1; r < all.size(); r++)
        for (auto& [key, value] : all[0].items())
            if (all[r][key] != value)
                throw Error(strf("rank %zu differs from rank 0 in %s: %s instead of %s; start all ranks alike", r,
                                 key.c_str(), all[r][key].dump().c_str(), value.dump().c_str()));
}
