// Every option of the programs.
#include "llmc/run/option_table.h"

#include <cfloat>
#include <cmath>
#include "llmc/base/error.h"
#include "llmc/run/gpus.h"

static constexpr unsigned bit(Command c) { return 1u << static_cast<int>(c); }
static constexpr unsigned TRAIN = bit(Command::train), FINETUNE = bit(Command::finetune), TRAINING = TRAIN | FINETUNE,
                          SAMPLE = bit(Command::sample), CHAT = bit(Command::chat), EVAL = bit(Command::eval),
                          EXPORT = bit(Command::export_model), PLAN = bit(Command::plan), PLOT = bit(Command::plot);

static constexpr Limits one_up{1, HUGE_VAL, "at least 1"}, zero_up{0, HUGE_VAL, "0 or more"},
    minus_one_up{-1, HUGE_VAL, "-1 or more"}, batch_tokens{-1, 2147483647, "-1 or more, below 2^31"},
    positive{5e-324, HUGE_VAL, "above 0"},
    positive_float{FLT_MIN, FLT_MAX, "1.18e-38 to 3.4e38: the smallest and the largest number of fp32"},
    zero_to_one{0, 1, "0 to 1"}, above_zero_to_one{5e-324, 1, "above 0, at most 1"},
    below_one{0, 1 - 0x1p-53, "at least 0 and below 1"}, zero_to_three{0, 3, "0, 1, 2 or 3"},
    fusion{-1, 2, "-1, 0, 1 or 2"};

static const char model_help[] =
    "what to start from: a size (d12, d24, d36, d48, gpt3:125m ... gpt3:175b, gpt3:c768, L6:H6:C384:T256), a Hugging "
    "Face model directory, an adapter's directory, a run's directory (its newest checkpoint), or an llm.c .bin file";

