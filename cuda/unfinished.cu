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
void CudaBackend::dequantize(float*, const WeightSource&, std::int64_t) { MISSING(dequantize); }
void CudaBackend::embed(Tensor, const Weight&, const std::int32_t*) { MISSING(embed); }
Arithmetic CudaBackend::arithmetic(DType) const { MISSING(arithmetic); }
double CudaBackend::measure_reading(std::span<const Weight* const>) { MISSING(measure_reading); }
void CudaBackend::measure_arithmetic(double*) { MISSING(measure_arithmetic); }
void CudaBackend::copy(Tensor, Tensor) { MISSING(copy); }
void CudaBackend::gather_rows(Tensor, Tensor, const std::int32_t*) { MISSING(gather_rows); }
void CudaBackend::rms_norm(Tensor, Tensor, const float*, float) { MISSING(rms_norm); }
void CudaBackend::advance(std::int32_t*, const std::int32_t*) { MISSING(advance); }
void CudaBackend::matmul(const Operand&, std::span<const Projection>) { MISSING(matmul); }
std::size_t CudaBackend::kv_bytes(const KvShape&) const { MISSING(kv_bytes); }
void CudaBackend::rope_and_append(Tensor, Tensor, Tensor, const Rope&, const KvLayer&, const Rows&) {
  MISSING(rope_and_append);
}
void CudaBackend::attend(Tensor, Tensor, const KvLayer&, const Rows&, float) { MISSING(attend); }
void CudaBackend::compact(std::span<const KvLayer>, const std::int32_t*, const VerdictView&) { MISSING(compact); }
void CudaBackend::tree_expand(const CandidatePool&, int, const std::int32_t*, const float*) { MISSING(tree_expand); }
void CudaBackend::map_ids(std::int32_t*, int, const std::int32_t*) { MISSING(map_ids); }
void CudaBackend::tree_select(const TreeView&, const CandidatePool&, const std::int32_t*) { MISSING(tree_select); }
void CudaBackend::verify(const VerdictView&, const TreeView&, const std::int32_t*) { MISSING(verify); }
void CudaBackend::verify_logits(const VerdictView&, const TreeView&, Tensor, const Rows&, const SamplerChain&,
                                const Sampling&) {
  MISSING(verify_logits);
}
void CudaBackend::pretend_acceptance(std::int32_t*, const TreeView&, const Rows&, float, std::uint64_t) {
  MISSING(pretend_acceptance);
}
void CudaBackend::record(std::int32_t*, const std::int32_t*, const TreeView&, const VerdictView&) { MISSING(record); }
void CudaBackend::take_last(std::int32_t*, const VerdictView&) { MISSING(take_last); }
void CudaBackend::draw_proposal(std::int32_t*, float*, const Proposals&, int, const std::int32_t*, const float*, int,
                                const SamplerChain&, const RejectionDraw&, const std::int32_t*) {
  MISSING(draw_proposal);
}
void CudaBackend::verify_rejection(const VerdictView&, const TreeView&, Tensor, const Rows&, const SamplerChain&,
                                   const Proposals*, const RejectionDraw&, bool) {
  MISSING(verify_rejection);
}
Tensor CudaBackend::head_logits(Tensor, const HeadColumns&) { MISSING(head_logits); }

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
