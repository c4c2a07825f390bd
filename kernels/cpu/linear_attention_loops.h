// The loops of linear attention over one sequence and some of its values, as plain functions of
// pointers. `linear_attention_isa.cc` compiles them once per instruction set.
#pragma once

#include <cstdint>

#include "linear_attention.h"

namespace fastscan::attention {

// One sequence; arrays are dense, and those left out are null.
struct Sequence {
  const char *q, *k, *v, *decay, *beta;
  const uint8_t* reset;
  int64_t steps, keys, values, decays;
};

// The values `begin` to `end` of it.
struct ForwardPart {
  Sequence in;
  const char* S0;
  char *S_last, *y, *starts;
  int64_t begin, end;
  char* scratch;
};

// The cotangents of what all values share (q, k, decay, beta) are sums over this part's.
struct BackwardPart {
  Sequence in;
  const char *starts, *g_last, *g;
  char *dq, *dk, *dv, *dlog_decay, *dbeta, *dS0;
  int64_t begin, end;
  char* scratch;
};

struct Loops {
  void (*forward)(const ForwardPart& part);
  void (*backward)(const BackwardPart& part);
  int64_t (*forward_scratch)(int64_t keys, int64_t values);
  int64_t (*backward_scratch)(int64_t keys, int64_t values);
  // sum += term
  void (*add)(char* sum, const char* term, int64_t count);
  int64_t bytes;  // of an element
  int64_t lanes;  // values in a register
};

namespace avx512 {
const Loops& LoopsOf(Dtype dtype);
}
namespace avx2 {
const Loops& LoopsOf(Dtype dtype);
}
namespace baseline {
const Loops& LoopsOf(Dtype dtype);
}

}  // namespace fastscan::attention
