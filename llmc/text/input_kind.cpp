#include "llmc/text/input_kind.h"

#include <algorithm>
#include <filesystem>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/text/utf8.h"

namespace fs = std::filesystem;
using namespace std::string_view_literals;

namespace {

struct Magic {
    std::string_view bytes;
    const char *what, *tool;
    size_t at = 0;
    bool readable = false;  // a text might begin with these bytes, too
};
constexpr Magic kMagic[] = {
    {"\x28\xB5\x2F\xFD"sv, "compressed", "zstdcat"},
    {"\x1F\x8B"sv, "compressed", "zcat"},
    {"\x1F\x9D"sv, "compressed", "zcat"},
    {"\xFD\x37zXZ"sv, "compressed", "xzcat"},
    {"BZh91AY&SY"sv, "compressed", "bzcat"},
    {"\x04\x22\x4D\x18"sv, "compressed", "lz4cat"},
    {"LZIP\x01"sv, "compressed", "lzip -dc"},
    {"\xFF\xFE\0\0"sv, "UTF-32", "iconv -f UTF-32 -t UTF-8"},
    {"\0\0\xFE\xFF"sv, "UTF-32", "iconv -f UTF-32 -t UTF-8"},
    {"\xFF\xFE"sv, "UTF-16", "iconv -f UTF-16 -t UTF-8"},
    {"\xFE\xFF"sv, "UTF-16", "iconv -f UTF-16 -t UTF-8"},
    {"PK\3\4"sv, "a ZIP archive (as .docx, .epub and .odt are)", "unzip -p"},
    {"7z\xBC\xAF\x27\x1C"sv, "a 7z archive", "7z x -so"},
    {"Rar!\x1A\x07"sv, "a RAR archive", "unrar p -inul"},
    {"ustar"sv, "a tar archive", "tar -xOf", 257},
    {"%PDF-"sv, "a PDF document", "pdftotext"},
    {"PAR1"sv, "a Parquet file", nullptr, 0, true},
    {"ARROW1"sv, "an Arrow file", nullptr, 0, true},
    {"Obj\x01"sv, "an Avro file", nullptr},
    {"SQLite format 3\0"sv, "an SQLite database", nullptr},
    {"\x89PNG"sv, "an image", nullptr},
    {"\xFF\xD8\xFF"sv, "an image", nullptr},
    {"GIF8"sv, "an image", nullptr, 0, true},
    {"RIFF"sv, "an image or a recording", nullptr, 0, true},
    {"OggS"sv, "a recording", nullptr, 0, true},
    {"ID3"sv, "a recording", nullptr, 0, true},
    {"\x7F"
     "ELF"sv,
     "a program", nullptr},
    {"MZ"sv, "a program", nullptr, 0, true},
    {"\xD0\xCF\x11\xE0"sv, "an old Office document", nullptr},
    {"\x08\x86\x34\x01"sv, "a token shard", "./tokenize decode"},  // 20240520
    {"\x06\x29\x35\x01"sv, "a file of examples", nullptr},         // 20261126
    {"\x81\x87\x34\x01"sv, "a token shard", "./tokenize decode"},  // 20240801
};

}  // namespace

NoText why_no_text(std::string_view head, const std::string& file) {
    head = head.substr(0, kHeadBytes);
    size_t odd = 0, zeros[2] = {0, 0};
    for (size_t i = 0; i < head.size();) {
        const uint8_t c = static_cast<uint8_t>(head[i]);
        Utf8 status = Utf8::valid;
        uint32_t code = c;
        const size_t n = c < 0x80 ? 1 : read_utf8(byte_pointer(head) + i, head.size() - i, &status, &code);
        if (c == 0) ++zeros[i % 2];
        if (status == Utf8::invalid || (c < 0x20 && (c < '\b' || c > '\r') && c != 0x1A && c != 0x1B)) odd += n;
        i += n;
    }
    const bool readable = zeros[0] + zeros[1] == 0 && odd * 10 <= head.size() * 3;
    for (const Magic& magic : kMagic) {
        if (head.substr(std::min(magic.at, head.size()), magic.bytes.size()) != magic.bytes) continue;
        if (magic.readable && readable) continue;
        const std::string tool = magic.tool ? magic.tool : "";
        return {strf("is %s", magic.what), tool.empty() ? "" : tool + " " + file + (tool == "pdftotext" ? " -" : "")};
    }
    if (readable) return {};
    // Text in UTF-16 has a zero in every other byte, all at even or all at odd places.
    for (int place : {0, 1})
        if (zeros[place] * 5 > head.size() && zeros[1 - place] * 50 < head.size())
            return {"looks like UTF-16", strf("iconv -f UTF-16%s -t UTF-8 %s", place ? "LE" : "BE", file.c_str())};
    if (zeros[0] + zeros[1] > 0)
        return {strf("is no text (byte %zu is zero)", head.find('\0')), strf("tr -d '\\0' <%s", file.c_str())};
    return {strf("is no text in UTF-8 (%zu of its first %zu bytes are none)", odd, head.size()),
            strf("iconv -f ITS_ENCODING -t UTF-8 %s", file.c_str())};
}

std::string written_text(std::string text, const std::string& name) {
    if (const NoText why = why_no_text(text, name); !why.what.empty())
        throw Error(strf("%s %s%s", name.c_str(), why.what.c_str(),
                         why.command.empty() ? "" : strf("; `%s` makes text of it", why.command.c_str()).c_str()));
    if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
    for (size_t at = 0; (at = text.find("\r\n", at)) != std::string::npos; ++at) text.erase(at, 1);
    if (text.ends_with('\n')) text.erase(text.find_last_not_of(" \t\r\n") + 1);
    return text;
}

bool is_own_directory(const std::string& path) {
    const std::string name = fs::path(path).filename().string();
    return name.size() == 13 && name.starts_with("step_") &&
           name.find_first_not_of("0123456789", 5) == std::string::npos;
}

bool is_own_file(const std::string& path) {
    static constexpr const char* names[] = {"vocab.json",
                                            "merges.txt",
                                            "encoder.json",
                                            "vocab.bpe",
                                            "tokenizer.json",
                                            "added_tokens.json",
                                            "config.json",
                                            "special_tokens_map.json",
                                            "log.jsonl",
                                            "generation_config.json",
                                            "tokenizer_config.json",
                                            "trainer_state.json",
                                            "loss.svg",
                                            "adapter_config.json",
                                            "source.txt",
                                            "model.safetensors.index.json",
                                            "train_000000.bin",
                                            "train.examples",
                                            "val.examples",
                                            "model.safetensors",
                                            "adapter_model.safetensors"};
    const fs::path file(path), parent = file.parent_path().empty() ? fs::path(".") : file.parent_path();
    if (std::find(std::begin(names), std::end(names), file.filename().string()) == std::end(names)) return false;
    int others = 0;  // one such name alone may be anybody's
    for (const char* name : names) others += file.filename() != name && path_exists(parent / name);
    if (others > 0) return true;
    for (const std::string& entry : names_in(parent))
        if (is_own_directory(entry) && is_directory(parent / entry)) return true;
    return false;
}
