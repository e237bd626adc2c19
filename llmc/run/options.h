// The command line: one struct, one parser, the same for both programs.
//
// llm.c's command lines run unchanged: its letters are ours where they mean the same; two-letter flags (-nk 5) and
// valued switches (-y 1, -h 1) are translated by one table before CLI11 sees them.
#pragma once
#include <cstdint>
#include <set>
#include <string>
#include <vector>
#include "llmc/model/config.h"
#include "llmc/base/device_options.h"
#include "llmc/model/adapter_config.h"
#include "llmc/model/step_state.h"
#include "llmc/ranks/ranks.h"

constexpr int64_t kExampleEpochs = 3;

enum class Command { train, finetune, sample, chat, eval, export_model, plan, plot };
const char* command_name(Command command);

struct Options {
    Command command = Command::train;
    // data and model
    std::vector<std::string> train_data, val_data;  // -i -j; empty = the default data set
    std::string model;                              // -e; empty = the program's default
    std::string base;                               // the model of an adapter, where it is not where that says
    std::string vocab;                              // finetune: an extension of the model's vocabulary
    std::string output;                             // -o; empty = runs/<data>-<model>
    // batch and length
    int micro_batch_size = 0;      // -b; 0 = largest that fits
    int seq_len = 0;               // -t; 0 = the model's T
    int64_t total_batch_size = 0;  // -d, tokens; 0 = B * T if -b is given, else the program's default
    int64_t max_steps = -1;        // -x; -1 = as --epochs says
    int64_t epochs = 0;            // 0: one, and of examples kExampleEpochs
    // examples (text/examples.h)
    std::string chat_template;  // --template
    bool packing = true, skip_bad = false;
    // heads (head.h)
    std::string objective = "lm";   // or reward, dpo: which of two answers was preferred; or distill
    double beta = 0.1;              // of dpo
    std::vector<std::string> text;  // beside dpo, ppo, grpo: token shards
    double text_weight = 1;
    std::string teacher;  // of distill
    double teacher_temperature = 2, hard_weight = 0.1;
    // rewards (run/policy.h); 0: by the objective
    std::vector<std::string> rewards, reward_commands;
    double reward_timeout = 60;  // seconds
    int rollouts = 64, group_size = 0, rollout_epochs = 0, minibatches = 1;
    double kl = 0.05, target_kl = 0, max_kl = 0;
    double clip = 0.2, gae_lambda = 0.95, value_weight = 0.1;
    std::string reference;      // "": what --model names
    std::string head = "none";  // none|classify|regress
    double lm_weight = 0.5;     // of the language model's loss beside the head's
    bool both_orders = false;
    // adapters (model/adapter.h); none: the whole model is trained
    int lora_rank = 0;
    double lora_alpha = 0;  // 0: twice the rank
    double lora_dropout = 0;
    std::string lora_layers = "all";
    int prompt_tokens = 0;                // prompts.h
    std::string prompt_encoder = "lstm";  // or none
    std::vector<std::string> adapters;    // sample, chat, eval
    // optimizer
    std::string optimizer = "adamw";     // a name of kOptimizers
    double learning_rate = 3e-4;         // -l; sgd, adagrad, adadelta have others: parse_options
    std::string lr_schedule = "cosine";  // -k cosine|linear|constant|wsd
    int64_t warmup_steps = 0;            // -u
    double final_lr_fraction = 0.1;      // -q
    double weight_decay = 0.1;           // -c
    double l1 = 0;
    double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, momentum = 0.9;
    double grad_clip = 1.0;
    double skip_loss_z = 0, skip_grad_z = 0;  // -sl -sg; 0 = off
    double dropout = 0;
    int64_t new_rows_first = 0;  // steps
    std::string precision;       // fp32|bf16; parse_options fills in the program's default
    bool master_weights = true;  // -w
    bool stochastic_rounding = false;
    std::string state_type = "fp32";  // a name of kStateTypes
    std::string memory_limit;         // memory_limit.h; "": what is free
    int recompute = 0;                // -r 0 none, 1 GELU, 2 GELU + layernorm, 3 whole block
    std::string fuse_update = "off";  // a name of kFuseUpdates
    int zero_stage = 0;               // -z
    std::string offload;              // optimizer,masters,gradients,activations,weights: any of them
    DeviceOptions device;             // -f (tf32), -ge (gelu_fusion), --matmul: the CUDA program only
    uint64_t seed = 1337;
    bool overfit_one_batch = false;  // -a
    // loop
    int64_t val_every = 250;             // -v
    int64_t val_batches = 20;            // -m
    int64_t patience = 0;                // validations without a lower loss before the run ends; 0: it does not
    int64_t sample_every = 0;            // -s
    int sample_tokens = 64;              // -g
    int64_t checkpoint_every = 0;        // -n; 0 = at the end only
    int keep_checkpoints = 2;            // -nk; 0 = all
    int64_t major_checkpoint_every = 0;  // -nm: checkpoints at its multiples are never deleted
    bool resume = false;                 // -y
    bool fall_back = false;
    std::string on_nan = "stop";  // stop|skip|rollback
    int max_rollbacks = 3;
    bool hellaswag = false;  // -h 1: HellaSwag accuracy at each validation
    std::string hellaswag_data = "data/hellaswag/hellaswag_val.jsonl";
    double time_limit = 0;   // seconds; schedule.h. 0 = none
    int gpu_log_every = -1;  // -lg (CUDA only)
    // ranks (llm.c's -pn -pr -pg -pm -ps -pf)
    RankOptions ranks;
    double comm_timeout = 600;  // seconds
    // sample and chat
    std::string prompt, prompt_file, system;
    int max_tokens = 256, num_samples = 1, best_of = 1, top_k = 0;
    double temperature = 1.0, top_p = 1.0, min_p = 0, repetition_penalty = 1.0;
    std::vector<std::string> stops;
    bool logprobs = false;
    // eval
    std::string task;        // "" = loss on --val-data; else as text/tasks.h says
    int64_t eval_limit = 0;  // at most that many batches or questions; 0 = all
    int shots = 0;
    std::vector<std::string> shots_data;
    std::string labels, prompts, answers;
    int answer_tokens = 64;
    // export
    std::string format = "hf", type = "f32";  // hf|gguf|vectors; f32|f16|bf16|q8_0|q4_0
    int64_t shard_size = 5'000'000'000;       // bytes
    std::vector<std::string> runs;            // plot: those on the command line
    // plan; rates: 0 = the GPU's
    std::string gpu = "h100", rates_file;
    int gpus = 1;
    double matmul_tflops = 0, attention_tflops = 0, memory_tbs = 0, bus_gbs = 0, network_gbs = 0, memory_gb = 0;
    double host_gbs = 0, host_memory_gb = 0;
    double plan_tokens = 0;  // 0 = 20 a parameter
    double price = 0;        // dollars per GPU hour
    bool json = false;

