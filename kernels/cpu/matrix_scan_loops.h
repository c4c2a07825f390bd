// The loops of the matrix scan over time, for one set of vector lanes at a time.
//
// Lanes are the columns of one system's state, or systems with a row of it each. One file with these
// functions is compiled per instruction set (matrix_scan_isa.cc).
#pragma once

#include <cstdint>

#include "job.h"

namespace fastscan::matrix {

// Where an array lies for one system, and how many elements lie between its steps (0 where all are
// the same). `data` is null where the array is left out.
struct Stream {
  char* data = nullptr;
  int64_t step = 0;
};

constexpr int kCoefficients = 4;  // A, d, u, w

struct System {
  Stream coefficients[kCoefficients];
  Stream gradients[kCoefficients];
  Stream reset;
  Stream in, out;           // X and H of the forward pass, g and dX of the adjoint
  Stream H;                 // for the gradients: the states, and the one before the first
  char* H0 = nullptr;
};

struct Sizes {
  int64_t n = 0, m = 0, r = 0;
  int64_t counts[kCoefficients] = {};  // elements of each coefficient in a step; 0 if left out
  bool product = false;
  bool add[kCoefficients] = {};  // to the gradients, which else are overwritten
};

// Lanes are columns `first` to `first + count` of one system, or `count` systems.
struct Part {
  const System* systems = nullptr;
  int64_t first = 0, count = 0;
};

// `scratch` holds `scratch(sizes, count)` bytes, and the running state from one call to the next.
struct Kernel {
  int64_t (*scratch)(const Sizes&, int64_t count);
  // The state is set from, or stored to, `edges`: pointers to (n, m) elements, of one system or as
  // many as there are lanes.
  void (*load)(const Sizes&, const Part&, char* const* edges, void* scratch);
  void (*store)(const Sizes&, const Part&, char* const* edges, const void* scratch);
  // Steps `begin` to `end`, in that order, and the adjoint from `end` down to `begin`.
  void (*forward)(const Sizes&, const Part&, int64_t begin, int64_t end, void* scratch);
  void (*adjoint)(const Sizes&, const Part&, int64_t begin, int64_t end, void* scratch);
  // The coefficients' gradients of these steps, from lambda in `out` and the states in `H`. Does
  // not touch the running state. Null where `adjoint` does this too.
  void (*gradients)(const Sizes&, const Part&, int64_t begin, int64_t end, void* scratch);
  int64_t lanes;
};

// The rows of the dense matrices that have loops of their own.
constexpr int64_t kLeastSmall = 2, kMostSmall = 4;

struct Loops {
  Kernel columns;  // a vector of them
  Kernel column;   // one after the other
  Kernel systems;
  // Systems with one vector and a dense matrix that neither is shared nor adds to a gradient that is.
  Kernel small[kMostSmall - kLeastSmall + 1];
  void (*accumulate)(void* sum, const void* more, int64_t count);
  int64_t bytes;  // of an element
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

}  // namespace fastscan::matrix
