"""The network and where it runs: input, device, evaluation, ONNX."""
