// --objective distill: the teacher, and that it fits the model.
#include "llmc/base/error.h"
#include "llmc/run/run_rules.h"

void choose_teacher(Run& run, Notes* notes) {
    Options& o = run.options;
    if (o.objective != "distill") {
        for (const char* option : {"teacher", "teacher-temperature", "hard-weight"})
            if (o.was_given(option)) throw UsageError(strf("--%s goes with --objective distill", option));
        return;
    }
    if (o.teacher.empty()) throw UsageError("--objective distill learns from a model; name it with --teacher");
    ModelSource teacher = find_model(o.teacher);
    notes->insert(notes->end(), teacher.notes.begin(), teacher.notes.end());
    const char* name = o.teacher.c_str();
    if (teacher.kind == ModelSource::Kind::size)
        throw UsageError(
            strf("--teacher %s is a size without weights; name a run, a model directory or a .bin file", name));
    if (run.prompts(0) > 0)
        throw UsageError(
            "--objective distill: the teacher cannot read --prompt-tokens; train the model or --lora-rank");
    if (teacher.adapter && teacher.adapter->config.prompts.tokens > 0)
        throw UsageError(strf("--teacher %s has trained prompts, which the data has not; name another", name));
    teacher.config.head = {};  // only its words count
    check_model_config(teacher.config, strf("--teacher %s", name));
    const char* remedy = "a teacher must have the model's vocabulary";
    if (teacher.config.V != run.config.V)
        throw Error(strf("--teacher %s has a vocabulary of %d tokens, --model %s one of %d; %s", name, teacher.config.V,
                         o.model.c_str(), run.config.V, remedy));
    if (run.tokenizer && !teacher.vocabulary.empty()) {
        const Tokenizer words = Tokenizer::load(teacher.vocabulary);
        if (!words.within(*run.tokenizer) && !run.tokenizer->within(words))
            throw Error(strf("the vocabularies of --teacher %s (%s) and --model %s (%s) have other tokens; %s", name,
                             teacher.vocabulary.c_str(), o.model.c_str(), run.vocabulary.c_str(), remedy));
    }
    if (teacher.config.T < run.T)
        throw UsageError(
            strf("--seq-len (-t) %d is longer than the longest context of --teacher %s, %d; give at most that", run.T,
                 name, teacher.config.T));
    o.teacher = teacher.adapter ? teacher.adapter->path : teacher.path;  // of a run the checkpoint, for a resume
    run.teacher = std::move(teacher);
}
