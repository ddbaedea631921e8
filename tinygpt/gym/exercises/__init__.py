"""The exercises, one folder each.

    exercise.toml   number, level, title, function, hints; for a kernel its op, the sizes to time and the rung to beat
    statement.md    the task; README.md of the learner's project
    stub.py         the file that the learner completes; stub.pyx for an exercise in Cython
    solution.py     the reference solution, or solution.pyx
    trials.py       ``trials()``: the cases in order of difficulty; ``MISTAKES``: typical wrong solutions, whose
                    docstrings say the likely reason and, after a blank line, a hint; ``adapt`` and ``train_ops`` for
                    a function whose signature is simpler than that of its op

A new exercise needs nothing else: the list, the checks and the tests find it by its folder.
"""
