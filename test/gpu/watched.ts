// A GPU that a test watches: the devices that are asked of it, the bytes that their buffers hold, what kernels are handed,
// and with smaller limits than it has. Everything else is the driver's own.

/// <reference types="@webgpu/types" />

export interface Watched {
  readonly gpu: GPU;
  /** In the order in which they were asked for. */
  readonly devices: readonly GPUDevice[];
  /** Of all buffers that were made and not destroyed. */
  bytes(): number;
  /** By their labels, the most bytes of a buffer that a kernel was handed. */
  readonly bound: ReadonlyMap<string, number>;
}

/** @param limits what devices say of themselves instead */
export function watched(real: GPU, limits: Readonly<Record<string, number>> = {}): Watched {
  const devices: GPUDevice[] = [];
  const held = new Map<GPUBuffer, number>();
  const bound = new Map<string, number>();
  const watch = (device: GPUDevice): GPUDevice => {
    devices.push(device);
    const createBuffer = device.createBuffer.bind(device);
    const createBindGroup = device.createBindGroup.bind(device);
    const said = new Proxy(device.limits, {
      get: (target, name) => limits[String(name)] ?? Reflect.get(target, name, target),
    });
    Object.defineProperties(device, {
      limits: { value: said },
      createBuffer: {
        value: (descriptor: GPUBufferDescriptor) => {
          const buffer = createBuffer(descriptor);
          const destroy = buffer.destroy.bind(buffer);
          held.set(buffer, descriptor.size);
          Object.defineProperty(buffer, "destroy", {
            value: () => {
              held.delete(buffer);
              return destroy();
            },
          });
          return buffer;
        },
      },
      createBindGroup: {
        value: (descriptor: GPUBindGroupDescriptor) => {
          for (const { resource } of descriptor.entries)
            if ("buffer" in resource) {
              const { buffer, offset = 0, size = buffer.size - offset } = resource;
              bound.set(buffer.label, Math.max(bound.get(buffer.label) ?? 0, size));
            }
          return createBindGroup(descriptor);
        },
      },
    });
    return device;
  };
  const requestAdapter = async (options?: GPURequestAdapterOptions): Promise<GPUAdapter | null> => {
    const adapter = await real.requestAdapter(options);
    if (adapter === null) return null;
    const requestDevice = adapter.requestDevice.bind(adapter);
    Object.defineProperty(adapter, "requestDevice", {
      value: async (descriptor?: GPUDeviceDescriptor) => watch(await requestDevice(descriptor)),
    });
    return adapter;
  };
  const gpu = { requestAdapter, real } as unknown as GPU; // the real one is kept alive
  return { gpu, devices, bound, bytes: () => [...held.values()].reduce((sum, size) => sum + size, 0) };
}
