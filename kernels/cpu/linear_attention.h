// Linear attention and its adjoint: the interface of the CPU kernels. ../README.md has the
// equations.
#pragma once

#include <cstdint>
#include <memory>

#include "job.h"

namespace fastscan::attention {

// The steps between the states that the forward pass keeps for the backward pass.
constexpr int64_t kChunk = 64;

// All arrays have `rank` batch axes, of the extents `batch` or 1, and then the axes given below.
// Results have the full extents.
struct Shape {
  const int64_t* batch = nullptr;
  int rank = 0;
  int64_t steps = 0, keys = 0, values = 0;
  int64_t decays = 0;  // 0, one for each step, or as many as keys
};

struct Operands {
  Array q, k;    // (steps, keys)
  Array v;       // (steps, values)
  Array decay;   // (steps, decays), or left out
  Array beta;    // (steps), or left out: no delta rule
  Array reset;   // (steps) bytes, 0 or 1, or left out
};

struct Forward {
  Dtype dtype{};  // kF32 or kF64
  Shape shape;
  Operands in;
  Array S0;      // (keys, values)
  Array S_last;  // (keys, values)
  Array y;       // (steps, values)
  Array starts;  // (chunks, keys, values): the states before every kChunk steps
};

struct Backward {
  Dtype dtype{};
  Shape shape;
  Operands in;
  Array starts;
  Array g_last, g;        // the cotangents of S_last and y
  Array dq, dk, dv, dS0;  // as q, k, v, S0
  Array dlog_decay;       // as decay: the cotangent of its logarithm
  Array dbeta;            // as beta
};

// The results are the same bits for the same arguments. `threads` is how many may take part.
std::unique_ptr<Job> MakeJob(const Forward& forward, int64_t threads);
std::unique_ptr<Job> MakeJob(const Backward& backward, int64_t threads);

}  // namespace fastscan::attention
