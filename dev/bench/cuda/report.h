// What bench_cuda was asked for, and what it has to say: Markdown on stdout, rows of JSON in a file.
#pragma once
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/run/roofline.h"

namespace bench {

struct BenchOptions {
    std::string json, model = "d12", large = "d48";
    double limit = 1e9;  // seconds; sections that would begin later are left out
    int T = 1024, product = 8192, copy_mb = 1024;
    int64_t tokens = 524288;
    std::vector<int> batches = {4, 8, 16, 32, 64, 128};
    std::set<std::string> sections;
    bool own = false;
};
inline BenchOptions o;

inline Rates rates;  // of this very card (rates.cuh)

inline double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
inline const double begin_time = now();
inline double seconds_left() { return o.limit - (now() - begin_time); }

// ---- JSON: a list of rows per section ----

struct Row {
    std::string text;
    Row& add(const char* key, const std::string& value) {
        std::string quoted;
        for (char c : value) quoted += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
        return raw(key, "\"" + quoted + "\"");
    }
    Row& add(const char* key, double value) { return raw(key, std::isfinite(value) ? strf("%.6g", value) : "null"); }
    Row& raw(const char* key, const std::string& value) {
        text += strf("%s\"%s\": ", text.empty() ? "" : ", ", key) + value;
        return *this;
    }
};
inline std::vector<std::pair<std::string, std::vector<Row>>> results;

inline void write_json() {
    if (o.json.empty()) return;
    std::string text = "{";
    for (auto& [section, rows] : results) {
        text += strf("%s\n\"%s\": [", text.size() > 1 ? "," : "", section.c_str());
        for (size_t i = 0; i < rows.size(); i++) text += (i ? ",\n  {" : "\n  {") + rows[i].text + "}";
        text += "]";
    }
    text += "\n}\n";
    std::unique_ptr<FILE, int (*)(FILE*)> file(fopen(o.json.c_str(), "w"), fclose);
    if (!file || fwrite(text.data(), 1, text.size(), file.get()) != text.size())
        throw Error("--json: cannot write " + o.json);
}
inline void result(const std::string& section, const Row& row) {
    if (results.empty() || results.back().first != section) results.push_back({section, {}});
    results.back().second.push_back(row);
}
inline void note(const std::string& text) {
    printf("\n%s\n", text.c_str());
    result("notes", Row().add("note", text));
}

}  // namespace bench
