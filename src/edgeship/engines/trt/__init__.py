"""The TensorRT engines: TensorRT 10 and 11, TensorRT-RTX, trtexec."""
