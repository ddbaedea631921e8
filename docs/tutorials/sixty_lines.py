"""Automatic differentiation of arrays in sixty lines: the engine of the tutorial on tensors."""

import numpy as np


class Tensor:
    """An array that remembers which tensors it was computed from, and how to pass a gradient back to them."""

    def __init__(self, data, parents=(), backward=None):
        self.data = np.asarray(data, float)
        self.grad = np.zeros_like(self.data)
        self.parents, self.pass_back = parents, backward

    def __add__(self, other):
        """Add, with NumPy's broadcasting."""

        def backward(dy):
            self.grad += unbroadcast(dy, self.data.shape)
            other.grad += unbroadcast(dy, other.data.shape)

        return Tensor(self.data + other.data, (self, other), backward)

    def __mul__(self, other):
        """Multiply element by element, with NumPy's broadcasting."""

        def backward(dy):
            self.grad += unbroadcast(dy * other.data, self.data.shape)
            other.grad += unbroadcast(dy * self.data, other.data.shape)

        return Tensor(self.data * other.data, (self, other), backward)

    def __matmul__(self, other):
        """Multiply two matrices."""

        def backward(dy):
            self.grad += dy @ other.data.T
            other.grad += self.data.T @ dy

        return Tensor(self.data @ other.data, (self, other), backward)

    def tanh(self):
        """Compute the hyperbolic tangent of every element."""
        t = np.tanh(self.data)

        def backward(dy):
            self.grad += dy * (1 - t * t)

        return Tensor(t, (self,), backward)

    def sum(self):
        """Add up all elements."""

        def backward(dy):
            self.grad += np.broadcast_to(dy, self.data.shape)

        return Tensor(self.data.sum(), (self,), backward)

    def backward(self):
        """Compute the gradient of this number with respect to everything that it came from."""
        self.grad = np.ones_like(self.data)
        for tensor in reversed(in_order(self)):
            if tensor.pass_back:
                tensor.pass_back(tensor.grad)


def in_order(last):
    """List a tensor and all its ancestors, every parent before its children."""
    order, seen = [], set()

    def visit(tensor):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            for parent in tensor.parents:
                visit(parent)
            order.append(tensor)

    visit(last)
    return order


def unbroadcast(dy, shape):
    """Add up a gradient over the axes along which an array of this shape was repeated."""
    dy = dy.sum(axis=tuple(range(dy.ndim - len(shape))))
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and dy.shape[i] > 1)
    return dy.sum(axis=repeated, keepdims=True)
