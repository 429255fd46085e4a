// Operations that are still to be written.
#include "base/error.h"
#include "cuda/cuda_backend.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

#define MISSING(name) throw Error("cuda: " #name " is not there yet")

std::unique_ptr<Weight> CudaBackend::load(const WeightSource&) { MISSING(load); }
std::unique_ptr<Weight> CudaBackend::load_table(const WeightSource&) { MISSING(load_table); }
std::unique_ptr<Weight> CudaBackend::load_rows(const WeightSource&, std::span<const std::int32_t>) {
  MISSING(load_rows);
}
void CudaBackend::replace_rows(Weight&, const WeightSource&, std::span<const std::int32_t>,
                               std::span<const std::int32_t>) {
  MISSING(replace_rows);
}
std::size_t CudaBackend::weight_bytes(const WeightSource&, std::int64_t, bool) const { MISSING(weight_bytes); }
void CudaBackend::dequantize(float*, const WeightSource&, std::int64_t) { MISSING(dequantize); }
void CudaBackend::embed(Tensor, const Weight&, const std::int32_t*) { MISSING(embed); }
Arithmetic CudaBackend::arithmetic(DType) const { MISSING(arithmetic); }
double CudaBackend::measure_reading(std::span<const Weight* const>) { MISSING(measure_reading); }
void CudaBackend::measure_arithmetic(double*) { MISSING(measure_arithmetic); }
void CudaBackend::matmul(const Operand&, std::span<const Projection>) { MISSING(matmul); }
void CudaBackend::top_k(std::int32_t*, float*, int, Tensor, const std::int32_t*) { MISSING(top_k); }
void CudaBackend::sample(std::int32_t*, Tensor, const Rows&, const Sampling&) { MISSING(sample); }
void CudaBackend::log_probs(float*, Tensor, const std::int32_t*) { MISSING(log_probs); }
void CudaBackend::head_top_k(const BestTokens&, Tensor, const HeadColumns&, const DraftNoise*) { MISSING(head_top_k); }
void CudaBackend::head_candidates(std::int32_t*, int, Tensor, const HeadColumns&, const DraftNoise*) {
  MISSING(head_candidates);
}
void CudaBackend::merge_top_k(const BestTokens&, const BestTokens&, int, bool) { MISSING(merge_top_k); }
void CudaBackend::head_sample(std::int32_t*, Tensor, const Weight&, const Rows&, const Sampling&, const BestTokens*) {
  MISSING(head_sample);
}
void CudaBackend::process(Tensor, const Rows&, const std::int32_t*, const SamplerChain&) { MISSING(process); }
Tensor CudaBackend::head_logits(Tensor, const HeadColumns&) { MISSING(head_logits); }

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
