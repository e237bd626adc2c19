// Models beside the one that is trained, and that they fit it.
#include <filesystem>
#include "llmc/base/error.h"
#include "llmc/run/run_rules.h"

StepOptions FrozenModel::options(const Run& run, int B) const {
    StepOptions o;
    o.training = false;
    o.B = B, o.T = run.T, o.examples = run.on_examples, o.signals = run.policy != nullptr;
    if (source.adapter) o.adapters = {source.adapter->config};
    return o;
}

FrozenModel open_frozen(Run& run, const char* option, const std::string& what, Notes* notes, bool rewards) {
    FrozenModel frozen;
    frozen.source = find_model(what);
    const ModelSource& source = frozen.source;
    const std::string name = strf("%s %s", option, what.c_str());
    notes->insert(notes->end(), source.notes.begin(), source.notes.end());
    if (source.kind == ModelSource::Kind::size)
        throw UsageError(name + " is a size without weights; name a run, a model directory or a .bin file");
    if (source.adapter && source.adapter->config.prompts.tokens > 0)
        throw UsageError(name + " has trained prompts, which the data has not; name another");
    frozen.config = source.config;
    if (rewards && (source.adapter ? source.adapter->config.head : source.config.head).outputs != 1)
        throw Error(name + " has no head of one number; train one with --objective reward");
    if (!rewards || source.adapter) frozen.config.head = {};  // only its words count, or the adapter's own head
    check_model_config(frozen.config, name);
    const char* model = run.options.model.c_str();
    if (frozen.config.words() != run.config.words())
        throw Error(strf("%s has a vocabulary of %d tokens, --model %s one of %d; both must have the same",
                         name.c_str(), frozen.config.words(), model, run.config.words()));
    if (run.tokenizer && !source.vocabulary.empty()) {
        const Tokenizer words = Tokenizer::load(source.vocabulary);
        if (!words.within(*run.tokenizer) && !run.tokenizer->within(words))
            throw Error(
                strf("the vocabularies of %s (%s) and --model %s (%s) have other tokens; both must have the same",
                     name.c_str(), source.vocabulary.c_str(), model, run.vocabulary.c_str()));
    }
    if (frozen.config.T < run.T)
        throw UsageError(strf("--seq-len (-t) %d is longer than the longest context of %s, %d; give at most that",
                              run.T, name.c_str(), frozen.config.T));
    return frozen;
}

void choose_teacher(Run& run, Notes* notes) {
    Options& o = run.options;
    if (o.objective != "distill") {
        for (const char* option : {"teacher", "teacher-temperature", "hard-weight"})
            if (o.was_given(option)) throw UsageError(strf("--%s goes with --objective distill", option));
        return;
    }
    if (o.teacher.empty()) throw UsageError("--objective distill learns from a model; name it with --teacher");
    if (run.prompts(0) > 0)
        throw UsageError(
            "--objective distill: the teacher cannot read --prompt-tokens; train the model or --lora-rank");
    run.teacher = open_frozen(run, "--teacher", o.teacher, notes);
    o.teacher = run.teacher->path();  // of a run the checkpoint, for a resume
}
