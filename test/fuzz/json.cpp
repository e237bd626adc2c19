// JSON: base/json.h, which reads our files, and text/json_text.h, which reads everybody's texts.
#include "llmc/base/json.h"
#include "llmc/text/json_text.h"
#include "llmc/text/utf8.h"
#include "test/fuzz/fuzz.h"

template <typename Number>
static void check_whole(const Json& j) {
    Number number;
    if (json_whole(j, &number)) CHECK(Json(number) == j, "%s", j.dump().c_str());
}

FUZZ(json) {
    const Json j = try_json(input);
    const bool good = !j.is_discarded();
    const std::string why = complaint_of([&] { CHECK(parse_json(input) == j, "not the same"); });
    CHECK(why.empty() == good, "%s", why.c_str());
    CHECK(try_json<OrderedJson>(input).is_discarded() == j.is_discarded(), "ordered or not");
    if (good) {
        CHECK(parse_json(j.dump()) == j && parse_json(json_line(j)) == j, "%s", j.dump().c_str());
        for (const Json& value : j)
            if (value.is_number()) check_whole<int>(value), check_whole<int64_t>(value), check_whole<uint64_t>(value);
    }

    // What the one takes, the other takes, and finds the same text in it.
    const std::string_view text = input.substr(input.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0);
    std::string found;
    int64_t repairs = 0;
    JsonField field = JsonField::missing;
    const std::string other = complaint_of([&] { field = json_field(text, "text", found, repairs); });
    if (good) {
        CHECK(other.empty() == j.is_object(), "%s", other.c_str());
        const JsonForm form = json_form(input, true, "text");
        if (j.is_object()) {
            const bool has = j.contains("text");
            CHECK((field == JsonField::missing) == !has && form.has_field == has && form.form != JsonForm::no, "form");
            if (has) CHECK((field == JsonField::text) == j["text"].is_string(), "kind %d", static_cast<int>(field));
            if (field == JsonField::text) CHECK(found == j["text"] && repairs == 0, "%s", found.c_str());
        }
    }

    // The end of a value does not depend on how much of what follows is there.
    if (text.empty()) return;
    const bool word = std::string_view("{[\"").find(text[0]) == std::string_view::npos;
    const size_t end = json_value_end(text, 0);
    for (size_t n : {text.size() / 2, text.size() - 1, std::min(end, text.size())}) {
        if (n == 0) continue;
        const size_t sooner = json_value_end(text.substr(0, n), 0);
        CHECK(sooner == (n < end || (word && n == end) ? std::string_view::npos : end), "%zu of %zu: %zu", n, end,
              sooner);
        json_form(text.substr(0, n), n % 2, "text");
    }
}
