#include "llmc/files/config_json.h"

#include "llmc/base/files.h"
#include "llmc/base/json.h"

// Names that transformers has for the tanh approximation; they differ in the last bits.
static bool is_gelu_tanh(const Json& name) {
    return name == "gelu_pytorch_tanh" || name == "gelu_fast" || name == "gelu_accurate" || name == "gelu_python_tanh";
}

constexpr char kHeadClass[] = "GPT2ForSequenceClassification";

// The head of transformers' class of that name; two classes are its default. `both_orders` is ours.
static HeadConfig read_head_config(const Json& j, const std::string& path) {
    HeadConfig head;
    const auto refuse = [&](const char* field, const char* remedy) {
        throw Error(strf("%s: %s is %s; %s", path.c_str(), field, j.value(field, Json()).dump().c_str(), remedy));
    };
    const Json labels = j.value("id2label", Json()), kind = j.value("problem_type", Json());
    head.outputs = 2;
    if (!labels.is_null() && (!labels.is_object() || labels.empty())) refuse("id2label", "it must name the classes");
    if (labels.is_object()) head.outputs = static_cast<int>(labels.size());
    if (j.contains("num_labels") && (!json_whole(j["num_labels"], &head.outputs) || head.outputs < 1 ||
                                     (labels.is_object() && head.outputs != std::ssize(labels))))
        refuse("num_labels", "it must be the number of classes");
    if (!kind.is_null() && kind != (head.outputs == 1 ? "regression" : "single_label_classification"))
        refuse("problem_type", "a head here gives one number or chooses one class");
    for (int i = 0; i < head.outputs && head.outputs > 1; i++) {
        const Json name =
            labels.is_object() ? labels.value(std::to_string(i), Json()) : Json("LABEL_" + std::to_string(i));
        if (!name.is_string()) refuse("id2label", "the classes must be numbered from 0 on");
        head.labels.push_back(name.get<std::string>());
    }
    head.both_orders = j.value("both_orders", Json(false)) == true;
    return head;
}

ModelConfig read_model_config(const std::string& dir) {
    const std::string path = dir + "/config.json";
    const Json j = parse_json_object(read_file(path), path);
    const Json type = j.value("model_type", Json()), classes = j.value("architectures", Json());
    const bool says_gpt2 = classes.is_array() && !classes.empty() && classes[0].is_string() &&
                           classes[0].get<std::string>().starts_with("GPT2");
    if (type != "gpt2" && !(type.is_null() && says_gpt2))
        throw Error(strf("%s: model_type is %s; only \"gpt2\" is supported", path.c_str(),
                         j.value("model_type", Json("missing")).dump().c_str()));
    ModelConfig m;
    for (const ConfigField& f : kConfigFields) {
        const char* key = j.contains(f.key) ? f.key : f.alias;
        if (!j.contains(key) && f.letter == 'T') key = "n_ctx";  // in old files
        Json value = j.value(key, Json());
        if (!j.contains(key) && f.otherwise > 0) value = f.otherwise;
        if (value.is_null() && f.otherwise == 0) continue;  // as GPT-2 has it
        if (is_gelu_tanh(value)) value = "gelu_new";
        if (value == "gelu_python") value = "gelu";
        const bool is_name = f.has_names() && !*f.json;
        const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
        if (value.is_string() != is_name || !f.assign_json(text, &m))
            throw Error(strf("%s: %s is %s; it must be %s", path.c_str(), f.key, value.dump().c_str(),
                             *f.json ? "true or false" : f.possible_text().c_str()));
    }
    if (m.inner == 4 * static_cast<int64_t>(m.C)) m.inner = 0;
    if (says_gpt2 && classes[0] == kHeadClass) m.head = read_head_config(j, path);
    check_model_config(m, path);
    if (j.value("add_cross_attention", Json()) == true)
        throw Error(path + ": add_cross_attention is true; a model that attends to another one is not supported");
    return m;
}

static OrderedJson id_json(const std::vector<int>& ids) {
    return ids.empty() ? OrderedJson() : ids.size() == 1 ? OrderedJson(ids[0]) : OrderedJson(ids);
}
static OrderedJson id_json(int id) { return id < 0 ? OrderedJson() : OrderedJson(id); }

static OrderedJson head_json(const HeadConfig& head) {
    OrderedJson names, numbers;
    for (int i = 0; i < head.outputs; i++) {
        const std::string name = head.regression() ? "LABEL_0" : head.labels[static_cast<size_t>(i)];
        names[std::to_string(i)] = name, numbers[name] = i;
    }
    OrderedJson j = {{"problem_type", head.regression() ? "regression" : "single_label_classification"},
                     {"id2label", names},
                     {"label2id", numbers}};
    if (head.both_orders) j["both_orders"] = true;
    return j;
}

std::string config_json(const ModelConfig& m, const std::string& dtype, int begin, const std::vector<int>& ends) {
    const bool head = m.head.of_model();
    OrderedJson j = {{"architectures", {head ? kHeadClass : "GPT2LMHeadModel"}}, {"model_type", "gpt2"}};
    for (const ConfigField& f : kConfigFields) {
        const std::string text = f.json_text(m);
        if (f.optional && f.get(m) == 0) j[f.key] = nullptr;
        else j[f.key] = f.has_names() && !*f.json ? OrderedJson(text) : parse_json<OrderedJson>(text);
    }
    j.update({{"n_ctx", m.T},
              {"initializer_range", 0.02},
              {"attn_pdrop", 0.0},
              {"embd_pdrop", 0.0},
              {"resid_pdrop", 0.0},
              {"bos_token_id", id_json(begin)},
              {"eos_token_id", id_json(ends)},
              {"torch_dtype", dtype == "BF16"  ? "bfloat16"
                              : dtype == "F16" ? "float16"
                                               : "float32"},
              {"use_cache", true}});
    if (head) j.update(head_json(m.head));
    return j.dump(2) + "\n";
}

std::string generation_config_json(int begin, const std::vector<int>& ends) {
    return OrderedJson{{"bos_token_id", id_json(begin)}, {"eos_token_id", id_json(ends)}}.dump(2) + "\n";
}
