// The matrix scan's handlers. Operands and results are described in ../matrix.py.
#include <cstdint>
#include <optional>
#include <utility>

#include "handler.h"
#include "matrix_scan.h"

namespace fastscan::matrix {
namespace {

// Operands come in the order of ../matrix.py; those that may be left out are told by `factored` and
// `with_reset`.
class Arguments {
 public:
  explicit Arguments(const ffi::RemainingArgs& args) : args_(args) {}
  ffi::AnyBuffer Next() { return args_.get<ffi::AnyBuffer>(next_++).value(); }

 private:
  const ffi::RemainingArgs& args_;
  size_t next_ = 0;
};

// The coefficients, H0 and reset, from `args` on; the extents from an array (..., T, S, n, m).
template <class Given>
std::optional<ffi::Future> Describe(Given& problem, Arguments& args, const ffi::AnyBuffer& states,
                                    bool factored, bool with_reset, bool reverse, bool product) {
  const std::optional<Dtype> dtype = DtypeOf(states.element_type());
  if (!dtype || *dtype == Dtype::kF16 || *dtype == Dtype::kBF16) {
    return Refuse("the native matrix scan has no such dtype");
  }
  const auto dims = states.dimensions();
  const int rank = static_cast<int>(dims.size()) - 4;
  if (rank > kMaxRank) return Refuse("the native kernels have no such rank");
  problem.dtype = *dtype;
  problem.batch = dims.begin();
  problem.batch_rank = rank;
  problem.steps = dims[rank];
  problem.systems = dims[rank + 1];
  problem.n = dims[rank + 2];
  problem.m = dims[rank + 3];
  problem.reverse = reverse;
  problem.product = product;
  if (factored) {
    problem.d = ArrayOf(args.Next());
    problem.u = ArrayOf(args.Next());
    problem.w = ArrayOf(args.Next());
    problem.r = problem.u.dims[rank + 2];
  } else {
    problem.A = ArrayOf(args.Next());
  }
  problem.H0 = ArrayOf(args.Next());
  if (with_reset) problem.reset = ArrayOf(args.Next());
  return std::nullopt;
}

ffi::Future MatrixScan(ffi::ThreadPool pool, ffi::AnyBuffer X, ffi::RemainingArgs rest,
                       ffi::Result<ffi::AnyBuffer> H_last, ffi::Result<ffi::AnyBuffer> H,
                       bool factored, bool with_reset, bool reverse, bool product) {
  Scan scan;
  Arguments args(rest);
  auto refusal = Describe(scan, args, *H, factored, with_reset, reverse, product);
  if (refusal) return std::move(*refusal);
  scan.X = ArrayOf(X);
  scan.H_last = ArrayOf(*H_last);
  scan.H = ResultOf(*H);
  return Start(pool, [&](int64_t threads) { return MakeJob(scan, threads); });
}

// `wanted` has a bit for each of A, d, u, w whose cotangent is among the results.
ffi::Future MatrixBackward(ffi::ThreadPool pool, ffi::AnyBuffer g_last, ffi::AnyBuffer g,
                           ffi::AnyBuffer H, ffi::RemainingArgs rest, ffi::RemainingRets results,
                           bool factored, bool with_reset, bool reverse, bool product,
                           int64_t wanted) {
  Backward backward;
  Arguments args(rest);
  auto refusal = Describe(backward, args, H, factored, with_reset, reverse, product);
  if (refusal) return std::move(*refusal);
  backward.H = ArrayOf(H);
  backward.g_last = ArrayOf(g_last);
  backward.g = ArrayOf(g);
  Array* cotangents[] = {&backward.dX,  &backward.dH0, &backward.dA,
                         &backward.dd, &backward.du,  &backward.dw};
  size_t next = 0;
  for (int i = 0; i < 6; ++i) {
    if (i >= 2 && !(wanted >> (i - 2) & 1)) continue;
    *cotangents[i] = ResultOf(*results.get<ffi::AnyBuffer>(next++).value());
  }
  return Start(pool, [&](int64_t threads) { return MakeJob(backward, threads); });
}

}  // namespace
}  // namespace fastscan::matrix

// What Python looks up by name; all else is hidden.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_matrix_scan, fastscan::matrix::MatrixScan,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<bool>("factored")
                                  .Attr<bool>("with_reset")
                                  .Attr<bool>("reverse")
                                  .Attr<bool>("product"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_matrix_backward, fastscan::matrix::MatrixBackward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<bool>("factored")
                                  .Attr<bool>("with_reset")
                                  .Attr<bool>("reverse")
                                  .Attr<bool>("product")
                                  .Attr<int64_t>("wanted"));

#pragma GCC visibility pop
