#include "llmc/run/sample_output.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include "llmc/base/error.h"
#include "llmc/base/json.h"
#include "llmc/text/input_kind.h"

SamplerOptions sampler_options(const Options& o) {
    SamplerOptions s;
    s.temperature = static_cast<float>(o.temperature), s.top_k = o.top_k, s.top_p = static_cast<float>(o.top_p);
    s.min_p = static_cast<float>(o.min_p), s.repetition_penalty = static_cast<float>(o.repetition_penalty);
    s.seed = o.seed;
    return s;
}

std::vector<std::string> read_prompts(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file || std::filesystem::is_directory(path)) throw Error("--prompt-file: cannot read " + path);
    std::string text = written_text({std::istreambuf_iterator<char>(file), {}}, path);
    if (!path.ends_with(".jsonl")) return {text};
    std::vector<std::string> prompts;
    std::istringstream in(text);
    int number = 0;
    for (std::string line; std::getline(in, line);) {
        number++;
        if (line.find_first_not_of(" \t") == std::string::npos) continue;
        const std::string where = strf("%s:%d", path.c_str(), number);
        const Json object = parse_json_object(line, where);
        if (!object.contains("prompt") || !object["prompt"].is_string())
            throw Error(where + ": no text \"prompt\", such as {\"prompt\": \"Once upon a time\"}");
        prompts.push_back(object["prompt"].get<std::string>());
    }
    if (prompts.empty()) throw Error(path + ": no prompt in it, such as {\"prompt\": \"Once upon a time\"}");
    return prompts;
}

std::string sample_json(const std::string& prompt, int sample, const GrowingText& text, const Tokenizer& tokenizer,
                        bool tokens, const std::string& adapter) {
    static const char* const ends[] = {"length", "end", "stop"};
    OrderedJson j;
    if (!adapter.empty()) j["adapter"] = adapter;
    j["prompt"] = prompt, j["sample"] = sample, j["text"] = text.text(), j["end"] = ends[static_cast<int>(text.end())];
    j["log_probability"] = text.log_probability(), j["mean_log_probability"] = text.mean_log_probability();
    j["num_tokens"] = text.tokens().size();
    if (tokens) j["tokens"] = OrderedJson::array();
    for (const Drawn& t : text.tokens())
        if (tokens)
            j["tokens"].push_back({{"id", t.id},
                                   {"text", std::string(tokenizer.bytes(t.id))},
                                   {"log_probability", static_cast<double>(t.logprob)}});
    return j.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}
