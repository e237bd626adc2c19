// The option table as text: --help for a terminal, --help-markdown for OPTIONS.md.
#include <cstdio>
#include <cstring>
#include "llmc/base/error.h"
#include "llmc/run/option_table.h"

static std::string option_names(const OptionRow& row) {
    std::string out = *row.flag ? std::string("-") + row.flag + (strlen(row.flag) == 1 ? ",  " : ", ") : "     ";
    out += std::string("--") + (row.is_switch() && *std::get<bool*>(row.field) ? "[no-]" : "") + row.name;
    if (*row.value) out += std::string(" ") + row.value + (row.takes_list() ? "..." : "");
    return out;
}

static void print_wrapped(const std::string& left, const std::string& text) {
    const size_t column = 42, width = 112;
    std::string line = "  " + left;
    line += line.size() + 2 <= column ? std::string(column - line.size(), ' ') : "\n" + std::string(column, ' ');
    size_t used = column;
    for (size_t i = 0; i < text.size();) {
        size_t end = std::min(text.find(' ', i), text.size());
        if (used + (end - i) > width) line += "\n" + std::string(column, ' '), used = column;
        line += text.substr(i, end - i) + " ", used += end - i + 1, i = end + 1;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    printf("%s\n", line.c_str());
}

void print_help(const std::vector<OptionRow>& table, const ProgramInfo& program, int command, bool with_commands) {
    if (with_commands) {
        printf("Usage: ./%s [COMMAND] [OPTIONS]\n\nCommands:\n", program.name.c_str());
        for (const CommandInfo& c : kCommands) print_wrapped(c.name, c.help);
        printf("\n./%s COMMAND --help gives the options of a command. Those of train:\n", program.name.c_str());
    } else {
        printf("Usage: ./%s %s [OPTIONS]\n\n%s\n", program.name.c_str(), kCommands[command].name,
               kCommands[command].help);
    }
    std::string group;
    for (const OptionRow& row : table) {
        if (!row.belongs_to(command)) continue;
        if (group != row.group) printf("\n%s:\n", (group = row.group).c_str());
        print_wrapped(option_names(row), row.help + " [" + default_text(row) + "]");
    }
    printf("\nOther:\n");
    print_wrapped("-h,  --help", "this text; the value in [] is the default");
}

static std::string markdown_text(std::string text) {  // "<data>" would be taken for HTML
    for (size_t i = 0; (i = text.find('<', i)) != std::string::npos;) text.replace(i, 1, "&lt;");
    return text;
}

void print_markdown(const std::vector<OptionRow>& table, const ProgramInfo& program) {
    printf(
        "# Options\n\n"
        "Written by `make readme` from the table in [option_table.cpp](llmc/run/option_table.cpp); do not edit.\n\n"
        "`./%s COMMAND --help` lists the options of one command. The defaults here are those of this program. "
        "The second column is llm.c's spelling, which is understood, too.\n",
        program.name.c_str());
    std::string group;
    for (const OptionRow& row : table) {
        if (row.commands == 0) continue;
        if (group != row.group)
            printf("\n## %s\n\n| option | | default | meaning | commands |\n|---|---|---|---|---|\n",
                   (group = row.group).c_str());
        printf("| `--%s%s%s` | %s | %s | %s | %s |\n", row.name, *row.value ? " " : "", row.value,
               *row.flag ? strf("`-%s`", row.flag).c_str() : "", markdown_text(default_text(row)).c_str(),
               markdown_text(row.help).c_str(), row.command_names().c_str());
    }
}
