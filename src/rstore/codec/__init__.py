"""Value -> bytes -> sealed bytes, and columns -> chunk. Every file is one step, and each step has its way back."""
