// What a run trains or validates on: rows of T positions, dealt by number.
//
// What a row holds is a pure function of its number (and of data, T and seed). A position in the data is therefore one
// number; resuming needs nothing else, and N ranks see the same rows as one. Rows are numbered on from epoch to epoch.
#pragma once
#include <cstdint>
#include "llmc/model/batch.h"

class Rows {
  public:
    virtual ~Rows() = default;
    virtual Batch read(int64_t first, int n) const = 0;         // rows [first, first + n); threads may call it at once
    virtual int64_t epoch_begin(int64_t epoch) const = 0;       // number of its first row; 0 of epoch 0
    virtual double weight(int64_t first, int64_t n) const = 0;  // sum of the weights of these rows' targets
    virtual int64_t tokens() const = 0;                         // of the data
};
