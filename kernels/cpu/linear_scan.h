// The linear scan h[t] = a[t] h[t-1] + x[t] and its adjoint: the interface of the CPU kernels.
//
// Nothing here knows of XLA. A caller describes the arrays (Scan, Backward), gets a Job, and lets
// any number of threads run its tasks. `linear_scan_job.cc` cuts the work into tasks, the loops
// are in `linear_scan_loops.h`, compiled once per instruction set. ../README.md has the equations.
#pragma once

#include <cstdint>
#include <memory>

#include "job.h"

namespace fastscan {

// The extents of all axes, at most kMaxRank, among them time.
struct Shape {
  const int64_t* dims = nullptr;
  int rank = 0;
  int axis = 0;
};

// The states before the first step and after the last one (h0, h_last, g_last, dh0) have an axis
// of extent 1 for time and hold float for the 16-bit dtypes.
struct Scan {
  Dtype dtype{};
  Shape shape;
  bool reverse = false;
  Array a, x, h0, reset;  // reset may be left out; its elements are bytes, 0 or 1
  Array h_last, h;
};

struct Backward {
  Dtype dtype{};
  Shape shape;
  bool reverse = false;
  Array g_last, g, a, h, h0, reset;  // without da, neither h nor h0 is read
  Array da, dx, dh0;                 // da is summed over the axes along which it is 1
};

// The results are the same bits for the same arguments. `threads` is how many may take part.
std::unique_ptr<Job> MakeJob(const Scan& scan, int64_t threads);
std::unique_ptr<Job> MakeJob(const Backward& backward, int64_t threads);

}  // namespace fastscan