    std::set<std::string> given;  // long names, without dashes, of the options on the command line
    bool was_given(const std::string& long_name) const { return given.count(long_name) > 0; }
};

// In the order of Optimizer, StateType and FuseUpdate (model/step_state.h).
inline const std::vector<std::string> kOptimizers = {"adamw", "muon", "sgd", "adagrad", "adadelta"};
inline const std::vector<std::string> kStateTypes = {"fp32", "bf16", "int8"};
Optimizer optimizer_of(const Options& o);
inline const std::vector<std::string> kFuseUpdates = {"off", "last-norm", "two-passes"};
StateType state_type_of(const Options& o);
FuseUpdate fuse_update_of(const Options& o);
// Bytes of "16GB", "512MB", "7.5GiB", "1000000". UsageError names --memory-limit.
double parse_memory_limit(const std::string& text);

// What differs between the two programs.
struct ProgramInfo {
    std::string name;               // "train_gpt2" or "train_gpt2cu"
    std::string default_model;      // "L6:H6:C384:T256" or "d12"
    std::string default_precision;  // "fp32" or "bf16"
    int64_t default_total_batch;    // tokens
};

// Parses; UsageError names the option and the remedy. Returns false if help was printed and the program is
// to exit 0. Model shapes and files are not looked at here. An option given twice: the last one counts; lists of files
// add up.
bool parse_options(int argc, const char* const* argv, const ProgramInfo& program, Options* options);

// What --offload names. check_offload, UsageError: something of it has no place. check_host_memory, Error: so many bytes for
// each of `ranks` are more than there are.
struct OffloadPlace {
    bool cpu, masters, adapter;
    int ranks;
};
Offload offload_of(const Options& options);
std::string offload_text(const Offload& offload);
void check_offload(const Options& options, const OffloadPlace& at);
void check_host_memory(const Options& options, size_t bytes, int ranks);
// UsageError: --fuse-update does not go with other options, or a rank's so many sequences a step are several micro-batches.
void check_fuse_update(const Options& options, int64_t own_sequences);

// The adapter that --lora-rank or --prompt-tokens and what belongs to them ask for, if any. UsageError: it does not fit the
// model.
AdapterConfig adapter_config(const Options& options, const ModelConfig& config);

// llm.c's spelling -> ours, the step before CLI11. Exposed for tests.
std::vector<std::string> translate_llmc_arguments(const std::vector<std::string>& arguments);

// Every option that changes arithmetic, as one JSON object (for trainer_state.json), and back: a resume takes the
// recorded value of each such option that was not given on the command line. `notes` gets a line for each given one
// that differs. Values that stand for "the program chooses" (0 for sizes) are not obeyed: record what was chosen.
// Error: bad JSON or value.
std::string arithmetic_options_json(const Options& options);
std::string recorded_optimizer(const std::string& json);  // the name that such options have
void obey_recorded_options(const std::string& json, Options* options, std::vector<std::string>* notes);
