// --offload: what it names, and where that cannot be; and where --fuse-update cannot.
#include <algorithm>
#include <cstddef>
#include <sstream>
#include "llmc/base/error.h"
#include "llmc/base/human.h"
#include "llmc/base/system.h"
#include "llmc/run/options.h"

Offload offload_of(const Options& o) {
    Offload all;
    const std::pair<const char*, bool*> names[] = {{"optimizer", &all.optimizer},
                                                   {"masters", &all.masters},
                                                   {"gradients", &all.gradients},
                                                   {"activations", &all.activations},
                                                   {"weights", &all.weights}};
    std::istringstream list(o.offload);
    for (std::string word; std::getline(list, word, ',');) {
        const auto found =
            std::find_if(std::begin(names), std::end(names), [&](const auto& name) { return word == name.first; });
        if (found == std::end(names))
            throw UsageError(
                strf("--offload: there is no '%s'; give any of optimizer, masters, gradients, activations "
                     "and weights, with commas between them",
                     word.c_str()));
        *found->second = true;
    }
    return all;
}

std::string offload_text(const Offload& all) {
    std::string text;
    for (const auto& [name, is] : {std::pair{"optimizer", all.optimizer},
                                   {"masters", all.masters},
                                   {"gradients", all.gradients},
                                   {"activations", all.activations},
                                   {"weights", all.weights}})
        if (is) text += (text.empty() ? "" : ",") + std::string(name);
    return text;
}

void check_offload(const Options& o, const OffloadPlace& at) {
    const Offload away = offload_of(o);
    if (!away.any()) return;
    if (at.cpu)
        throw UsageError("--offload: the CPU program has everything in the host's memory already; leave it out");
    if (away.masters && !at.masters)
        throw UsageError(strf("--offload masters: there are none with --%s; leave masters out of it",
                              o.master_weights ? "precision fp32" : "no-master-weights"));
    if (away.activations && o.recompute < 3)
        throw UsageError(
            "--offload activations: only the inputs of blocks travel; add --recompute (-r) 3, which keeps "
            "nothing else");
    if (away.weights && at.ranks > 1 && o.zero_stage < 3)
        throw UsageError(
            "--offload weights: with several ranks each would have all of them; add --zero-stage (-z) 3, or leave "
            "weights out of it");
    if (!away.gradients) return;
    const auto refuse = [](const char* what, const char* instead) {
        throw UsageError(strf("--offload gradients does not go with %s; %s", what, instead));
    };
    if (at.ranks > 1) refuse("several ranks", "--zero-stage (-z) 2 or 3 divides them");
    if (at.adapter) refuse("an adapter", "its gradients are few: leave gradients out of it");
    if (o.optimizer == "muon") refuse("--optimizer muon", "that needs whole matrices of them: leave one of them out");
    if (o.new_rows_first > 0) refuse("--new-rows-first", "leave one of them out");
}

void check_host_memory(const Options& o, size_t bytes, int ranks) {
    const double need = static_cast<double>(bytes) * std::min(ranks, o.ranks.gpus_per_node),
                 there = available_host_memory();
    if (bytes == 0 || need <= there) return;
    throw Error(
        strf("--offload %s needs %s of this machine's memory, %s are available; leave something out of it, or try "
             "--state-type int8 or a smaller --model (-e)",
             o.offload.c_str(), human_bytes(need).c_str(), human_bytes(there).c_str()));
}

void check_fuse_update(const Options& o, int64_t own_sequences) {
    if (o.fuse_update == "off") return;
    const auto refuse = [&](const char* what, const char* instead) {
        throw UsageError(strf("--fuse-update%s does not go with %s; %s",
                              o.fuse_update == "last-norm" ? " last-norm" : "", what, instead));
    };
    if (offload_of(o).gradients)
        refuse("--offload gradients", "of which it keeps one block's: leave gradients out of it");
    if (o.new_rows_first > 0) refuse("--new-rows-first", "leave one of them out");
    if (!o.text.empty()) refuse("--text", "which is a micro-batch of its own: leave one of them out");
    if (o.fuse_update == "last-norm" && o.skip_grad_z > 0)
        refuse("--skip-grad-z (-sg)",
               "blocks are updated before the norm is known: --fuse-update two-passes goes with it");
    if (o.fuse_update == "last-norm" && o.on_nan == "skip")
        refuse(
            "--on-nan skip",
            "some blocks are updated before the others' gradients are known: take --on-nan rollback, or --fuse-update "
            "two-passes");
    if (o.micro_batch_size > 0 && o.micro_batch_size < own_sequences)
        throw UsageError(strf(
            "--fuse-update needs one micro-batch a step, and %lld sequences are several of --micro-batch-size (-b) %d; "
            "give -b %lld, or a smaller --total-batch-size (-d)",
            static_cast<long long>(own_sequences), o.micro_batch_size, static_cast<long long>(own_sequences)));
}
