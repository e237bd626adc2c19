// ./tokenize examples: examples are read, set into their template and encoded once.
#include <algorithm>
#include <cstdio>
#include "data/tokenize.h"
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/base/human.h"
#include "llmc/text/dataset_writer.h"
#include "llmc/text/examples.h"

void write_examples(const TokenizeOptions& options) {
    finish_publication(options.output);
    if (!options.force && path_exists(options.output + "/train.examples"))
        throw Error(strf("%s/train.examples is there already; give --force to replace it, or another -o",
                         options.output.c_str()));
    Tokenizer tokenizer = Tokenizer::load(options.vocab);
    for (const std::string& note : tokenizer.notes()) fprintf(stderr, "%s\n", note.c_str());
    std::string note;
    const Template chat = Template::choose(options.chat_template, tokenizer, &note);
    if (!note.empty()) fprintf(stderr, "%s\n", note.c_str());
    if (chat.prompts() > 0)
        throw UsageError("--template: a file of tokens has no places for prompts; name the JSON itself to finetune");
    tokenizer.set_chat_template(chat.jinja());
    Staging staging(options.output);
    ReadingNotes notes;
    const auto write = [&](const std::vector<std::string>& inputs, const char* name) {
        int64_t labels = 0;
        const Examples examples = read_examples(inputs, options.reading, chat, tokenizer, &notes, nullptr, &labels);
        if (labels > 0)
            fprintf(stderr,
                    "note: the labels of %s examples are left out; finetune --head reads them from the JSON lines\n",
                    human_count(labels).c_str());
        write_examples_file(staging.path() + "/" + name, examples, tokenizer.vocab_size());
        const int64_t counted =
            std::count_if(examples.weights.begin(), examples.weights.end(), [](float w) { return w > 0; });
        printf("%s/%s: %s examples, %s tokens, of which %s count\n", options.output.c_str(), name,
               human_count(examples.size()).c_str(), human_count(std::ssize(examples.tokens)).c_str(),
               human_count(counted).c_str());
    };
    write(options.inputs, "train.examples");
    if (!options.val_inputs.empty()) write(options.val_inputs, "val.examples");
    tokenizer.save(staging.path());
    staging.publish();
    fflush(stdout);
    notes.print();
}
