// A Plan made executable: matrices in the backend's layout, a KV cache, scratch, and one function that runs a whole
// step on the pool. Mirrors src/ops.ts; checks of shapes and ranges are made there and in backend.ts.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "pool.h"
#include "product.h"
#include "weights.h"

namespace lutra {

struct EmbedOp {
  uint32_t weight, out;
};

struct SelectOp {
  uint32_t input, out;
};

enum class Epilogue { Store, Add, SiluMul };

struct LinearUse {
  uint32_t weight;
  int32_t bias;  // vector index, or -1
  uint32_t out;
};

struct GemmOp {
  uint32_t input;
  int32_t norm;  // vector index, or -1
  float eps;
  std::vector<LinearUse> linears;
  Epilogue epilogue;
  uint32_t from;  // of Epilogue::Add
};

struct RopeOp {
  uint32_t value, heads, headDim;
  bool adjacent;
  uint32_t table;  // index into PlanData::ropes
};

struct AttentionOp {
  uint32_t layer, q, k, v, out, heads, kvHeads, headDim;
  float scale;
};

using Op = std::variant<EmbedOp, SelectOp, GemmOp, RopeOp, AttentionOp>;

struct RopeTable {
  std::vector<double> frequencies;
  double magnitude;
};

struct PlanData {
  std::vector<uint32_t> widths;  // of the values
  std::vector<Op> ops;
  std::vector<RopeTable> ropes;
  uint32_t logits;  // value index
  uint32_t layers, cacheWidth, context, slots;
};

/// One token of a step.
struct Row {
  int32_t token;
  uint32_t slot, position;
  bool wanted;
};

class Executor {
 public:
  /// Loads all weights on the pool's workers but for those that are given; `loaded` counts bytes in memory as they are
  /// done.
  /// Throws std::runtime_error when a file cannot be read, std::bad_alloc when memory is short.
  Executor(Pool& pool, const Kernels& kernels, PlanData plan, const std::vector<Source>& matrices,
           const std::vector<Source>& vectors, std::atomic<uint64_t>& loaded);

  /// The rows of tile `tile` of a matrix that is given, or a whole vector: bytes as they are kept. Throws
  /// std::out_of_range where they do not fit.
  void give(bool vector, uint32_t index, uint32_t tile, const uint8_t* bytes, size_t length);

  /// Runs the rows in order, some at a time; out gets (wanted rows, width of logits).
  void step(const std::vector<Row>& rows, float* out);

  uint32_t logitsWidth() const { return plan_.widths[plan_.logits]; }
  size_t weightBytes() const { return weights_.size(); }
  size_t cacheBytes() const { return cache_.size(); }
  size_t scratchBytes() const { return scratch_.size(); }

 private:
  struct Batch;

  void load(const std::vector<Source>& matrices, const std::vector<Source>& vectors, std::atomic<uint64_t>& loaded);
  size_t carve(uint8_t* base);
  void fillRopeTables(const Batch& batch);
  void run(const Op& op, Batch& batch, Worker& worker);
  void embed(const EmbedOp& op, const Batch& batch, Worker& worker);
  void select(const SelectOp& op, Batch& batch, Worker& worker);
  void gemm(const GemmOp& op, const Batch& batch, Worker& worker);
  void rope(const RopeOp& op, const Batch& batch, Worker& worker);
  void attention(const AttentionOp& op, const Batch& batch, Worker& worker);
  void prepareInput(const GemmOp& op, const Batch& batch, Worker& worker);
  void gemmTiles(const GemmOp& op, const LinearUse& use, uint32_t begin, uint32_t end, uint32_t live);
  void gemmPiece(const GemmOp& op, const LinearUse& use, uint32_t firstTile, uint32_t tiles, const Operand& input,
                 uint32_t first, uint32_t tokens);
  uint16_t* cacheAt(const AttentionOp& op, bool values, uint32_t slot, uint32_t head) const;

  Pool& pool_;
  const Kernels& kernels_;
  const PlanData plan_;
  std::vector<Matrix> matrices_;
  std::vector<const float*> vectorAt_;
  std::vector<uint32_t> vectorSizes_;
  Memory weights_;  // matrices, then vectors
  Memory cache_;    // f16: (layer, keys or values, slot, head, position, headDim)

  struct Scratch {
    std::vector<float*> values;           // (kRows, width) of each value
    std::vector<float*> cosines, sines;   // (kRows, pairs) of each rope table
    float* normed;                        // (kRows, widest input) after the norm
    ActivationRoom activations;           // the same as kernels for integers read it
    std::vector<float*> scores, queries;  // of each worker: (context), (headDim)
  } at_;
  Memory scratch_;
};

}  // namespace lutra
