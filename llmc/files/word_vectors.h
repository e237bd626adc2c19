// A vector for each token: its row of wte, in two forms that other programs read.
//
//   text   word2vec's: "V C", then a line a token: its word and C numbers, the shortest that read as the same float. The word
//          is spelled as in vocab.json (" the" is "Ġthe"), since words end at a space. Ids without a token are left out.
//   .npy   numpy's array (V, C), float32 or float16; row i is that of id i.    (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html)
#pragma once
#include <string>
#include "llmc/model/tensors.h"
#include "llmc/text/tokenizer.h"

// half: rounded to f16. tokenizer: of text only.
void write_word_vectors(const std::string& path, bool npy, bool half, const ModelTensors& tensors,
                        const Tokenizer* tokenizer);
