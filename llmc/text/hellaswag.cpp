#include "llmc/text/hellaswag.h"

#include <fstream>
#include "llmc/base/json.h"
#include "llmc/text/input_kind.h"

std::vector<MultipleChoice> read_hellaswag(const std::string& path, const Tokenizer& tokenizer, int64_t limit) {
    std::ifstream file(path);
    if (!file)
        throw Error("cannot read " + path + ": `make hellaswag` fetches it; or name a file with --hellaswag-data");
    const auto wrong = [&](int64_t line, const char* why) {
        return Error(strf("%s:%lld: not a HellaSwag question (%s); fetch the file again with `make hellaswag`",
                          path.c_str(), static_cast<long long>(line), why));
    };
    std::vector<MultipleChoice> questions;
    std::string text;
    for (int64_t line = 1; (limit == 0 || std::ssize(questions) < limit) && std::getline(file, text); line++) {
        try {
            text = written_text(text + "\n", path);
            if (text.empty()) continue;
            Json j = parse_json(text);
            MultipleChoice q;
            tokenizer.encode(j.at("ctx").get<std::string>(), q.context);
            for (const auto& ending : j.at("endings")) {
                q.endings.emplace_back();
                tokenizer.encode(" " + ending.get<std::string>(), q.endings.back());
            }
            Json label = j.at("label");  // 1 or "1"
            if (label.is_string()) label = try_json(label.get<std::string>());
            bool empty = q.context.empty() || !json_whole(label, &q.label);
            for (const auto& ending : q.endings) empty |= ending.empty();
            if (empty || q.label < 0 || q.label >= static_cast<int>(q.endings.size()))
                throw Error("no context, no ending or no such label");
            questions.push_back(std::move(q));
        } catch (const Error& e) {
            throw wrong(line, e.what());
        } catch (const JsonError& e) {
            throw wrong(line, e.what());
        }
    }
    if (questions.empty()) throw Error(path + " has no questions; fetch it again with `make hellaswag`");
    return questions;
}
