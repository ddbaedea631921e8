"""Kernel gym: graded exercises that are checked like the project's own kernels, explained and timed.

An exercise is a folder of data in `exercises/`: statement, stub, solution, hints, cases, and typical mistakes.
"""
