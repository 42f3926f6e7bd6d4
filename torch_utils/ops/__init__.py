"""Operators that the networks are built from: resampling, convolution, bias and activation, twice differentiable."""