std::vector<OptionRow> option_table(Options& o, const ProgramInfo& program) {
    std::vector<OptionRow> table;
    auto add = [&](const char* group, std::vector<OptionRow> rows) {
        for (OptionRow& row : rows) {
            row.group = group;
            table.push_back(std::move(row));
        }
    };
    // clang-format off
    add("Data and model", {
        {.name = "train-data", .flag = "i", .value = "FILES", .field = &o.train_data,
         .commands = TRAINING, .default_text = "the default data set (make data)",
         .help = "what to train on: token shards (files, directories or globs), or examples (JSON lines, - for standard "
                 "input, what ./tokenize examples has written)"},
        {.name = "val-data", .flag = "j", .value = "FILES", .field = &o.val_data,
         .commands = TRAINING | EVAL, .default_text = "the default data set; of examples one of each ten",
         .help = "token shards or examples to validate on; with --task its questions, as JSON lines"},
        {.name = "model", .flag = "e", .value = "MODEL", .field = &o.model,
         .commands = TRAIN, .default_text = program.default_model, .help = model_help},
        {.name = "model", .flag = "e", .value = "MODEL", .field = &o.model,
         .commands = FINETUNE | SAMPLE | CHAT | EVAL | EXPORT | PLAN, .default_text = "none, must be given", .help = model_help},
        {.name = "base", .value = "MODEL", .field = &o.base,
         .commands = FINETUNE | SAMPLE | CHAT | EVAL | EXPORT, .default_text = "what the adapter says",
         .help = "the model that an adapter belongs to, where --model is an adapter"},
        {.name = "vocab", .value = "DIR", .field = &o.vocab,
         .commands = FINETUNE, .default_text = "the model's",
         .help = "an extension of the model's vocabulary (./tokenize train --extend): the model gets its words, each at "
                 "first the mean of its old pieces"},
        {.name = "output", .flag = "o", .value = "DIR", .field = &o.output,
         .commands = TRAINING, .default_text = "runs/<data>-<model>", .help = "where checkpoints, log and plot go"},
        {.name = "output", .flag = "o", .value = "FILE", .field = &o.output,
         .commands = PLOT, .default_text = "none, must be given", .help = "what to draw, an .svg"},
        {.name = "output", .flag = "o", .value = "PATH", .field = &o.output,
         .commands = EXPORT, .default_text = "none, must be given",
         .help = "what to write: a directory (hf) or a file; nothing that is there is overwritten"},
    });
    add("Batch and length", {
        {.name = "micro-batch-size", .flag = "b", .value = "B", .field = &o.micro_batch_size, .limits = one_up,
         .commands = TRAINING | EVAL | PLAN, .recorded = true, .default_text = "the largest that fits",
         .help = "sequences per rank and forward pass"},
        {.name = "seq-len", .flag = "t", .value = "T", .field = &o.seq_len, .limits = one_up,
         .commands = TRAINING | EVAL | PLAN, .recorded = true, .default_text = "the model's T",
         .help = "tokens per sequence"},
        {.name = "total-batch-size", .flag = "d", .value = "TOKENS", .field = &o.total_batch_size,
         .limits = batch_tokens,
         .commands = TRAINING, .recorded = true,
         .default_text = strf("B * T if -b is given, else %lld", static_cast<long long>(program.default_total_batch)),
         .help = "tokens per step, all ranks and micro-steps together; a multiple of T"},
        {.name = "total-batch-size", .flag = "d", .value = "TOKENS", .field = &o.total_batch_size,
         .limits = batch_tokens,
         .commands = PLAN, .default_text = "B * T * GPUs if -b is given, else that of train, at least a sequence a GPU",
         .help = "tokens per step, all GPUs and micro-steps together; a multiple of T"},
        {.name = "max-steps", .flag = "x", .value = "N", .field = &o.max_steps, .limits = minus_one_up,
         .commands = TRAINING, .recorded = true, .default_text = "-1: as --epochs says", .help = "steps to train"},
        {.name = "epochs", .value = "N", .field = &o.epochs, .limits = one_up,
         .commands = TRAINING, .recorded = true, .default_text = strf("1; of examples %d", int(kExampleEpochs)),
         .help = "how often to go through the data"},
        {.name = "time-limit", .value = "SECONDS", .field = &o.time_limit, .limits = zero_up,
         .commands = TRAINING, .recorded = true, .default_text = "0: none",
         .help = "end by the clock: as many steps as it allows, and a schedule that follows it"},
    });
    add("Examples", {
        {.name = "template", .value = "NAME", .field = &o.chat_template,
         .commands = TRAINING | CHAT | EVAL, .default_text = "the model's, else plain",
         .help = "what stands around the texts of an example: plain, chatml, or a file (llmc/text/template.h); the "
                 "model directory records it"},
        {.name = "packing", .field = &o.packing,
         .commands = TRAINING | EVAL, .recorded = true,
         .help = "several examples in a row of T tokens, none of which sees another; --no-packing: one a row"},
        {.name = "skip-bad", .field = &o.skip_bad,
         .commands = TRAINING | EVAL, .help = "leave out lines that are no example, and count them"},
    });
    add("Heads", {
        {.name = "objective", .value = "NAME", .field = &o.objective, .choices = {"lm", "reward", "dpo", "distill"},
         .commands = FINETUNE, .recorded = true, .default_text = "lm, or what --head learns",
         .help = "reward: a head of one number learns which of two answers was preferred; --train-data holds "
                 "{\"prompt\", \"chosen\", \"rejected\"}, and --lm-weight is 0 unless it is given; dpo: the same pairs teach the "
                 "model itself to prefer, beside the reference that it began as; distill: the model learns what --teacher "
                 "holds possible"},
        {.name = "beta", .value = "X", .field = &o.beta, .limits = positive,
         .commands = FINETUNE, .recorded = true, .help = "dpo: how dear it is to go away from the reference"},
        {.name = "teacher", .value = "MODEL", .field = &o.teacher,
         .commands = FINETUNE, .recorded = true, .default_text = "none, distill needs one",
         .help = "distill: the model to learn from, as --model; of any size, in the same vocabulary"},
        {.name = "teacher-temperature", .value = "T", .field = &o.teacher_temperature, .limits = positive,
         .commands = FINETUNE, .recorded = true,
         .help = "distill: above 1, what the teacher holds possible beside the likeliest words counts more"},
        {.name = "hard-weight", .value = "A", .field = &o.hard_weight, .limits = zero_to_one,
         .commands = FINETUNE, .recorded = true,
         .help = "distill: what the loss of the text's own words counts; the rest, 1 - A, is the teacher's"},
        {.name = "head", .value = "KIND", .field = &o.head, .choices = {"none", "classify", "regress"},
         .commands = FINETUNE, .recorded = true, .default_text = "none: a language model is trained",
         .help = "learn labels: --train-data holds {\"text\", \"label\"}, with \"text_pair\" for two texts, and a row of "
                 "weights for each class, or one for a number, reads them off a text's last token"},
        {.name = "labels", .value = "LIST", .field = &o.labels,
         .commands = FINETUNE, .default_text = "the model's, else those of --train-data, sorted",
         .help = "the classes, in their order: a,b,c or a file with one a line"},
        {.name = "both-orders", .field = &o.both_orders,
         .commands = FINETUNE, .recorded = true,
         .help = "similarity: both orders of a pair are read, and their scores added"},
        {.name = "lm-weight", .value = "X", .field = &o.lm_weight, .limits = zero_up,
         .commands = FINETUNE, .recorded = true,
         .help = "what the mean loss of a text's tokens counts beside its label's; 0: nothing"},
    });
    add("Adapters", {
        {.name = "lora-rank", .value = "R", .field = &o.lora_rank, .limits = zero_up,
         .commands = FINETUNE | PLAN, .recorded = true, .default_text = "0: none, the whole model is trained",
         .help = "train two matrices of this rank beside each linear layer, and nothing else (LoRA)"},
        {.name = "lora-alpha", .value = "A", .field = &o.lora_alpha, .limits = zero_up,
         .commands = FINETUNE | PLAN, .recorded = true, .default_text = "0: twice the rank",
         .help = "their product counts A / R times"},
        {.name = "lora-dropout", .value = "P", .field = &o.lora_dropout, .limits = below_one,
         .commands = FINETUNE | PLAN, .recorded = true, .help = "dropout in front of them"},
        {.name = "lora-layers", .value = "LIST", .field = &o.lora_layers,
         .commands = FINETUNE | PLAN, .recorded = true,
         .help = "which linear layers have them: all, or some of c_attn, attn.c_proj, c_fc, mlp.c_proj (c_proj: both), "
                 "with commas between"},
        {.name = "prompt-tokens", .value = "N", .field = &o.prompt_tokens, .limits = zero_up,
         .commands = FINETUNE | PLAN, .recorded = true, .default_text = "0: none",
         .help = "train N vectors that stand before each example, or where the template has {prompt}, and nothing else "
                 "(P-tuning; llmc/model/prompts.h)"},
        {.name = "prompt-encoder", .value = "KIND", .field = &o.prompt_encoder, .choices = {"lstm", "none"},
         .commands = FINETUNE | PLAN, .recorded = true,
         .help = "lstm: they come out of an encoder while they are trained; none: they are trained themselves"},
    });
    add("Adapters", {
        {.name = "adapter", .value = "DIRS", .field = &o.adapters,
         .commands = SAMPLE | CHAT | EVAL, .default_text = "--model, if it is one",
         .help = "adapters of --model, all in memory over it at once, and none for the model alone: sample and eval take "
                 "each in turn, chat the first, until /adapter NAME"},
    });
    add("Optimizer", {
        {.name = "learning-rate", .flag = "l", .value = "LR", .field = &o.learning_rate, .limits = positive,
         .commands = TRAINING, .recorded = true, .help = "the highest learning rate of the schedule"},
        {.name = "lr-schedule", .flag = "k", .value = "KIND", .field = &o.lr_schedule,
         .choices = {"cosine", "linear", "constant", "wsd"},
         .commands = TRAINING, .recorded = true, .help = "cosine, linear, constant or wsd (warm-up, stable, decay)"},
        {.name = "warmup-steps", .flag = "u", .value = "N", .field = &o.warmup_steps, .limits = zero_up,
         .commands = TRAINING, .recorded = true, .help = "steps of linear warm-up"},
        {.name = "final-lr-fraction", .flag = "q", .value = "X", .field = &o.final_lr_fraction, .limits = zero_to_one,
         .commands = TRAINING, .recorded = true, .help = "the last learning rate, as a fraction of the highest"},
        {.name = "weight-decay", .flag = "c", .value = "X", .field = &o.weight_decay, .limits = zero_up,
         .commands = TRAINING, .recorded = true, .help = "of matrices only"},
        {.name = "beta1", .value = "X", .field = &o.beta1, .limits = below_one,
         .commands = TRAINING, .recorded = true, .help = "AdamW: decay of the mean gradient"},
        {.name = "beta2", .value = "X", .field = &o.beta2, .limits = below_one,
         .commands = TRAINING, .recorded = true, .help = "AdamW: decay of the mean squared gradient"},
        {.name = "epsilon", .value = "X", .field = &o.epsilon, .limits = positive_float,
         .commands = TRAINING, .recorded = true, .help = "AdamW: added to the root of the second moment"},
        {.name = "grad-clip", .value = "NORM", .field = &o.grad_clip, .limits = zero_up,
         .commands = TRAINING, .recorded = true, .help = "largest norm of the gradient; 0: no clipping"},
        {.name = "skip-loss-z", .flag = "sl", .value = "Z", .field = &o.skip_loss_z, .limits = zero_up,
         .commands = TRAINING, .recorded = true, .default_text = "0: off",
         .help = "skip the update when the loss is Z standard deviations above its recent mean"},
        {.name = "skip-grad-z", .flag = "sg", .value = "Z", .field = &o.skip_grad_z, .limits = zero_up,
         .commands = TRAINING, .recorded = true, .default_text = "0: off", .help = "the same for the gradient's norm"},
        {.name = "dropout", .value = "P", .field = &o.dropout, .limits = below_one,
         .commands = TRAINING, .recorded = true, .help = "probability that an activation is dropped"},
        {.name = "new-rows-first", .value = "STEPS", .field = &o.new_rows_first, .limits = zero_up,
         .commands = FINETUNE, .recorded = true, .default_text = "0: everything at once",
         .help = "for so many steps train only the rows of the words that --vocab brings; then everything, with an "
                 "optimizer that begins anew"},
    });
    add("Numbers and memory", {
        {.name = "precision", .value = "TYPE", .field = &o.precision, .choices = {"fp32", "bf16"},
         .commands = TRAINING | SAMPLE | CHAT | EVAL, .recorded = true, .default_text = program.default_precision,
         .help = "fp32 or bf16: storage of weights and activations"},
        {.name = "precision", .value = "TYPE", .field = &o.precision, .choices = {"fp32", "bf16"},
         .commands = PLAN, .default_text = "bf16; with --gpu cpu fp32",
         .help = "fp32 or bf16: storage of weights and activations"},
        {.name = "master-weights", .flag = "w", .field = &o.master_weights,
         .commands = TRAINING | PLAN, .recorded = true, .help = "fp32 copies of bf16 weights in the optimizer"},
        {.name = "stochastic-rounding", .field = &o.stochastic_rounding,
         .commands = TRAINING, .recorded = true, .help = "round bf16 weights at random when they are updated"},
        {.name = "recompute", .flag = "r", .value = "LEVEL", .field = &o.recompute, .limits = zero_to_three,
         .commands = TRAINING | PLAN, .recorded = true,
         .help = "recompute in the backward pass: 0 nothing, 1 GELU, 2 and layernorm, 3 the whole block"},
        {.name = "zero-stage", .flag = "z", .value = "STAGE", .field = &o.zero_stage, .limits = zero_to_three,
         .commands = TRAINING | PLAN, .recorded = true,
         .help = "ZeRO: 0 nothing is split over ranks, 1 optimizer state, 2 and gradients, 3 and weights"},
        {.name = "seed", .value = "N", .field = &o.seed,
         .commands = TRAINING | SAMPLE | CHAT, .recorded = true, .help = "seed of every random number"},
        {.name = "overfit-one-batch", .flag = "a", .field = &o.overfit_one_batch,
         .commands = TRAINING, .recorded = true,
         .help = "train on the first batch again and again: a check that the loss goes to 0"},
    });
    add("Loop", {
        {.name = "val-every", .flag = "v", .value = "N", .field = &o.val_every, .limits = zero_up,
         .commands = TRAINING, .default_text = "250; of examples an epoch", .help = "steps between validations; 0: never"},
        {.name = "val-batches", .flag = "m", .value = "N", .field = &o.val_batches, .limits = one_up,
         .commands = TRAINING, .help = "batches of 16 sequences of a validation"},
        {.name = "patience", .value = "N", .field = &o.patience, .limits = zero_up,
         .commands = TRAINING, .recorded = true, .default_text = "0: to the end",
         .help = "stop after N validations in a row without a lower loss; with this, or on examples, the best "
                 "checkpoint is kept"},
        {.name = "hellaswag", .flag = "h", .field = &o.hellaswag,
         .commands = TRAINING, .help = "measure the accuracy on HellaSwag at each validation (-h 1)"},
        {.name = "hellaswag-data", .value = "FILE", .field = &o.hellaswag_data,
         .commands = TRAINING, .help = "HellaSwag's questions"},
        {.name = "sample-every", .flag = "s", .value = "N", .field = &o.sample_every, .limits = zero_up,
         .commands = TRAINING, .help = "steps between samples of text; 0: never"},
        {.name = "sample-tokens", .flag = "g", .value = "N", .field = &o.sample_tokens, .limits = one_up,
         .commands = TRAINING, .help = "tokens of such a sample"},
        {.name = "checkpoint-every", .flag = "n", .value = "N", .field = &o.checkpoint_every, .limits = zero_up,
         .commands = TRAINING, .default_text = "0: at the end only", .help = "steps between checkpoints"},
        {.name = "keep-checkpoints", .flag = "nk", .value = "N", .field = &o.keep_checkpoints, .limits = zero_up,
         .commands = TRAINING, .help = "how many of the newest to keep; 0: all"},
        {.name = "major-checkpoint-every", .flag = "nm", .value = "N", .field = &o.major_checkpoint_every,
         .limits = zero_up,
         .commands = TRAINING, .default_text = "0: none",
         .help = "checkpoints at multiples of N steps are never deleted"},
        {.name = "resume", .flag = "y", .field = &o.resume,
         .commands = TRAINING, .help = "continue the run in --output; start it if there is none"},
        {.name = "fall-back", .field = &o.fall_back,
         .commands = TRAINING, .help = "resume from an older checkpoint where the newest one is damaged"},
        {.name = "on-nan", .value = "HOW", .field = &o.on_nan, .choices = {"stop", "skip", "rollback"},
         .commands = TRAINING, .recorded = true,
         .help = "where loss or gradient is not finite: stop, skip the step (ten in a row stop), or rollback to the last "
                 "checkpoint and leave out the data since then"},
        {.name = "max-rollbacks", .value = "N", .field = &o.max_rollbacks, .limits = zero_up,
         .commands = TRAINING, .help = "how often --on-nan rollback does so before the run stops"},
    });
    add("Sampling", {
        {.name = "prompt", .value = "TEXT", .field = &o.prompt,
         .commands = SAMPLE, .default_text = "standard input", .help = "text to continue"},
        {.name = "prompt", .value = "TEXT", .field = &o.prompt,
         .commands = EVAL, .default_text = "{text}",
         .help = "what stands around a question's text, with {text} for it and \\n for a new line"},
        {.name = "prompt-file", .value = "FILE", .field = &o.prompt_file,
         .commands = SAMPLE, .default_text = "none",
         .help = "file whose text to continue; .jsonl: a prompt a line, {\"prompt\": ...}, all sampled together"},
        {.name = "system", .value = "TEXT", .field = &o.system,
         .commands = CHAT, .default_text = "none", .help = "what stands before the conversation, as the system's message"},
        {.name = "max-tokens", .value = "N", .field = &o.max_tokens, .limits = one_up,
         .commands = SAMPLE | CHAT, .help = "tokens to write at most"},
        {.name = "num-samples", .value = "N", .field = &o.num_samples, .limits = one_up,
         .commands = SAMPLE, .help = "how many texts to write for each prompt"},
        {.name = "best-of", .value = "N", .field = &o.best_of, .limits = one_up,
         .commands = SAMPLE,
         .help = "draw N texts for each one that is written: that with the highest mean log-probability a token"},
        {.name = "micro-batch-size", .flag = "b", .value = "B", .field = &o.micro_batch_size, .limits = one_up,
         .commands = SAMPLE, .default_text = "as many as memory allows, at most 128",
         .help = "texts that grow at once"},
        {.name = "temperature", .value = "X", .field = &o.temperature, .limits = zero_up,
         .commands = SAMPLE | CHAT, .help = "below 1: likelier words, above 1: wilder ones; 0: always the likeliest"},
        {.name = "top-k", .value = "K", .field = &o.top_k, .limits = zero_up,
         .commands = SAMPLE | CHAT, .default_text = "0: all", .help = "draw from the K likeliest tokens only"},
        {.name = "top-p", .value = "P", .field = &o.top_p, .limits = above_zero_to_one,
         .commands = SAMPLE | CHAT, .help = "draw from the likeliest tokens that together have probability P"},
        {.name = "min-p", .value = "P", .field = &o.min_p, .limits = zero_to_one,
         .commands = SAMPLE | CHAT, .default_text = "0: all",
         .help = "draw from tokens with at least P times the likeliest one's probability"},
        {.name = "repetition-penalty", .value = "X", .field = &o.repetition_penalty, .limits = positive_float,
         .commands = SAMPLE | CHAT, .default_text = "1: none",
         .help = "above 1: tokens that are in prompt or text become less likely: their logits are divided by X, those "
                 "below 0 multiplied"},
        {.name = "stop", .value = "TEXT", .field = &o.stops,
         .commands = SAMPLE | CHAT, .default_text = "none", .help = "end before this text; may be given several times"},
        {.name = "logprobs", .field = &o.logprobs,
         .commands = SAMPLE, .help = "the log-probability of each text; with --json that of each token"},
        {.name = "json", .field = &o.json, .commands = SAMPLE, .help = "each text as a line of JSON"},
    });
    add("Evaluation", {
        {.name = "task", .value = "NAME", .field = &o.task,
         .commands = EVAL, .default_text = "loss on --val-data",
         .help = "questions to answer: hellaswag, arc, mmlu, lambada or blimp, in the official files' form, which "
                 "--val-data names; or a file of one's own: choices, cloze facts, labelled texts, texts to write "
                 "(llmc/text/tasks.h)"},
        {.name = "shots", .value = "K", .field = &o.shots, .limits = zero_up,
         .commands = EVAL, .help = "answered questions that stand before each"},
        {.name = "shots-data", .value = "FILES", .field = &o.shots_data,
         .commands = EVAL, .default_text = "the task's own, drawn at random",
         .help = "files whose first K questions these are"},
        {.name = "labels", .value = "LIST", .field = &o.labels,
         .commands = EVAL, .default_text = "the data's; of cloze facts all words",
         .help = "classes of labelled texts, or candidates of cloze facts: a,b,c or a file with one a line"},
        {.name = "prompts", .value = "FILE", .field = &o.prompts,
         .commands = EVAL, .default_text = "none",
         .help = "try each line as --prompt on one half of the questions, and the best one on the other half"},
        {.name = "answer-tokens", .value = "N", .field = &o.answer_tokens, .limits = one_up,
         .commands = EVAL, .help = "tokens to write at most where a task asks for text"},
        {.name = "answers", .value = "FILE", .field = &o.answers,
         .commands = EVAL, .default_text = "none",
         .help = "write each question with its log-likelihoods, or what was written, or each text with what the head says, "
                 "as JSON lines"},
        {.name = "json", .field = &o.json,
         .commands = EVAL, .help = "print one JSON object in place of a table"},
        {.name = "limit", .value = "N", .field = &o.eval_limit, .limits = zero_up,
         .commands = EVAL, .default_text = "0: all", .help = "batches of 16 sequences, or questions, to evaluate at most"},
    });
    add("Export", {
        {.name = "format", .value = "NAME", .field = &o.format, .choices = {"hf", "gguf", "vectors"},
         .commands = EXPORT,
         .help = "hf: a directory that transformers loads; gguf: a file that llama.cpp runs; vectors: a vector for each "
                 "token, as text (word2vec's), or as an array where --output ends in .npy"},
        {.name = "type", .value = "TYPE", .field = &o.type, .choices = {"f32", "f16", "bf16", "q8_0", "q4_0"},
         .commands = EXPORT, .help = "of the weights; q8_0 and q4_0, blocks of 8 and 4 bits, of gguf only"},
        {.name = "shard-size", .value = "BYTES", .field = &o.shard_size, .limits = one_up,
         .commands = EXPORT, .help = "hf: more than that goes into several files"},
    });
    add("Plan", {
        {.name = "gpu", .value = "NAME", .field = &o.gpu, .choices = gpu_names(),
         .commands = PLAN,
         .help = "what to train on, by the figures of its data sheet; cpu: this machine, by the CPU program"},
        {.name = "gpus", .value = "N", .field = &o.gpus, .limits = one_up,
         .commands = PLAN, .help = "how many of them"},
        {.name = "rates", .value = "FILE", .field = &o.rates_file,
         .commands = PLAN, .default_text = "none",
         .help = "rates measured on such a GPU: bench_cuda's JSON, or report.json of dev/gpu_check.sh"},
        {.name = "matmul-tflops", .value = "X", .field = &o.matmul_tflops, .limits = positive,
         .commands = PLAN, .default_text = "the GPU's", .help = "what matrix products reach, in this precision"},
        {.name = "attention-tflops", .value = "X", .field = &o.attention_tflops, .limits = positive,
         .commands = PLAN, .default_text = "the GPU's", .help = "what attention reaches"},
        {.name = "memory-tbs", .value = "X", .field = &o.memory_tbs, .limits = positive,
         .commands = PLAN, .default_text = "the GPU's", .help = "TB/s of its memory, read plus written"},
        {.name = "memory-gb", .value = "X", .field = &o.memory_gb, .limits = positive,
         .commands = PLAN, .default_text = "the GPU's", .help = "GB of its memory"},
        {.name = "bus-gbs", .value = "X", .field = &o.bus_gbs, .limits = positive,
         .commands = PLAN, .default_text = "the GPU's",
         .help = "GB/s out of a GPU, and as much in, to others of its machine"},
        {.name = "network-gbs", .value = "X", .field = &o.network_gbs, .limits = positive,
         .commands = PLAN, .default_text = "the GPU's",
         .help = "GB/s out of a machine, and as much in, all of its network cards together"},
        {.name = "tokens", .value = "N", .field = &o.plan_tokens, .limits = positive,
         .commands = PLAN, .default_text = "20 for each parameter", .help = "tokens to train on (3e11 may be written)"},
        {.name = "price", .value = "DOLLARS", .field = &o.price, .limits = positive,
         .commands = PLAN, .default_text = "none", .help = "of a GPU for an hour"},
        {.name = "json", .field = &o.json,
         .commands = PLAN, .help = "print JSON"},
    });
    add("Ranks", {
        {.name = "num-processes", .flag = "pn", .value = "N", .field = &o.ranks.num_processes, .limits = one_up,
         .commands = TRAINING | EVAL, .default_text = "1", .help = "ranks of the run, where no launcher says so"},
        {.name = "process-rank", .flag = "pr", .value = "N", .field = &o.ranks.process_rank, .limits = zero_up,
         .commands = TRAINING | EVAL, .help = "number of this rank"},
        {.name = "gpus-per-node", .flag = "pg", .value = "N", .field = &o.ranks.gpus_per_node, .limits = one_up,
         .commands = TRAINING | EVAL | PLAN, .help = "GPUs of a machine"},
        {.name = "nccl-init-method", .flag = "pm", .value = "HOW", .field = &o.ranks.nccl_init_method,
         .choices = {"mpi", "tcp", "fs"},
         .commands = TRAINING | EVAL, .help = "how ranks find each other: mpi, tcp or fs"},
        {.name = "server-ip", .flag = "ps", .value = "ADDRESS", .field = &o.ranks.server_ip,
         .commands = TRAINING | EVAL, .default_text = "none", .help = "address of rank 0, which listens on no other"},
        {.name = "server-port", .value = "PORT", .field = &o.ranks.server_port,
         .commands = TRAINING | EVAL, .help = "tcp: port of rank 0 at that address"},
        {.name = "comm-timeout", .value = "SECONDS", .field = &o.comm_timeout, .limits = positive,
         .commands = TRAINING | EVAL,
         .help = "how long to wait for a rank that does not come, hangs or stalls; longer than writing a checkpoint "
                 "takes"},
        {.name = "fs-path", .flag = "pf", .value = "DIR", .field = &o.ranks.fs_path,
         .commands = TRAINING | EVAL, .help = "directory that all ranks see, where rank 0 leaves its address and the job's secret"},
    });
    add("GPU (train_gpt2cu; read and ignored by the CPU program)", {
        {.name = "tf32", .flag = "f", .field = &o.device.tf32,
         .commands = TRAINING | SAMPLE | EVAL | PLAN, .recorded = true, .help = "fp32 matrix products in TF32"},
        {.name = "matmul", .value = "HOW", .field = &o.device.matmul, .choices = {"cublaslt", "own"},
         .commands = TRAINING | SAMPLE | EVAL | PLAN, .recorded = true,
         .help = "matrix products: NVIDIA's library cuBLASLt or the program's own kernels"},
        {.name = "gelu-fusion", .flag = "ge", .value = "LEVEL", .field = &o.device.gelu_fusion, .limits = fusion,
         .commands = TRAINING, .recorded = true, .default_text = "-1: by the GPU",
         .help = "fuse GELU into the matrix product in bf16: 0 no, 1 forward, 2 forward and backward"},
        {.name = "gpu-log-every", .flag = "lg", .value = "N", .field = &o.gpu_log_every, .limits = minus_one_up,
         .commands = TRAINING, .default_text = "-1: never",
         .help = "steps between log lines on the GPU's clock, power and temperature"},
    });
    // clang-format on
    return table;
}
