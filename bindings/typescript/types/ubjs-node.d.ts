// The declarations that `@ubjs/node` 0.31.0-3 ships leave out what the generated
// code imports from it; without these `tsc` could not check that code.

interface FfiTypeTag {
  readonly tag: string;
}

declare class UniffiNativeModule {
  static open(path: string): UniffiNativeModule;
  register(definitions: object): object;
  unload(options?: { force?: boolean } | null): void;
}

declare const lib: {
  UniffiNativeModule: typeof UniffiNativeModule;
  FfiType: {
    readonly [scalar in
      | "UInt8" | "Int8" | "UInt16" | "Int16" | "UInt32" | "Int32" | "UInt64" | "Int64"
      | "Float32" | "Float64" | "Handle" | "RustBuffer" | "ForeignBytes" | "RustCallStatus"
      | "VoidPointer" | "Void"]: FfiTypeTag;
  } & {
    Callback(name: string): FfiTypeTag;
    Struct(name: string): FfiTypeTag;
    Reference(inner: FfiTypeTag): FfiTypeTag;
    MutReference(inner: FfiTypeTag): FfiTypeTag;
  };
  resolveLibPath(options: object): string;
};

export default lib;
