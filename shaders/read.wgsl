// A read of memory and nothing else, which is the limit of products with one vector: lanes of neighbouring numbers read
// neighbouring words. The sum keeps a compiler from leaving the reads out.

@group(0) @binding(0) var<storage, read> words: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;

@compute @workgroup_size(64)
fn read_all(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) all: vec3u) {
  let lanes = all.x * 64u;
  let count = arrayLength(&words);
  var sum = vec4u();
  for (var i = id.x; i < count; i += lanes) { sum += words[i]; }
  sums[id.x] = sum.x ^ sum.y ^ sum.z ^ sum.w;
}
