// What eval found out: a table for people, or one JSON object.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>
#include "llmc/text/tasks.h"

struct Measure {
    std::string key, name;  // in JSON, and for people
    double value;
    double error = NAN;  // standard error of a mean; NaN: not known
    int digits = 4;
};

struct ClassMeasures {
    std::string label;
    double precision, recall, f1;  // 0 where there is nothing to divide by
    int64_t texts;
};

struct Report {
    std::string task;                                     // "": loss of data
    std::string adapter;                                  // one of several; "": not said
    std::vector<std::pair<std::string, int64_t>> counts;  // "questions", "tokens", ...
    std::vector<Measure> measures;
    std::vector<ClassMeasures> classes;
    std::vector<std::vector<int64_t>> confusion;          // [class][the model's answer]
    std::vector<std::pair<std::string, double>> prompts;  // of the search: score on the first half
    std::string best_prompt;
    std::string note;  // what the numbers are over

    std::string table() const;
    std::string json() const;
    double value(const std::string& key) const;
};

// Which choice has the highest of `scores`; of equal ones the first.
size_t likeliest(const std::vector<double>& scores);

// The measures of a task by each question's scores: the log-likelihoods of its choices, or the one number that its kind has
// (whether the word was written; rank of the right token; 1 where what was written matches, 2 where it does by SQuAD's
// normalisation only).
struct Scores {
    std::vector<std::vector<double>> log_likelihoods;
    std::vector<std::vector<int64_t>> tokens;  // of each choice
    std::vector<double> single;
};
// pairs: of each text, its class and the model's answer.
void add_class_measures(Report& report, const std::vector<std::string>& classes,
                        const std::vector<std::pair<size_t, size_t>>& pairs);
std::vector<Measure> choice_measures(const Task& task, const Scores& scores);
void add_measures(Report& report, const Task& task, const Scores& scores);

// Rajpurkar et al. 2016's: small letters (of ASCII), without punctuation and the articles a, an, the; single spaces.
std::string squad_normalised(std::string_view text);
// Each question, its log-likelihoods or what the model wrote, as JSON lines.
std::string answers_json(const Task& task, const Scores& scores, const std::vector<std::string>& written);
