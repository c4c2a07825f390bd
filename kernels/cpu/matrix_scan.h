// The matrix scan H[t] = A[t] H[t-1] + X[t] and its adjoint: the interface of the CPU kernels.
//
// Nothing here knows of XLA. A caller describes the arrays (Scan, Backward), gets a Job, and lets
// any number of threads run its tasks. `matrix_scan_job.cc` cuts the work into tasks, the loops are
// in `matrix_scan_loops.h`, compiled once per instruction set. ../README.md has the equations.
#pragma once

#include <cstdint>
#include <memory>

#include "job.h"

namespace fastscan::matrix {

// What both passes read. Every array has the axes of `batch` in front, each with its extent or 1
// where the array broadcasts, and then those that its comment tells. T may be 1 in the coefficients,
// and S in these and in reset, where they are the same for all of it. A is given, or d, u and w.
struct Problem {
  Dtype dtype{};  // of all arrays but reset: float, double or complex
  const int64_t* batch = nullptr;
  int batch_rank = 0;
  int64_t steps = 0, systems = 0, n = 0, m = 0, r = 0;
  bool reverse = false;
  bool product = false;  // (I - u_r w_r^T) ... (I - u_1 w_1^T) diag(d), not diag(d) - sum u_i w_i^T
  Array A;               // (T, S, n, n)
  Array d;               // (T, S, n), or (T, S, 1) for the same in all rows
  Array u, w;            // (T, S, r, n)
  Array H0;              // (S, n, m)
  Array reset;           // (T, S) bytes, 0 or 1; may be left out
};

struct Scan : Problem {
  Array X;          // (T, S, n, m)
  Array H_last, H;  // (S, n, m) and (T, S, n, m), of full batch extents
};

// A cotangent of a coefficient may be left out. It has the coefficient's shape, except that batch
// axes of extent 1, which it is summed over, are its own. dX and dH0 have full batch extents.
struct Backward : Problem {
  Array H, g_last, g;
  Array dA, dd, du, dw, dX, dH0;
};

// The results are the same bits for the same arguments. `threads` is how many may take part.
std::unique_ptr<Job> MakeJob(const Scan& scan, int64_t threads);
std::unique_ptr<Job> MakeJob(const Backward& backward, int64_t threads);

}  // namespace fastscan::matrix
