// Rows of a matrix chosen by the tokens of a step, as f32: a lane takes four neighbours of a row.
// Needs of the prelude the decode of weights, `rows`, and where rows come from and go to: `embed_row`, `embed_store`.

@compute @workgroup_size(64)
fn embed(@builtin(global_invocation_id) id: vec3u) {
  let k = id.x * 4u;
  if (k >= K || id.y >= rows()) { return; }
  let n = embed_row(id.y);
  // A token's row may lie in another part of the matrix.
  if (n < N) { embed_store(id.y, k, w_load4(n, k)); }
}
