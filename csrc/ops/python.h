// The host operations as the bindings know them: Python objects in, Python objects out.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "../array/noise.h"
#include "../math/superposition.h"

namespace scorefusion {

py::object combine(py::handle u, py::handle c, py::handle out);
py::object gram(py::handle u, py::handle out);
py::tuple combine_gram(py::handle u, py::handle c, py::handle out);  // y, G
py::tuple residual(py::handle u, py::handle c, py::handle out);      // loss, grad
py::object resample(py::handle log_weights, const std::string& method, py::handle seed, py::handle stream,
                    py::handle first_group);
// ancestors in the batch, log weights afterwards, log_sum, ess
py::tuple resample_below(py::handle log_weights, double threshold, const std::string& method, py::handle seed,
                         py::handle stream, py::handle first_group);
// what: "weigh", "advance" or "equalise"; arrays that it does not need are None. Returns κ (B, k), c (B, m) and what
// was gained (B, k), or None where it makes none.
py::tuple superpose(const std::string& what, const Superposed& step, py::handle gained, py::handle kappa, py::handle G,
                    py::handle tau);
// y_k = f_bk Σ_j c_bj u_bj, fresh, of the dtypes given as numbers of enum DType; None where that is negative.
py::list multiples(py::handle u, py::handle c, py::handle f, const std::vector<int>& dtypes);
// r = Σ_{j < first} c_j u_j and y = share·r + Σ_{j ≥ first} c_j u_j, of one dtype.
py::tuple combine_twice(py::handle u, py::handle c, int first, double share, py::handle out, py::handle r_out);
py::object noise_like(const Noise& noise, py::handle x, py::handle out);

}  // namespace scorefusion
