"""bitnet-trace: CPU LLM inference, traced from the kernel's side."""

__version__ = "0.1.0"
